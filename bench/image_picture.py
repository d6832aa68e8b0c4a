"""Pictures of docs/with-the-image.md: image, base mask, refined mask, and what was won and lost, at full resolution.

    python bench/image_picture.py --root LOGITS --pairs retina_e cracks_c ... --work DIR -o docs/with-the-image.png
    python bench/image_picture.py --root LOGITS --pairs pets_d ... --work DIR --runs DIR/{} -o docs/image-trained.png

A row is a pair whose set the shipped weights have not learned from. Its test split is refined as `prn refine --images
--weights image` does it, with the threshold, the views and the brake. Of all its maps, the crop is shown in which most
pixels near an edge of the label differ from the base model cut at the same threshold: what the image changes, not what
the threshold does. With `--runs`, by weights that were trained on the pair's own maps: of the map whose IoU changes by
the median, the crop in which most pixels change against the base model cut at 0.5.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from common import prn
from image_data import IGNORE, MAY_SHIP, pairs, read_image, read_logits, read_mask, set_of
from numpy.typing import NDArray
from picture import NOTHING, compared, draw, save_rows
from scipy import ndimage

from prn_cli.metrics.regions import count_regions
from prn_cli.rasters import Reading, open_map
from prn_cli.refinement.rows import cut
from prn_cli.report.crops import busiest

WON, LOST, SAME = (0, 114, 178), (213, 94, 0), (235, 235, 235)
NEAR = 6  # px


def near_edges(label: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels within `NEAR` of an edge."""
    edges = ndimage.morphological_gradient((label == 1).astype(np.uint8), size=3) > 0
    return ndimage.maximum_filter(edges, size=2 * NEAR + 1)


class Looked(NamedTuple):
    """The busiest crop of a map: how many pixels change there, planes, and the change of the map's IoU."""

    changed: int
    planes: tuple[NDArray[np.uint8], ...]
    gain: float


def looked_at(test: Path, masks: Path, threshold: float, *, edges: bool) -> Iterator[Looked]:
    """Each map of a test split in which a pixel changes."""
    for path in sorted((test / "logits").iterdir()):
        logits, label = read_logits(path), read_mask(test / "labels" / f"{path.stem}.png")
        with open_map("prediction", next(masks.glob(f"{path.stem}.*")), Reading(kind="mask")) as opened:
            after = (opened.probabilities() > 0.5).astype(np.uint8)
        base, image = cut(logits, threshold), read_image(next((test / "images").glob(f"{path.stem}.*")))
        label[np.isnan(logits)] = IGNORE
        changed = (base != after) & (label != IGNORE) & (near_edges(label) if edges else True)
        planes = image, label, base, after
        whole = [count_regions(np.where(label == IGNORE, IGNORE, mask), label).iou() for mask in (base, after)]
        crops = busiest(changed.astype(np.int64), *changed.shape, lambda w, c=changed: c[w.slices])
        found = [
            Looked(changed[w.slices].sum(), tuple(p[w.slices] for p in planes), whole[1] - whole[0]) for w in crops
        ]
        if found:
            yield max(found, key=lambda each: each.changed)


def panels(folder: Path, work: Path, weights: str) -> list[tuple[str, str, NDArray[np.uint8]]]:
    """Four panels of a crop of a test split."""
    test, masks, shipped = folder / "test", work / folder.name, weights == "image"
    flags = ("--images", test / "images", "--weights", weights, "-j", "1", "-q")
    found = prn("refine", test / "logits", "-o", masks, *flags)
    threshold = found[0]["own_threshold"] if shipped else 0.5
    maps = list(looked_at(test, masks, threshold, edges=shipped))
    if not maps:
        raise SystemExit(f"{folder.name}: its masks are left as they are")
    by_gain = sorted(maps, key=lambda each: each.gain)
    best = max(maps, key=lambda each: each.changed) if shipped else by_gain[len(by_gain) // 2]
    image, label, base, after = best.planes
    right, was, known = after == label, base == label, label != IGNORE
    won, lost = right & ~was & known, ~right & was & known
    change = np.full((*label.shape, 3), SAME, np.uint8)
    change[won], change[lost], change[~known] = WON, LOST, NOTHING
    unions = [count_regions(np.where(label == IGNORE, IGNORE, mask), label).iou() for mask in (base, after)]
    return [
        (folder.name, "image", image),
        (f"base model cut at {threshold:.2g}", f"IoU {unions[0]:.3f} of the crop", compared(base, label)),
        ("refined", f"IoU {unions[1]:.3f}", compared(after, label)),
        ("blue won, orange lost", f"{won.sum()} and {lost.sum()} px", change),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--pairs", nargs="+", required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder of masks")
    parser.add_argument("--runs", default="image", metavar="DIR/{}", help="weights of a pair, {} its name")
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    learned = [pair for pair in given.pairs if set_of(pair) in MAY_SHIP and given.runs == "image"]
    if learned:
        raise SystemExit(f"the shipped weights have learned from {', '.join(learned)}")
    found = pairs(given.root)
    rows = [draw(panels(found[pair], given.work, given.runs.format(pair)), side=256) for pair in given.pairs]
    save_rows(rows, given.out)


if __name__ == "__main__":
    main()
