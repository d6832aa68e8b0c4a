#!/usr/bin/env bash
# No masks: tags per tile and a classifier's activation maps. Make masks of them, learn from these, refine new tiles.
# usage: weak.sh [OUTPUT_FOLDER]
set -euo pipefail
examples=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
out=${1:-prn-demo/weak}
mkdir -p "$out" && out=$(cd -- "$out" && pwd)
classes=(--task multiclass --classes land,building,road,vegetation,water)
tagged=$examples/weak/tagged new=$examples/weak/new

# 20 tagged tiles: masks to learn from, and scores to refine.
prn pseudolabel --weak "$tagged/activations" --tags "$tagged/tags.csv" --images "$tagged/images" \
    "${classes[@]}" -o "$out/tagged" --quiet
prn train "$out/tagged/scores" --labels "$out/tagged/labels" --network fast --images "$tagged/images" --contrast fbr \
    "${classes[@]}" -o "$out/run" --folds 1 --crop 64 --batch 4 --epochs 2 --steps 10 --overwrite --quiet >"$out/training.txt"

# 10 new tiles, without tags. Their true masks are used to score the result, and only for that.
prn pseudolabel --weak "$new/activations" --images "$new/images" --scale-of "$out/tagged" \
    "${classes[@]}" -o "$out/new" --quiet >"$out/new.txt"
prn refine "$out/new/scores" -o "$out/masks" --weights "$out/run" --images "$new/images" "${classes[@]}" --quiet
prn score "$out/masks" --labels "$new/labels" --baseline "$out/new/scores" "${classes[@]}"
echo "weights are in $out/run, masks in $out/masks" >&2
