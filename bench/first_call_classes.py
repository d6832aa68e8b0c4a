"""What the first call gains on maps of several classes: offsets of the classes, chosen together without labels.

    python bench/first_call_classes.py --logits DIR [DIR ...] --cache /tmp/first-call

Folders and cache are those of `bench/first_call.py`, and so is the fit, which has not seen the set. `dubai_multiclass`
is a model of five classes. Others are made of binary models of the same images: the class of a pixel is that of the
greatest logit, the rest has a logit of 0, and where labels overlap, the last one counts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from common import machine, markdown
from first_call import fitted, pairs, read
from numpy.typing import NDArray
from PIL import Image

from prn_cli.maps.classes import choose, one_versus_rest
from prn_cli.metrics.classes import SUMS, count_classes, mean_iou
from prn_cli.thresholding.calibration import Fit
from prn_cli.thresholding.decision import ClassSample, decide_class_set

MADE_OF = {
    "dubai_multiclass": ("dubai_multiclass",),
    "dubai building, road": ("dubai_building", "dubai_road"),
    "city_a blocks, roads": ("city_blocks_a", "city_roads_a"),
    **{
        f"camvid_{kind} building, road, tree": tuple(f"camvid_{of}_{kind}" for of in ("building", "road", "tree"))
        for kind in "abcde"
    },
}
PIXELS = 40_000


def maps(folders: list[Path]):
    """Logits `(C, h, w)`, each class against the rest, and class numbers `(h, w)` of a test split."""
    stems = set.intersection(*({path.stem for path in (folder / "logits").iterdir()} for folder in folders))
    for stem in sorted(stems):
        planes = [read(next((folder / "logits").glob(f"{stem}.*"))) for folder in folders]
        labels = [np.asarray(Image.open(folder / "labels" / f"{stem}.png")) for folder in folders]
        if len(folders) == 1:
            yield one_versus_rest(planes[0]), labels[0]
            continue
        number = np.zeros(labels[0].shape, np.uint8)
        for place, label in enumerate(labels, 1):
            number[label > 127] = place
        yield one_versus_rest(np.stack([np.zeros_like(planes[0]), *planes])), number


def offsets(folders: list[Path], fit: Fit) -> NDArray[np.float64]:
    """As `prn refine` chooses them."""
    most = PIXELS // len(list((folders[0] / "logits").iterdir()))
    return decide_class_set([ClassSample.of(logits, most) for logits, _ in maps(folders)], fit=fit).offsets


def scores(folders: list[Path], taken: NDArray[np.float64]) -> list[float]:
    """mIoU of the classes as they are, and with the offsets taken."""
    counts = np.zeros((2, SUMS))
    for logits, label in maps(folders):
        for total, shift in zip(counts, (0 * taken, taken), strict=True):
            total += count_classes(choose(logits - shift[:, None, None].astype(np.float32)), label)
    return [float(mean_iou(total)) for total in counts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logits", type=Path, nargs="+", required=True)
    parser.add_argument("--cache", type=Path, required=True)
    arguments = parser.parse_args()
    places = {folder.name: folder / "test" for parent in arguments.logits for folder in parent.iterdir()}
    every = list(pairs(arguments.logits, arguments.cache))
    rows, gains = [], []
    for name, parts in MADE_OF.items():
        folders = [places[part] for part in parts]
        taken = offsets(folders, fitted([pair for pair in every if pair.set != parts[0].split("_")[0]]))
        before, after = scores(folders, taken)
        gains.append(100 * (after - before))
        rows.append([name, f"{before:.4f}", f"{gains[-1]:+.2f}", " ".join(f"{0 - offset:+.2g}" for offset in taken)])
    print(markdown(["classes", "mIoU before", "change, points", "added to the logits of each class"], rows))
    print(f"\nMean {np.mean(gains):+.2f}, worst {min(gains):+.2f} points; {machine()}.")


if __name__ == "__main__":
    main()
