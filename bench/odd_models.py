"""Base models of other kinds for `bench/first_call_odd.py`: other losses, and models on images of another set.

    python bench/odd_models.py --states DIR --out DIR [--steps 400]

Trains small U-Nets as `../shared/tools/make_base_models.py` does, by Dice, focal and squared loss, and runs models of
one set, whose states lie in DIR, on the images of another. Writes the logits of 24 images a split at most, in the form
of that script, as OUT/<set>_<dice|focal|squared>/ and OUT/<set>_by-<model>/.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from common import DATA
from PIL import Image
from torch import Tensor

from prn_cli.thresholding.sampling import sample_maps

sys.path.insert(0, str(DATA.parent / "tools"))
from make_base_models import KINDS, UNet, pairs

TRAINED_ON = ("cracks", "lungs")
ELSEWHERE = (
    ("retina_d", "cracks"),
    ("cracks_a", "retina"),
    ("membrane_a", "cracks"),
    ("vegas_roads_a", "city_roads"),
    ("camvid_building_a", "city_blocks"),
    ("plants_a", "pets"),
    ("pets_b", "plants"),
    ("flood_a", "camvid_tree"),
    ("lungs_a", "flood"),
    ("clothing_person_a", "pets"),
    ("magnetic_tile_d", "membrane"),
)
MAPS, CROP, BATCH = 24, 160, 6


def dice(z: Tensor, y: Tensor, v: Tensor) -> Tensor:
    """One minus the Dice of the batch."""
    p = z.sigmoid() * v
    return 1 - (2 * (p * y).sum() + 1) / (p.sum() + (y * v).sum() + 1)


def focal(z: Tensor, y: Tensor, v: Tensor) -> Tensor:
    """Focal loss (Lin et al. 2017), power 2."""
    wrong = torch.where(y > 0.5, 1 - z.sigmoid(), z.sigmoid())
    plain = functional.binary_cross_entropy_with_logits(z, y, reduction="none")
    return (wrong**2 * plain * v).sum() / v.sum().clamp_min(1)


def squared(z: Tensor, y: Tensor, v: Tensor) -> Tensor:
    """The Brier score."""
    return ((z.sigmoid() - y) ** 2 * v).sum() / v.sum().clamp_min(1)


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"dice": dice, "focal": focal, "squared": squared}


def ordered(name: str) -> tuple[list, list, list]:
    """Images of a set that base models learn from, those of `train`, those of `test`."""
    data = sorted(pairs(name), key=lambda p: zlib.crc32(p[0].stem.encode()))
    learn, rest = data[: int(len(data) * 0.45)], data[int(len(data) * 0.45) :]
    cut = int(len(rest) * 6 / 11)
    return learn, rest[:cut], rest[cut:]


def train(learn: list, loss: Callable[[Tensor, Tensor, Tensor], Tensor], steps: int) -> UNet:
    """A U-Net of kind a, by another loss."""
    torch.manual_seed(0)
    random, network = np.random.default_rng(0), UNet(12)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-3)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 + np.cos(np.pi * step / steps)) + 1e-5
        planes = []
        for _ in range(BATCH):
            _, image, label, ignore = learn[random.integers(len(learn))]
            whole = np.dstack([image, label, ~ignore])
            short = [(0, max(CROP - side, 0)) for side in label.shape]
            whole = np.pad(whole, (*short, (0, 0)), "symmetric")
            y, x = (random.integers(side - CROP + 1) for side in whole.shape[:2])
            planes.append(np.rot90(whole[y : y + CROP, x : x + CROP], random.integers(4)).copy())
        batch = torch.from_numpy(np.stack(planes)).permute(0, 3, 1, 2).float()
        x = (batch[:, :3] / 127.5 - 1) * (1 + 0.2 * torch.randn(BATCH, 1, 1, 1)) + 0.1 * torch.randn(BATCH, 3, 1, 1)
        value = loss(network(x), batch[:, 3:4], batch[:, 4:])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return network.eval()


@torch.no_grad()
def write(network: UNet, name: str, folder: Path, stride: int = 1) -> None:
    """Logits and labels of a set's images."""
    for split, data in zip(("train", "test"), ordered(name)[1:], strict=True):
        chosen = sample_maps([path.stem for path, *_ in data], MAPS)
        for path, image, label, ignore in data:
            if path.stem not in chosen:
                continue
            height, width = label.shape
            x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
            side = 16 * stride
            x = functional.pad(x, (0, -width % side, 0, -height % side), mode="replicate")
            z = network(functional.avg_pool2d(x, stride) if stride > 1 else x)
            z = functional.interpolate(z, x.shape[-2:], mode="bilinear")[0, 0, :height, :width].numpy()
            for kind in ("logits", "labels"):
                (folder / split / kind).mkdir(parents=True, exist_ok=True)
            np.save(folder / split / "logits" / f"{path.stem}.npy", np.where(ignore, np.nan, z).astype(np.float16))
            Image.fromarray((label * 255).astype(np.uint8)).save(folder / split / "labels" / f"{path.stem}.png")


def load(states: Path, model: str) -> UNet:
    """A base model of the 83 pairs."""
    name, kind = model.rsplit("_", 1)
    network = UNet(KINDS[kind]["c"])
    for file in sorted(states.glob("*.npz")):
        with np.load(file) as arrays:
            state = {key.rsplit("|", 1)[1]: arrays[key] for key in arrays.files if key.startswith(f"{name}|{kind}|")}
        if state:
            tensors = {key: torch.from_numpy(value).float() for key, value in state.items()}
            network.load_state_dict(tensors, strict=False)
            return network.eval()
    raise SystemExit(f"no states of {model} in {states}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=Path, required=True, help="folder of the .npz files of base models")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for model, name in ELSEWHERE:
        folder = arguments.out / f"{name}_by-{model}"
        if not folder.exists():
            print(folder.name, file=sys.stderr, flush=True)
            write(load(arguments.states, model), name, folder, KINDS[model[-1]]["stride"])
    for name in TRAINED_ON:
        for kind, loss in LOSSES.items():
            folder = arguments.out / f"{name}_{kind}"
            if not folder.exists():
                print(folder.name, file=sys.stderr, flush=True)
                write(train(ordered(name)[0], loss, arguments.steps), name, folder)


if __name__ == "__main__":
    main()
