#!/usr/bin/env bash
# How much better could these masks get, if each patch had its own threshold? Asked before anything is trained.
# usage: headroom.sh [OUTPUT_FOLDER], by default prn-demo here
set -euo pipefail
examples=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
out=${1:-prn-demo}

# For each set: IoU at 0.5, at the best single threshold, and the oracle at this patch size.
for name in buildings nuclei buildings_geotiff; do
    echo "== $name"
    prn pseudolabel "$examples/$name/logits" --labels "$examples/$name/labels" --patch 64 -o "$out/$name"
done

# Smaller patches leave more room, and more noise.
for patch in 32 128; do
    echo "== buildings, patches of $patch px"
    prn pseudolabel "$examples/buildings/logits" --labels "$examples/buildings/labels" --patch "$patch" -o "$out/buildings_$patch"
done
echo "pseudo-labels and threshold maps are in $out" >&2
