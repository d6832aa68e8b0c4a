"""The picture of several classes in docs/with-the-image.md: image, base model's classes, refined ones, and the label.

    python bench/class_picture.py --root LOGITS --pairs city_blocks_classes_c … -o PNG
        --masks 'WORK/masks/{}-60-0-cpu-images'

A row is a pair whose test split was refined by weights that learned from its own maps (`bench/time_to_gain.py --task
multiclass` leaves such masks). Of its test maps, the one whose mIoU changes by the median is shown: its middle square.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from image_data import IGNORE, pairs
from numpy.typing import NDArray
from picture import NOTHING, draw, save_rows
from PIL import Image

from prn_cli.metrics.classes import count_classes, mean_iou
from prn_cli.rasters import Reading, open_map

COLOURS = np.array(
    [(60, 60, 60), (213, 94, 0), (0, 114, 178), (240, 228, 66), (0, 158, 115), (204, 121, 167), (86, 180, 233)],
    np.uint8,
)
"""Okabe and Ito 2008: distinct for colour-blind eyes, too."""

Pixels = NDArray[np.uint8]


class Seen(NamedTuple):
    """A map: its image, and its classes by the base model, refined and by the label; mIoU of the first two."""

    image: Pixels
    classes: tuple[Pixels, Pixels, Pixels]
    scores: tuple[float, float]


def read(logits: Path, masks: Path) -> Seen:
    """A test map, and its mask."""
    test = logits.parent.parent
    with open_map("class scores", logits, Reading()) as scores:
        base = np.asarray(scores.logits()).argmax(axis=0).astype(np.uint8)
    label, refined, image = (
        np.asarray(Image.open(next(folder.glob(f"{logits.stem}.*"))))
        for folder in (test / "labels", masks, test / "images")
    )
    miou = tuple(float(mean_iou(count_classes(found, label))) for found in (base, refined))
    return Seen(image, (base, refined, label), miou)  # type: ignore[arg-type]


def coloured(classes: Pixels) -> Pixels:
    """Class numbers in colours."""
    colours = np.full((*classes.shape, 3), NOTHING, np.uint8)
    known = classes < len(COLOURS)
    colours[known] = COLOURS[classes[known]]
    colours[classes == IGNORE] = NOTHING
    return colours


def middle(pixels: Pixels) -> Pixels:
    """The middle square."""
    side = min(pixels.shape[:2])
    y, x = ((size - side) // 2 for size in pixels.shape[:2])
    return pixels[y : y + side, x : x + side]


def panels(folder: Path, masks: Path) -> list[tuple[str, str, Pixels]]:
    """Four panels of a test map."""
    maps = [read(path, masks) for path in sorted((folder / "test" / "logits").iterdir())]
    by_change = sorted(maps, key=lambda m: m.scores[1] - m.scores[0])
    image, (base, refined, label), (before, after) = by_change[len(maps) // 2]
    rows = [(folder.name, "image", image if image.ndim == 3 else np.stack([image] * 3, axis=-1))]
    rows.append(("base model", f"mIoU {before:.3f} of the map", coloured(base)))
    rows.append(("refined", f"mIoU {after:.3f}", coloured(refined)))
    rows.append(("label", "grey: ignored", coloured(label)))
    return [(title, text, middle(pixels[..., :3])) for title, text, pixels in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--pairs", nargs="+", required=True)
    parser.add_argument("--masks", required=True, metavar="DIR/{}", help="of a pair, {} its name")
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    found = pairs(given.root)
    rows = [draw(panels(found[pair], Path(given.masks.format(pair))), side=256) for pair in given.pairs]
    save_rows(rows, given.out)


if __name__ == "__main__":
    main()
