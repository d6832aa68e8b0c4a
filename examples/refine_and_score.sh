#!/usr/bin/env bash
# Refine three sets of logit maps with the shipped weights, and score the masks beside the base model's.
# usage: refine_and_score.sh [OUTPUT_FOLDER], by default prn-demo here
set -euo pipefail
examples=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
out=${1:-prn-demo}

# Folder in, folder out; `prn score --json` is made for pipes.
for name in buildings nuclei buildings_geotiff; do
    prn refine "$examples/$name/logits" -o "$out/$name/masks" --quiet
    prn score "$out/$name/masks" --labels "$examples/$name/labels" --baseline "$examples/$name/logits" --json |
        python3 "$examples/print_iou.py" "$name"
done

# The same in one pipe: paths in on stdin, JSON lines out, one map each. Here the tiles of scene 4 alone, with their
# bias maps. What is in the folder already, and was made from the same input in the same way, would be kept.
find "$examples/buildings/logits" -name 'tile4_*.tif' -print0 | sort -z |
    prn refine - --null -o "$out/scene4/masks" --bias "$out/scene4/bias" --json --quiet |
    python3 -c 'import json, sys; [print(json.loads(line)["mask"]) for line in sys.stdin]' |
    prn score - --labels "$examples/buildings/labels" --baseline "$examples/buildings/logits" --json --quiet |
    python3 "$examples/print_iou.py" "buildings, scene 4"
echo "masks are in $out" >&2
