#!/usr/bin/env bash
# The usual case: a folder of logit maps, a few of them labelled. Learn from these, refine the others.
# usage: train_and_refine.sh [OUTPUT_FOLDER], by default prn-demo here
set -euo pipefail
examples=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
out=${1:-prn-demo}
mkdir -p "$out" && out=$(cd -- "$out" && pwd)

# Labelled is every second tile, by name: 9 of 18. The labels of the other 9 are used to score them, and only for that.
mkdir -p "$out/few/logits" "$out/few/labels" "$out/rest/logits"
number=0
for logits in "$examples"/buildings/logits/*.tif; do
    if [ $((number % 2)) -eq 0 ]; then
        cp "$logits" "$out/few/logits/"
        cp "$examples/buildings/labels/$(basename "$logits" .tif).png" "$out/few/labels/"
    else
        cp "$logits" "$out/rest/logits/"
    fi
    number=$((number + 1))
done

cd "$out/few" # holds logits/ and labels/, so the commands need no more
# Each of the two scenes that the names show is held out in turn, to tell what to expect; then all nine are learned from.
prn train -o "$out/run" --epochs 4 --overwrite
prn refine "$out/rest/logits" -o "$out/masks" --weights "$out/run" --quiet
prn score "$out/masks" --labels "$examples/buildings/labels" --baseline "$out/rest/logits" --json |
    python3 "$examples/print_iou.py" "9 tiles never seen"
echo "weights are in $out/run, masks in $out/masks" >&2
