"""Read the JSON of `prn score --baseline` from stdin and print one line: IoU before and after. Needs Python alone."""

import json
import sys

scores = json.load(sys.stdin)
iou = scores["pooled"]["iou"]
change = iou["difference"]
interval = "one image, no interval"
if change["low"] is not None:
    interval = f"95 % interval {100 * change['low']:+.1f} to {100 * change['high']:+.1f}"
print(
    f"{sys.argv[1]:20} {scores['images']:3d} maps   pooled IoU {iou['baseline']['value']:.4f} before, "
    f"{iou['value']:.4f} after: {100 * change['value']:+.1f} points ({interval})",
    flush=True,
)
