"""Read the JSON of `prn score --baseline` from stdin; print the IoU before and after in a line. Needs Python alone."""

import json
import sys


def points(value: float) -> str:
    """A change in percentage points; one that rounds to 0 has no minus."""
    return f"{round(100 * value, 1) + 0.0:+.1f}"


scores = json.load(sys.stdin)
iou = scores["pooled"]["iou"]
change = iou["difference"]
interval = "one image, no interval"
if change["low"] is not None:
    interval = f"95 % interval {points(change['low'])} to {points(change['high'])}"
threshold = ""
if "own" in iou:  # of the base model at prn's threshold, without a network
    threshold = f", threshold alone {points(iou['own']['value'] - iou['baseline']['value'])}"
print(
    f"{sys.argv[1]:20} {scores['images']:3d} maps   pooled IoU {iou['baseline']['value']:.4f} before, "
    f"{iou['value']:.4f} after: {points(change['value'])} points ({interval}){threshold}",
    flush=True,
)
