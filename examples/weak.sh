#!/usr/bin/env bash
# No masks: tags per tile and a classifier's activation maps. Make masks of them, learn from these, refine new tiles.
# usage: weak.sh [OUTPUT_FOLDER]
set -euo pipefail
examples=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
out=${1:-prn-demo/weak}
mkdir -p "$out" && out=$(cd -- "$out" && pwd)
classes=(--task multiclass --classes land,building,road,vegetation,water)
tagged=$examples/weak/tagged new=$examples/weak/new

# 20 tagged tiles: masks, and the scores that these were made of. The network sees the images alone, or it would copy them.
prn pseudolabel --weak "$tagged/activations" --tags "$tagged/tags.csv" --images "$tagged/images" \
    "${classes[@]}" -o "$out/tagged" --quiet
prn train "$out/tagged/scores" --labels "$out/tagged/labels" --images "$tagged/images" --hide-scores --contrast fbr \
    "${classes[@]}" -o "$out/run" --epochs 4 --steps 50 --overwrite --quiet >"$out/training.txt"

# 10 new tiles, without tags. Their true masks are used to score the result, and only for that.
prn pseudolabel --weak "$new/activations" --images "$new/images" --scale-of "$out/tagged" \
    "${classes[@]}" -o "$out/new" --quiet >"$out/new.txt"
prn refine "$out/new/scores" -o "$out/masks" --weights "$out/run" --images "$new/images" "${classes[@]}" --quiet
prn score "$out/masks" --labels "$new/labels" --baseline "$out/new/scores" "${classes[@]}"
echo "weights are in $out/run, masks in $out/masks" >&2
