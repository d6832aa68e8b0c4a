"""Sets, augmentation and synthetic coarse logits for training and judging the `image` method.

A *set* is a source of images; a *pair* is a set, what its labels are of, and the kind of base model. What is held out
is always a whole set: no pair of it is learned from.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import common
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from prn_cli.maps.bands import band_range
from prn_cli.methods.image.refiner import Range, stretched
from prn_cli.rasters import Reading, open_map

Random = np.random.Generator
Plane = NDArray[np.float32]
IGNORE = 255
DATA = Path(os.environ.get("PRN_DATA", common.DATA))

SETS = (
    "retina",
    "epfl_roads",
    "lungs",
    "clothing",
    "cracks",
    "dubai",
    "kvasir_polyp",
    "camvid",
    "membrane",
    "city",
    "pets",
    "flood",
    "nuclei",
    "vegas_roads",
    "plants",
    "magnetic_tile",
)
MAY_SHIP = {"clothing": 220, "dubai": 180, "nuclei": 140, "lungs": 225, "magnetic_tile": 110, "membrane": 110}
"""Sets whose terms permit shipping weights that learned from them, and how many crops of each are learned from."""
FOLDS = (("nuclei", "clothing"), ("dubai", "lungs"), ("membrane", "magnetic_tile"))
"""Of these sets, those that are held out together. All others are never learned from."""
_SOURCES = {"dubai": "dubai", "city": "more/city_blocks"}
_OLD = ("epfl_roads", "kvasir_polyp", "nuclei")
VOID = {"camvid": 11}


def set_of(pair: str) -> str:
    """The set of a pair, such as `camvid` of `camvid_tree_a`."""
    return max((name for name in SETS if pair.startswith(name)), key=len)


def pairs(root: Path, sets: tuple[str, ...] = SETS) -> dict[str, Path]:
    """The pairs of these sets that are there, each with its folder of `train` and `test`."""
    folders = [*sorted(root.glob("*/train")), *sorted((root / "shared").glob("*/train"))]
    found = {path.parent.name: path.parent for path in folders if (path / "logits").is_dir()}
    return {name: path for name, path in found.items() if "multiclass" not in name and set_of(name) in sets}


def read_image(path: Path) -> NDArray[np.uint8]:
    """`(H, W, 3)`."""
    return np.asarray(Image.open(path).convert("RGB"))


def read_logits(path: Path) -> Plane:
    """`(H, W)`, NaN invalid."""
    if path.suffix == ".npy":
        return np.load(path).astype(np.float32)
    with open_map("scores", path, Reading(kind="logits")) as scores:
        return scores.logits()


def read_mask(path: Path) -> NDArray[np.uint8]:
    """A label of two classes, `(H, W)`: 0, 1, and 255 where it is 128, in doubt."""
    label = _label(path)
    return np.where(label == 128, IGNORE, label > 191).astype(np.uint8)


@lru_cache(maxsize=64)
def _label(path: Path) -> NDArray[np.uint8]:
    label = np.asarray(Image.open(path))
    return label[..., 0] if label.ndim == 3 else label


def range_of(images: Iterable[NDArray[np.uint8]]) -> Range:
    """The range of each band over images `(H, W, 3)`, as `prn refine` takes it from a sample of a set."""
    return band_range(as_planes(image) for image in images)


def as_planes(image: NDArray[np.uint8]) -> Plane:
    """`(H, W, 3)` to `(3, H, W)`, as in the file."""
    return image.transpose(2, 0, 1).astype(np.float32)


@dataclass(frozen=True)
class Example:
    """An image, what its labels may be of, and the logits of base models that did not learn from it."""

    image: Path
    labels: Callable[[Random], NDArray[np.uint8]]
    logits: dict[str, Path]
    own: dict[str, Path]


def examples(name: str, root: Path) -> list[Example]:
    """The examples of a set that may be learned from: everything but the images of its test split."""
    mine = pairs(root, (name,))
    test = {path.stem for folder in mine.values() for path in (folder / "test" / "logits").iterdir()}
    source = DATA / (name if name in _OLD else _SOURCES.get(name, f"more/{name}"))
    found = []
    for image in sorted((source / "images").iterdir()):
        stem = image.stem
        if stem in test:
            continue
        logits = {
            pair: next((folder / "train" / "logits").glob(f"{stem}.*"))
            for pair, folder in mine.items()
            if any((folder / "train" / "logits").glob(f"{stem}.*"))
        }
        own = {pair: next((mine[pair] / "train" / "labels").glob(f"{stem}.*")) for pair in logits}
        label = next((source / "labels").glob(f"{stem}.*"))
        found.append(Example(image, lambda random, label=label: some_classes(name, label, random), logits, own))
    return found


def some_classes(name: str, path: Path, random: Random) -> NDArray[np.uint8]:
    """A label of 0, 1 and 255; of sets with classes, of one to three of them, drawn for each call."""
    label = _label(path)
    if name in ("clothing", "camvid", "city", "dubai"):
        ignore = label == VOID.get(name, IGNORE)
        there = np.unique(label[~ignore & (label > 0 if name == "clothing" else True)])
        if not there.size or (name == "clothing" and random.random() < 0.35):
            chosen = label > 0
        else:
            chosen = np.isin(label, random.choice(there, min(1 + int(random.integers(3)), there.size), replace=False))
        return np.where(ignore, IGNORE, chosen).astype(np.uint8)
    return read_mask(path)


# Augmentation ---------------------------------------------------------------------------------------------------------


def _resized(plane: NDArray[np.generic], size: tuple[int, int], how: Image.Resampling) -> NDArray[np.generic]:
    return np.asarray(Image.fromarray(plane).resize(size[::-1], how))


def crop(
    image: NDArray[np.uint8], label: NDArray[np.uint8], logits: list[Plane], side: int, random: Random
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[Plane]]:
    """A crop of a random scale, turn and place, mostly near a border of the label."""
    scale = float(np.exp(random.uniform(np.log(0.5), np.log(2))))
    edge = max(round(side / scale), 16)
    height, width = label.shape
    y, x = random.integers(0, max(height - edge, 0) + 1), random.integers(0, max(width - edge, 0) + 1)
    if random.random() < 0.8:
        rows, columns = np.nonzero((label[1:, 1:] != label[:-1, 1:]) | (label[1:, 1:] != label[1:, :-1]))
        if rows.size:
            at = random.integers(rows.size)
            y = np.clip(rows[at] - random.integers(edge), 0, max(height - edge, 0))
            x = np.clip(columns[at] - random.integers(edge), 0, max(width - edge, 0))
    cut = np.s_[y : y + edge, x : x + edge]
    pad = ((0, max(edge - height, 0)), (0, max(edge - width, 0)))
    turns, flip, size = int(random.integers(4)), random.random() < 0.5, (side, side)

    def turned(plane: NDArray[np.generic]) -> NDArray[np.generic]:
        plane = np.rot90(plane, turns)
        return np.ascontiguousarray(plane[:, ::-1] if flip else plane)

    image = turned(np.pad(image[cut], (*pad, (0, 0)), "symmetric"))
    label = turned(np.pad(label[cut], pad, constant_values=IGNORE))
    planes = [turned(np.pad(plane[cut], pad, constant_values=np.nan)) for plane in logits]
    image = np.asarray(
        Image.fromarray(image).resize(size, Image.Resampling.BILINEAR if scale > 1 else Image.Resampling.BOX)
    )
    label = _resized(label, size, Image.Resampling.NEAREST)
    planes = [_resized(plane, size, Image.Resampling.BILINEAR) for plane in planes]
    return image, label.astype(np.uint8), [plane.astype(np.float32) for plane in planes]


def recoloured(image: Plane, random: Random) -> Plane:
    """The image `(3, H, W)` by another sensor: gain, offset, mixed bands, grey, gamma, blur, noise."""
    if random.random() < 0.25:
        mean = image.mean(0, keepdims=True)
        image = np.repeat(mean, 3, 0) if random.random() < 0.6 else mean + 0.4 * (image - mean)
    elif random.random() < 0.3:
        image = image[random.permutation(3)]
    image = image * np.exp(random.normal(0, 0.2, (1, 1, 1))) + random.normal(0, 0.15, (1, 1, 1))
    image = image * np.exp(random.normal(0, 0.08, (3, 1, 1))) + random.normal(0, 0.06, (3, 1, 1))
    if random.random() < 0.3:
        unit = np.clip(image / 2 + 0.5, 0, 1)
        image = 2 * unit ** np.exp(random.normal(0, 0.35)) - 1
    if random.random() < 0.1:
        image = -image
    if random.random() < 0.2:
        image = ndimage.gaussian_filter(image, (0, *([random.uniform(0.4, 1.5)] * 2)))
    if random.random() < 0.3:
        image = image + random.normal(0, random.uniform(0.01, 0.12), image.shape)
    return np.clip(image, -1.5, 1.5).astype(np.float32)


def smooth_noise(shape: tuple[int, int], cell: float, random: Random) -> Plane:
    """Noise of mean 0 and spread 1 that varies over about `cell` px."""
    small = random.normal(size=[max(int(np.ceil(n / cell)) + 2, 3) for n in shape]).astype(np.float32)
    wide = [int(np.ceil(n * cell)) for n in small.shape]
    big = np.asarray(Image.fromarray(small).resize(wide[::-1], Image.Resampling.BICUBIC))
    y, x = (int(random.integers(b - n + 1)) for b, n in zip(big.shape, shape, strict=True))
    return big[y : y + shape[0], x : x + shape[1]]


def drawn(image: Plane, random: Random) -> tuple[Plane, NDArray[np.uint8]]:
    """New foreground drawn on an image: lines from 1 px, or many small objects; and its label."""
    from PIL import ImageDraw

    side = image.shape[1]
    canvas = Image.new("L", (2 * side, 2 * side))
    pen = ImageDraw.Draw(canvas)
    if random.random() < 0.55:
        for _ in range(int(random.integers(1, 9))):
            heading, at = random.uniform(0, 2 * np.pi), random.uniform(0, 2 * side, 2)
            points, step = [tuple(at)], random.uniform(10, 60)
            for _ in range(int(random.integers(3, 14))):
                heading += random.normal(0, 0.5)
                at = at + step * np.array([np.cos(heading), np.sin(heading)])
                points.append(tuple(at))
            pen.line(points, fill=255, width=int(np.exp(random.uniform(np.log(2), np.log(12)))), joint="curve")
    else:
        size, shape = np.exp(random.uniform(np.log(6), np.log(70))), random.integers(3)
        for _ in range(int(random.integers(1, 30))):
            y, x = random.uniform(0, 2 * side, 2)
            h, w = size * np.exp(random.normal(0, 0.25, 2)) / 2
            box = (x - w, y - h, x + w, y + h)
            if shape == 0:
                pen.ellipse(box, fill=255)
            elif shape == 1:
                pen.rectangle(box, fill=255)
            else:
                angle = np.sort(random.uniform(0, 2 * np.pi, int(random.integers(3, 7))))
                pen.polygon([(x + w * np.cos(a), y + h * np.sin(a)) for a in angle], fill=255)
    cover = np.asarray(canvas.resize((side, side), Image.Resampling.BOX), np.float32) / 255
    colour = random.uniform(-1, 1, (3, 1, 1)).astype(np.float32)
    if random.random() < 0.4:
        colour = np.repeat(colour[:1], 3, 0)
    texture = random.uniform(0, 0.3) * smooth_noise(cover.shape, random.uniform(1, 8), random)
    opacity = random.uniform(0.35, 1)
    paint = opacity * (colour + texture) + (1 - opacity) * image
    return (image * (1 - cover) + paint * cover).astype(np.float32), (cover > 0.5).astype(np.uint8)


def pasted(
    image: Plane, label: NDArray[np.uint8], other: Plane, other_label: NDArray[np.uint8], random: Random
) -> tuple[Plane, NDArray[np.uint8]]:
    """Small copies of an object of another crop, cut out and pasted."""
    numbers, count = ndimage.label(other_label == 1)
    if not count:
        return image, label
    boxes = ndimage.find_objects(numbers)
    image, label = image.copy(), label.copy()
    for _ in range(int(random.integers(1, 7))):
        chosen = int(random.integers(count))
        part = (numbers[boxes[chosen]] == chosen + 1).astype(np.float32)
        longest = np.exp(random.uniform(np.log(4), np.log(48)))
        scale = min(longest / max(part.shape), 1.0)
        h, w = (max(round(n * scale), 1) for n in part.shape)
        cover = np.asarray(Image.fromarray(part).resize((w, h), Image.Resampling.BOX))
        patch = np.stack(
            [
                np.asarray(Image.fromarray(np.ascontiguousarray(b[boxes[chosen]])).resize((w, h), Image.Resampling.BOX))
                for b in other
            ]
        )
        y, x = (int(random.integers(n - k + 1)) for n, k in zip(label.shape, (h, w), strict=True))
        at = np.s_[y : y + h, x : x + w]
        image[(slice(None), *at)] = image[(slice(None), *at)] * (1 - cover) + patch * cover
        label[at] = np.where(cover > 0.5, 1, label[at])
    return image, label


def coarse(label: NDArray[np.uint8], random: Random) -> Plane:
    """Logits as a coarse base model gives them, made from a label."""
    mask = (label == 1).astype(np.float32)
    shape = mask.shape
    if random.random() < 0.3:  # missing parts
        mask = mask * (smooth_noise(shape, random.uniform(12, 60), random) < random.uniform(0.4, 1.8))
    if random.random() < 0.35:  # thin lines broken, holes
        mask = mask * (smooth_noise(shape, random.uniform(3, 10), random) < random.uniform(0.6, 2.2))
    if random.random() < 0.35:  # spurious parts
        mask = np.maximum(mask, smooth_noise(shape, random.uniform(4, 40), random) > random.uniform(1.6, 2.6))
    if random.random() < 0.4:  # dilated or eroded
        radius = int(random.integers(1, 6))
        y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
        change = ndimage.grey_dilation if random.random() < 0.6 else ndimage.grey_erosion
        mask = change(mask, footprint=y * y + x * x <= radius * radius)
    if random.random() < 0.4:  # borders that wander
        cell, reach = random.uniform(6, 40), random.uniform(0.5, 6)
        moved = [reach * smooth_noise(shape, cell, random) + at for at in np.indices(shape, np.float32)]
        mask = ndimage.map_coordinates(mask, moved, order=1, mode="nearest")
    if random.random() < 0.3:  # moved as a whole
        mask = ndimage.shift(mask, random.uniform(-4, 4, 2), order=1, mode="nearest")
    kind = random.random()
    if kind < 0.35:  # blocks, or a low resolution
        block = int(np.exp(random.uniform(np.log(2), np.log(32))))
        size = [max(n // block, 2) for n in shape]
        small = Image.fromarray(mask.astype(np.float32)).resize(size[::-1], Image.Resampling.BOX)
        how = Image.Resampling.NEAREST if random.random() < 0.4 else Image.Resampling.BILINEAR
        mask = np.asarray(small.resize(shape[::-1], how))
    elif kind < 0.5:  # vertices dropped: half-planes of a blurred mask, cut again
        mask = (ndimage.gaussian_filter(mask, random.uniform(2, 7)) > random.uniform(0.35, 0.6)).astype(np.float32)
    if random.random() < 0.85:
        mask = ndimage.gaussian_filter(mask, np.exp(random.uniform(np.log(0.4), np.log(6))))
    floor = random.uniform(0.002, 0.1)
    probability = np.clip(floor + (1 - 2 * floor) * mask, 1e-4, 1 - 1e-4)
    logits = np.log(probability / (1 - probability)) * random.uniform(0.5, 1.5) + random.normal(0, 0.5)
    if random.random() < 0.7:
        logits = logits + random.uniform(0.1, 1.2) * smooth_noise(shape, random.uniform(2, 40), random)
    return logits.astype(np.float32)


@dataclass(frozen=True)
class Sample:
    """A crop: image `(3, S, S)`, its label `(S, S)`, and logits of several base models `(K, S, S)`, NaN invalid."""

    image: Plane
    label: NDArray[np.uint8]
    logits: Plane


def samples(name: str, root: Path, side: int, random: Random, *, kinds: int = 4) -> Iterator[Sample]:
    """Endless samples of a set: with logits of real base models where there are, and synthetic ones."""
    known = examples(name, root)
    low, high = map(np.array, range_of(read_image(example.image) for example in known[:: max(len(known) // 12, 1)]))
    images = lru_cache(maxsize=40)(read_image)
    before: tuple[Plane, NDArray[np.uint8]] | None = None
    order: list[int] = []
    while True:
        if not order:
            order = list(random.permutation(len(known)))
        example = known[order.pop()]
        image = images(example.image)
        real = list(example.logits)
        if real and random.random() < 0.75:
            first = real[int(random.integers(len(real)))]
            alike = [pair for pair in real if pair[:-2] == first[:-2]] if name not in (*_OLD, "dubai") else [first]
            chosen = [str(p) for p in random.permutation(alike)[: kinds // 2]]
            label = read_mask(example.own[first])
            planes = [read_logits(example.logits[pair]) for pair in chosen]
        else:
            label, planes = example.labels(random), []
        shifts = [random.normal(0, 0.04, 3) * (high - low) for _ in range(2)]
        cut, label, planes = crop(image, label, planes, side, random)
        colours = recoloured(stretched(as_planes(cut), (low + shifts[0], high + shifts[1])), random)
        if planes and np.isnan(planes[0]).any():
            label = np.where(np.isnan(planes[0]), IGNORE, label)
        plain = colours, label
        if not planes:
            draw = random.random()
            if draw < 0.35:
                colours, label = drawn(colours, random)
            elif draw < 0.6 and before is not None:
                colours, label = pasted(colours, label, *before, random)
        before = plain
        planes = [plane * np.exp(random.normal(0, 0.3)) + random.normal(0, 0.2) for plane in planes]
        if planes and random.random() < 0.5:  # what labels leave open must not be seen by where scores are missing
            planes = [filled(plane) for plane in planes]
        planes += [coarse(label, random) for _ in range(kinds - len(planes))]
        yield Sample(colours, label, np.stack(planes).clip(-30, 30).astype(np.float32))


def filled(plane: Plane) -> Plane:
    """Invalid pixels filled by the nearest valid one."""
    missing = np.isnan(plane)
    if not missing.any() or missing.all():
        return plane
    nearest = ndimage.distance_transform_edt(missing, return_distances=False, return_indices=True)
    return plane[tuple(nearest)]
