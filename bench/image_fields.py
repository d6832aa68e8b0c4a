"""What `image` adds to the logits of sets that it has not learned from, and in other views of the same windows.

    python bench/image_fields.py --root LOGITS --first-call CACHE --weights ship.pt --out FIELDS [--sets retina ...]

For each pair of a set and a base model, some windows of its training split and of its test split are refined, each as
it is, mirrored, turned and at half its scale; `bench/image.py` judges what was written, and needs no network. The
network sees logits about the threshold that the first call chooses for the split without labels, by a regression that
was fitted to the other sets; CACHE is what `bench/first_call.py` keeps.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import first_call
import numpy as np
from image_data import SETS, as_planes, pairs, range_of, read_image, read_logits, read_mask, set_of
from numpy.typing import NDArray

from prn_cli.maps.probabilities import logit
from prn_cli.maps.tiles import round_up
from prn_cli.methods.image.brake import fields_of_views
from prn_cli.methods.image.refiner import stretched
from prn_cli.methods.refiner import FloatMap, Windows
from prn_cli.thresholding.calibration import expect
from prn_cli.thresholding.decision import decide
from prn_cli.thresholding.sampling import sample_maps, sample_windows

MAPS = {"train": 8, "test": 8}
SIDE = 320


@dataclass(frozen=True)
class Window:
    """A window of a pair, and what the network adds to it.

    Attributes:
        logits: `(h, w)` float32, less the logit of the first call's threshold; NaN invalid.
        label: `(h, w)` uint8: 0, 1, 255.
        image: `(3, h, w)` float32, as in the file.
        fields: `(4, h, w)` float32: of the window, and of its views, see `fields_of_views`.
    """

    logits: FloatMap
    label: NDArray[np.uint8]
    image: FloatMap
    fields: FloatMap


def load(path: Path) -> tuple[float, list[Window]]:
    """The threshold of the first call, and the windows of a pair's split."""
    kept = np.load(path)
    kinds = ("logits", "label", "image", "fields")
    count = sum(name.startswith("logits") for name in kept.files)
    windows = []
    for number in range(count):
        logits, label, image, fields = (kept[f"{kind}{number}"] for kind in kinds)
        windows.append(Window(logits, label, image.astype(np.float32), fields.astype(np.float32)))
    return float(kept["threshold"]), windows


class Network:
    """A trained network, and the features of the image at hand, which all base models share."""

    def __init__(self, weights: Path) -> None:
        import torch

        from prn_cli.methods.image.network import ImageNetwork

        torch.set_num_threads(1)
        self.torch, self.network = torch, ImageNetwork().eval()
        state = torch.load(weights, map_location="cpu", weights_only=False)
        self.network.load_state_dict(state["network"], strict=False)  # without a range of the image
        self.learned, self.seen = state["sets"], {}

    def field(self, windows: Windows) -> FloatMap:
        """What is to be added to the logits; images are stretched before."""
        torch, key = self.torch, (windows.view, windows.logits.shape)
        with torch.no_grad():
            image = torch.from_numpy(np.array(windows.image))
            if key not in self.seen:
                self.seen[key] = self.network.encoder(torch.nan_to_num(image))
            logits = torch.from_numpy(np.array(windows.logits))[:, None]
            return self.network.bias(logits, image, self.seen[key])[:, 0].numpy()


def thresholds(folders: list[Path], cache: Path) -> dict[tuple[str, str], float]:
    """The first call's threshold of each pair and split, without labels, by a fit to the other sets."""
    every = list(first_call.pairs(folders, cache))
    fits, found = first_call.fits_without(every), {}
    for pair in every:
        for split in ("train", "test"):
            statistics = getattr(pair, split).statistics()
            found[pair.name, split] = decide(statistics.counts, expect(statistics, fits[pair.set])).threshold
    return found


def windows_of(
    network: Network, split: str, members: Mapping[str, Path], cuts: Mapping[str, float]
) -> Iterator[tuple[str, Window]]:
    """Windows of pairs that differ in the base model alone, each with the pair's name."""
    first = next(iter(members.values())) / split
    images = {path.stem: path for path in (first / "images").iterdir()}
    limits = range_of(read_image(images[stem]) for stem in sample_maps(images, most=24))
    for stem in sample_maps(images, most=MAPS[split]):
        network.seen.clear()
        image = as_planes(read_image(images[stem]))
        label = read_mask(first / "labels" / f"{stem}.png")
        window = sample_windows(stem, *label.shape, most=1)[0]
        cut = np.s_[window.y : window.y + min(SIDE, window.height), window.x : window.x + min(SIDE, window.width)]
        height, width = label[cut].shape
        pad = ((0, round_up(height, 16) - height), (0, round_up(width, 16) - width))
        seen = np.pad(stretched(image[:, *cut], limits), ((0, 0), *pad), constant_values=np.nan)[None]
        for name, folder in members.items():
            logits = read_logits(next((folder / split / "logits").glob(f"{stem}.*")))[cut] - logit(
                np.float32(cuts[name])
            )
            windows = Windows(np.pad(logits, pad, constant_values=np.nan)[None], seen)
            fields = np.concatenate(fields_of_views(windows, network.field))[:, :height, :width]
            yield name, Window(logits, label[cut], image[:, *cut], fields)


def write(root: Path, weights: Path, sets: Sequence[str], out: Path, found: Mapping[tuple[str, str], float]) -> None:
    network = Network(weights)
    out.mkdir(parents=True, exist_ok=True)
    groups: dict[str, dict[str, Path]] = defaultdict(dict)
    for name, folder in pairs(root, tuple(sets)).items():
        if set_of(name) in network.learned:
            raise SystemExit(f"{weights} has learned from {set_of(name)}")
        groups[name[:-2] if (folder.parent / f"{name[:-2]}_b").exists() else name][name] = folder
    for group, members in groups.items():
        if all((out / f"{name}-test.npz").exists() for name in members):
            continue
        began = time.monotonic()
        for split in MAPS:
            cuts = {name: found[name, split] for name in members}
            kept: dict[str, dict[str, NDArray[np.generic]]] = defaultdict(dict)
            for name, window in windows_of(network, split, members, cuts):
                mine = kept[name]
                number = len(mine) // 4
                mine |= {f"logits{number}": window.logits, f"label{number}": window.label}
                mine |= {f"image{number}": window.image.astype(np.uint8)}
                mine |= {f"fields{number}": window.fields.astype(np.float16)}
            for name, arrays in kept.items():
                np.savez(out / f"{name}-{split}.npz", threshold=np.float64(cuts[name]), **arrays)
        print(f"{group}: {time.monotonic() - began:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of pairs")
    parser.add_argument("--first-call", type=Path, required=True, help="what bench/first_call.py --cache has kept")
    parser.add_argument("--weights", type=Path, required=True, help="that bench/train_image.py train has written")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    given = parser.parse_args()
    folders = [given.root, given.root / "shared", given.root / "published"]
    write(given.root, given.weights, given.sets, given.out, thresholds(folders, given.first_call))


if __name__ == "__main__":
    main()
