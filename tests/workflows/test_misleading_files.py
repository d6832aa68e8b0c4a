"""The table of misleading files: what is in them × what they are to the command × format × how they are named."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

import prn_cli as prn
from prn_cli.errors import PrnError
from prn_cli.rasters import open_map

HEIGHT, WIDTH = 40, 48
FIELD = np.add.outer(np.linspace(-4, 5, HEIGHT), np.sin(np.arange(WIDTH))).astype(np.float32)
TRUTH = (FIELD > 0).astype(np.uint8)
BYTES = np.clip(np.round(255 / (1 + np.exp(-FIELD))), 0, 255).astype(np.uint8)


def write(path: Path, array: NDArray[Any], **more: Any) -> None:
    """An array as it is, with the extras that PNG and TIFF have."""
    suffix = path.suffix
    if suffix == ".npy":
        np.save(path, array)
    elif suffix == ".npz":
        np.savez(path, array)
    elif suffix == ".tif":
        shape = {"photometric": "minisblack"} | ({"planarconfig": "separate"} if array.ndim == 3 else {})
        tifffile.imwrite(path, array, **(shape | more))
    else:
        Image.fromarray(array).save(path, **more)


def orientation(path: Path, role: str) -> None:
    content = BYTES if role in ("scores", "image") else TRUTH * np.uint8(255)
    if path.suffix == ".tif":
        write(path, content[::-1], extratags=[(274, 3, 1, 4, True)])
        return
    exif = Image.Exif()
    exif[274] = 4
    write(path, content[::-1], exif=exif, **({"quality": 95} if path.suffix == ".jpg" else {}))


def channels_last(path: Path, role: str) -> None:
    write(path, np.repeat(FIELD[..., None] if role == "scores" else TRUTH[..., None], 3, axis=2))


def palette(path: Path, role: str) -> None:
    """The index 0 is white, and the last one black."""
    indices = 255 - BYTES if role == "scores" else 1 - TRUTH
    greys = np.arange(255, -1, -1, np.uint8) if role == "scores" else np.uint8([255, *[0] * 255])
    if path.suffix == ".tif":
        write(path, indices, photometric="palette", colormap=np.stack([greys.astype(np.uint16) * 257] * 3))
        return
    image = Image.fromarray(indices)
    image.putpalette(np.repeat(greys, 3).tobytes())
    image.save(path)


def jpeg(path: Path, role: str) -> None:
    Image.fromarray(BYTES if role in ("scores", "image") else TRUTH * 255).save(path, quality=90)


def undecided(path: Path, role: str) -> None:
    values = TRUTH * np.uint8(255)
    values[:4] = 128
    write(path, values)


def scaled(path: Path, role: str) -> None:
    write(path, np.round(10000 / (1 + np.exp(-FIELD))).astype(np.uint16))


def no_pair(path: Path, role: str) -> None:
    write(path, np.stack([FIELD, np.abs(FIELD[::-1]) + 1]))


def float_mask(path: Path, role: str) -> None:
    write(path, TRUTH.astype(np.float32))


def background_as_nodata(path: Path, role: str) -> None:
    if path.suffix == ".tif":
        write(path, TRUTH, extratags=[(42113, 2, 0, "0", True)])
    else:
        write(path, TRUTH, transparency=0)


RIGHT = "right"
ARRAYS, TIFF_PNG = ("npy", "npz", "tif"), ("tif", "png")
PREDICTIONS = ("mask", "baseline")
Row = tuple[Callable[[Path, str], None], tuple[str, ...], tuple[str, ...], str]
TABLE: list[Row] = [
    (orientation, ("tif",), ("scores", "label", *PREDICTIONS, "valid mask", "image"), "orientation 4"),
    (orientation, ("png",), ("scores", "label", *PREDICTIONS, "valid mask", "image"), RIGHT),
    (orientation, ("jpg",), ("image",), RIGHT),
    (channels_last, ARRAYS, ("scores", "label", *PREDICTIONS, "valid mask", "image"), r"looks like \(H, W, C\)"),
    (palette, TIFF_PNG, ("label", *PREDICTIONS), RIGHT),
    (palette, TIFF_PNG, ("scores",), "indices of a palette"),
    (palette, TIFF_PNG, ("valid mask",), "its palette says that 0 is white"),
    (jpeg, ("jpg",), ("scores", "label", *PREDICTIONS, "valid mask"), r"\.jpg"),
    (undecided, (*ARRAYS, "png"), ("scores", *PREDICTIONS), "a mask of three values.*--nodata 128"),
    (undecided, (*ARRAYS, "png"), ("label",), "values 0, 128, 255.*if 128 means ignore.*--label-nodata 128"),
    (scaled, (*ARRAYS, "png"), ("scores", *PREDICTIONS), "another scale.*--scale 10000"),
    (no_pair, ARRAYS, ("scores", *PREDICTIONS), "2 bands.*do not rise and fall against each other"),
    (float_mask, ARRAYS, ("scores",), "a mask of two values"),
    (float_mask, ARRAYS, ("label", *PREDICTIONS), RIGHT),
    (background_as_nodata, TIFF_PNG, ("label",), "declares 0 as nodata.*--label-nodata nan"),
    (background_as_nodata, TIFF_PNG, PREDICTIONS, "declares 0 as nodata.*--nodata nan"),
]
CASES = [
    pytest.param(make, suffix, role, way, outcome, id=f"{make.__name__}-{role}-{suffix}-{way}")
    for make, suffixes, roles, outcome in TABLE
    for suffix in suffixes
    for role in roles
    for way in (("argument", "folder", "glob", "stdin") if role in ("scores", "mask") else ("folder",))
]


def named(way: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the command line has for a file."""
    if way == "stdin":
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"{path}\n"))
    return {"argument": str(path), "folder": str(path.parent), "glob": f"{path.parent}/*", "stdin": "-"}[way]


@pytest.mark.parametrize(("make", "suffix", "role", "way", "outcome"), CASES)
def test_misleading_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path, str], None],
    suffix: str,
    role: str,
    way: str,
    outcome: str,
) -> None:
    for name in ("faulty", "maps", "labels"):
        (tmp_path / name).mkdir()
    faulty = tmp_path / "faulty" / f"a.{suffix}"
    make(faulty, role)
    np.save(tmp_path / "maps" / "a.npy", TRUTH)
    np.save(tmp_path / "labels" / "a.npy", TRUTH)
    with monkeypatch.context() as patch:
        names = named(way, faulty, patch)
        if outcome == RIGHT:
            assert used(role, names, faulty, tmp_path) > 0.95
        else:
            with pytest.raises(PrnError, match=outcome) as caught:
                used(role, names, faulty, tmp_path)
            assert "\n" not in str(caught.value)


def used(role: str, names: str, faulty: Path, folder: Path) -> float:
    """How well what is read agrees with what the file shows.

    Raises:
        PrnError: the file is refused.
    """
    if role == "image":
        with open_map("image", faulty) as image:
            return float(np.corrcoef(image.read()[0].ravel(), BYTES.ravel())[0, 1])
    if role == "scores":
        done = prn.pseudolabel(names, labels=folder / "labels", out=folder / "out")
        _raise(done)
        return done.headrooms[""].at(0.5).pooled
    others = {"baseline": {"baseline": faulty.parent}, "valid mask": {"valid_mask": faulty.parent}}
    scored = prn.score(
        names if role == "mask" else str(folder / "maps"),
        labels=faulty.parent if role == "label" else folder / "labels",
        resamples=100,
        **others.get(role, {}),
    )
    _raise(scored)
    assert scored.summary is not None
    iou = scored.summary.pooled["iou"]
    return iou.baseline.value if iou.baseline is not None else iou.masks.value


def _raise(result: Any) -> None:
    for _, cause in result.failures:
        raise PrnError(cause)
