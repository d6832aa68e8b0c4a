"""The README's picture, from an example: logits, label, base mask, bias map, refined mask.

    python bench/picture.py [-o docs/picture.png] [--weights fast] [--map buildings/logits/tile4_part001.tif]

Needs the base install alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from prn_cli.methods import load_refiner
from prn_cli.methods.weights import find_weights
from prn_cli.metrics.regions import count_regions
from prn_cli.rasters import Reading, open_map, read_label
from prn_cli.refinement.rows import cut, refine_map

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

SIDE = 300
GAP = 12
CAPTION = 44
INK = (40, 40, 40)
NOTHING = (225, 225, 225)
# Blue below zero and orange above: distinct for colour-blind eyes too.
LOW, MIDDLE, HIGH = (33, 102, 172), (247, 247, 247), (201, 91, 12)
RIGHT, SPURIOUS, MISSED, EMPTY = (55, 55, 55), (230, 120, 30), (60, 130, 200), (255, 255, 255)

Pixels = NDArray[np.uint8]


def diverging(values: NDArray[np.float32], limit: float) -> Pixels:
    """(H, W) numbers to (H, W, 3) colours: `LOW` at -limit, `MIDDLE` at 0, `HIGH` at limit, grey where NaN."""
    share = np.clip(values / limit, -1, 1)[..., None]
    middle = np.array(MIDDLE, np.float32)
    ends = np.where(share < 0, np.array(LOW, np.float32), np.array(HIGH, np.float32))
    colours = middle + np.abs(share) * (ends - middle)
    colours[np.isnan(values)] = NOTHING
    return colours.round().astype(np.uint8)


def compared(mask: NDArray[np.uint8], label: NDArray[np.uint8]) -> Pixels:
    """A mask in colours: right, spurious and missed foreground."""
    colours = np.full((*mask.shape, 3), EMPTY, np.uint8)
    colours[(mask == 1) & (label == 1)] = RIGHT
    colours[(mask == 1) & (label == 0)] = SPURIOUS
    colours[(mask == 0) & (label == 1)] = MISSED
    colours[mask == 255] = NOTHING
    return colours


def draw(panels: Sequence[tuple[str, str, Pixels]], side: int = SIDE) -> Image.Image:
    """Panels side by side, each with two lines below it."""
    picture = Image.new("RGB", (len(panels) * (side + GAP) + GAP, side + CAPTION + 2 * GAP), "white")
    pen = ImageDraw.Draw(picture)
    large, small = ImageFont.load_default(17), ImageFont.load_default(14)
    for number, (title, text, pixels) in enumerate(panels):
        left = GAP + number * (side + GAP)
        picture.paste(Image.fromarray(pixels).resize((side, side), Image.Resampling.BOX), (left, GAP))
        pen.rectangle((left - 1, GAP - 1, left + side, GAP + side), outline=(190, 190, 190))
        pen.text((left, GAP + side + 6), title, fill=INK, font=large)
        pen.text((left, GAP + side + 27), text, fill=INK, font=small)
    return picture


def save_rows(rows: Sequence[Image.Image], path: Path) -> None:
    """Rows of panels, one below the other."""
    picture = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), "white")
    for number, row in enumerate(rows):
        picture.paste(row, (0, sum(above.height for above in rows[:number])))
    picture.quantize(224).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=EXAMPLES.parent / "docs" / "picture.png")
    parser.add_argument("--weights", default="fast")
    parser.add_argument("--map", type=Path, default=Path("buildings/logits/tile4_part001.tif"))
    arguments = parser.parse_args()

    path = EXAMPLES / arguments.map
    with open_map("scores", path, Reading(kind="logits")) as scores:
        logits = scores.logits()
    label = read_label(next((path.parent.parent / "labels").glob(f"{path.stem}.*")))
    refiner = load_refiner(find_weights(arguments.weights), device="cpu")
    refined = refine_map(logits, refiner)
    before, after = cut(logits, refiner.threshold), cut(refined, refiner.threshold)
    bias = refined - logits
    limit = float(np.nanquantile(np.abs(bias), 0.99)) or 1.0

    truth = np.full((*label.shape, 3), EMPTY, np.uint8)
    truth[label == 1] = RIGHT
    truth[label == 255] = NOTHING
    draw(
        [
            ("Logits of a base model", "blue: background, orange: foreground", diverging(logits, 6.0)),
            ("Label", "what it should have found", truth),
            (
                f"Its mask: IoU {count_regions(before, label).iou():.3f}",
                "blue: missed, orange: spurious",
                compared(before, label),
            ),
            ("Bias map that prn adds", f"orange: more, blue: less (±{limit:.1f})", diverging(bias, limit)),
            (
                f"Refined mask: IoU {count_regions(after, label).iou():.3f}",
                "blue: missed, orange: spurious",
                compared(after, label),
            ),
        ]
    ).quantize(128).save(arguments.out, optimize=True)
    print(arguments.out)


if __name__ == "__main__":
    main()
