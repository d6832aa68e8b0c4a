"""Base models of several classes, for `bench/without_labels_classes.py`.

    python bench/class_models.py --out DIR [--data DIR] [--set camvid ...] [--kind a ...] [--steps 800]

Trains the small U-Nets of `../shared/tools/make_base_models.py` with a softmax and cross-entropy, on the classes of
`bench/weak.py`. 45 % of the images are learned from, 30 % are `train`, 25 % `test`, drawn by name. Writes
OUT/<set>_classes_<kind>/{train,test}/{logits/*.npy (C, h, w) float16, labels/*.png, images/*}. Kinds: a at full
resolution, c at a quarter of it, e with a quarter of the steps.
"""

from __future__ import annotations

import argparse
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import DATA
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from weak import SETS, numbers_of

from prn_cli.maps.pixels import IGNORE
from prn_cli.metrics.classes import count_classes, mean_iou

CROP, BATCH = 160, 6


def images_of(name: str, data: Path) -> list[tuple[Path, NDArray[np.uint8], NDArray[np.uint8]]]:
    """Path, image and class numbers of every image of a set, in the order of a hash of their names."""
    made, found = SETS[name], []
    numbers = numbers_of(made)
    for path in sorted((data / made.folder / "images").iterdir(), key=lambda path: zlib.crc32(path.stem.encode())):
        label = np.asarray(Image.open(data / made.folder / "labels" / f"{path.stem}.png"))
        found.append((path, np.asarray(Image.open(path).convert("RGB")), numbers[label]))
    return found


def make(name: str, kind: str, out: Path, data: Path, steps: int) -> None:
    """Train a base model, and write its logits."""
    from make_base_models import KINDS, UNet

    options, classes = KINDS[kind], len(SETS[name].classes)
    images = images_of(name, data)
    learn, rest = images[: int(0.45 * len(images))], images[int(0.45 * len(images)) :]
    torch.manual_seed(ord(kind))
    random = np.random.default_rng(ord(kind))
    network = UNet(options["c"])
    network.head = nn.Conv2d(options["c"], 4 * classes, 1)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-3)
    total, began, stride = int(steps * options["steps"]), time.monotonic(), options["stride"]

    def logits(x: Tensor) -> Tensor:
        found: Tensor = network(F.avg_pool2d(x, stride) if stride > 1 else x)
        return F.interpolate(found, x.shape[-2:], mode="bilinear") if stride > 1 else found

    for step in range(total):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 + np.cos(np.pi * step / total)) + 1e-5
        xs, ys = [], []
        for _ in range(BATCH):
            _, image, label = learn[random.integers(len(learn))]
            height, width = label.shape
            y, x, turns = random.integers(height - CROP + 1), random.integers(width - CROP + 1), int(random.integers(4))
            xs.append(np.rot90(image[y : y + CROP, x : x + CROP], turns).copy())
            ys.append(np.rot90(label[y : y + CROP, x : x + CROP], turns).copy())
        batch = torch.from_numpy(np.stack(xs)).permute(0, 3, 1, 2).float() / 127.5 - 1
        batch = batch * (1 + 0.2 * torch.randn(BATCH, 1, 1, 1)) + 0.1 * torch.randn(BATCH, 3, 1, 1)
        target = torch.from_numpy(np.stack(ys)).long()
        loss = F.cross_entropy(logits(batch), target, ignore_index=IGNORE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    counts, multiple = np.zeros(1), 16 * stride
    for number, (path, image, label) in enumerate(rest):
        part = out / f"{name}_classes_{kind}" / ("train" if number < len(rest) * 6 // 11 else "test")
        height, width = label.shape
        x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            z = logits(F.pad(x, (0, -width % multiple, 0, -height % multiple), mode="reflect"))[0, :, :height, :width]
        for folder in ("logits", "labels", "images"):
            (part / folder).mkdir(parents=True, exist_ok=True)
        np.save(part / "logits" / f"{path.stem}.npy", z.numpy().astype(np.float16))
        Image.fromarray(label).save(part / "labels" / f"{path.stem}.png")
        (part / "images" / path.name).write_bytes(path.read_bytes())
        counts = counts + count_classes(z.argmax(0).numpy().astype(np.uint8), label)
    print(f"{name}_classes_{kind}: mIoU {100 * mean_iou(counts):.1f}, {time.monotonic() - began:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--set", nargs="+", default=["camvid", "city_blocks", "clothing"], choices=SETS)
    parser.add_argument("--kind", nargs="+", default=["a", "c", "e"])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    sys.path.insert(0, str(arguments.data.parent / "tools"))
    torch.set_num_threads(arguments.threads)
    for name in arguments.set:
        for kind in arguments.kind:
            make(name, kind, arguments.out, arguments.data, arguments.steps)


if __name__ == "__main__":
    main()
