"""The picture of docs/with-the-image.md: image, base mask, refined mask, and what was won and lost, at full resolution.

    python bench/image_picture.py --root LOGITS --row RUN PAIR [--row RUN PAIR ...] -o docs/with-the-image.png

A row is a run that has not learned from the set of the pair, and of its test split the window whose mask changes most.
Strength 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from image_data import IGNORE, pairs, read_image, read_logits, read_mask
from numpy.typing import NDArray
from picture import NOTHING, compared, draw
from PIL import Image
from scipy import ndimage

from prn_cli.methods import load_refiner
from prn_cli.methods.weights import find_weights
from prn_cli.refinement.rows import refine_map

WON, LOST, SAME = (0, 114, 178), (213, 94, 0), (235, 235, 235)
WINDOW, MAPS = 150, 6


def panels(run: str, folder: Path) -> list[tuple[str, str, NDArray[np.uint8]]]:
    """Four panels of the window that changes most, of some maps of a test split."""
    refiner = load_refiner(find_weights(run), device="cpu")
    images = sorted((folder / "test" / "images").iterdir())
    best: tuple[float, tuple[NDArray[np.generic], ...]] | None = None
    for path in images[:: max(len(images) // MAPS, 1)]:
        logits = read_logits(next((folder / "test" / "logits").glob(f"{path.stem}.*")))
        image = read_image(path)
        label = read_mask(folder / "test" / "labels" / f"{path.stem}.png")
        label[np.isnan(logits)] = IGNORE
        refined = refine_map(logits, refiner, image=image.transpose(2, 0, 1).astype(np.float32), strength=1.0)
        base, after = ((scores > 0).astype(np.uint8) for scores in (logits, refined))
        changed = ndimage.uniform_filter((base != after).astype(np.float32), WINDOW, mode="constant")
        y, x = np.unravel_index(changed.argmax(), changed.shape)
        top, left = (
            int(np.clip(at - WINDOW // 2, 0, max(n - WINDOW, 0)))
            for at, n in ((y, label.shape[0]), (x, label.shape[1]))
        )
        cut = np.s_[top : top + WINDOW, left : left + WINDOW]
        if best is None or changed.max() > best[0]:
            best = float(changed.max()), tuple(plane[cut] for plane in (image, label, base, after))
    assert best is not None
    image, label, base, after = best[1]
    right, was = after == label, base == label
    change = np.full((*label.shape, 3), SAME, np.uint8)
    change[right & ~was], change[~right & was], change[label == IGNORE] = WON, LOST, NOTHING
    union = [
        ((mask == 1) & (label == 1)).sum() / max((((mask == 1) | (label == 1)) & (label != IGNORE)).sum(), 1)
        for mask in (base, after)
    ]
    return [
        (folder.name, "image", image),
        ("base model", f"IoU {union[0]:.2f}", compared(base, label)),
        ("refined", f"IoU {union[1]:.2f}", compared(after, label)),
        ("blue won, orange lost", f"{(right & ~was).sum()} and {(~right & was).sum()} px", change),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--row", nargs=2, action="append", required=True, metavar=("RUN", "PAIR"))
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    found = pairs(given.root)
    rows = [draw(panels(run, found[pair])) for run, pair in given.row]
    picture = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), "white")
    for number, row in enumerate(rows):
        picture.paste(row, (0, sum(above.height for above in rows[:number])))
    picture.quantize(96).save(given.out, optimize=True)


if __name__ == "__main__":
    main()
