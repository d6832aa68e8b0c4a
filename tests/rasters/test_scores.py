from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from prn_cli.errors import InputError, UsageError
from prn_cli.maps.probabilities import logit, sigmoid
from prn_cli.maps.tiles import Window
from prn_cli.rasters import Reading, open_map, open_raster, resolve

RNG = np.random.default_rng(5)
LOGITS = RNG.normal(0, 4, (30, 40)).astype(np.float32)
PROBABILITIES = RNG.random((30, 40)).astype(np.float32)


def save(path: Path, array: np.ndarray) -> Path:
    np.save(path / "a.npy", array)
    return path / "a.npy"


def read_prediction(path: Path, *, valid_mask: Path | None = None, **options: Any) -> tuple[str, np.ndarray]:
    reading = resolve(Reading(**options), [path], "prediction")
    with open_map("prediction", path, reading, valid_mask=valid_mask) as opened:
        return reading.kind, opened.probabilities()


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z.astype(np.float64) - z.max(axis=0))
    return e / e.sum(axis=0)


def reference_sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z.astype(np.float64)))


def test_logits(tmp_path: Path) -> None:
    with open_map("scores", save(tmp_path, LOGITS)) as scores:
        assert (scores.kind, scores.height, scores.width) == ("logits", 30, 40)
        np.testing.assert_array_equal(scores.logits(), LOGITS)
        np.testing.assert_allclose(scores.probabilities(), reference_sigmoid(LOGITS), rtol=1e-6)
        window = Window(3, 4, 5, 6)
        np.testing.assert_array_equal(scores.logits(window), LOGITS[window.slices])
        assert scores.logits().dtype == scores.probabilities().dtype == np.float32


def test_probabilities_are_not_carried_through_logits(tmp_path: Path) -> None:
    probabilities = PROBABILITIES.copy()
    probabilities[0, :3] = (0, 1, 1e-9)
    with open_map("scores", save(tmp_path, probabilities)) as scores:
        assert scores.kind == "probabilities"
        np.testing.assert_array_equal(scores.probabilities(), probabilities)
        clipped = np.clip(probabilities.astype(np.float64), 1e-6, 1 - 1e-6)
        np.testing.assert_allclose(scores.logits(), np.log(clipped / (1 - clipped)), atol=2e-2, rtol=1e-5)
        assert np.isfinite(scores.logits()).all()


@pytest.mark.parametrize(
    ("kind", "dtype", "full"),
    [
        ("percent", "uint8", 100),
        ("percent", "float32", 100),
        ("byte", "uint8", 255),
        ("byte", "uint16", 65535),
        ("byte", "float32", 255),
        ("probabilities", "float16", 1),
    ],
)
def test_scales(tmp_path: Path, kind: str, dtype: str, full: float) -> None:
    stored = (PROBABILITIES * full).astype(dtype)
    with open_map("scores", save(tmp_path, stored), Reading(kind=kind)) as scores:  # type: ignore[arg-type]
        np.testing.assert_allclose(scores.probabilities(), stored.astype(np.float64) / full, rtol=1e-6)


@pytest.mark.parametrize("kind", ["probabilities", "percent", "byte"])
def test_softmax_pair_of_probabilities(tmp_path: Path, kind: str) -> None:
    full, dtype = {"probabilities": (1, "float16"), "percent": (100, "uint8"), "byte": (255, "uint8")}[kind]
    pair = (np.stack([1 - PROBABILITIES, PROBABILITIES]) * full).round(3 if full == 1 else 0).astype(dtype)
    path = save(tmp_path, pair)
    with open_map("scores", path, Reading(kind=kind)) as scores:  # type: ignore[arg-type]
        np.testing.assert_allclose(scores.probabilities(), pair[1].astype(np.float32) / np.float32(full), rtol=1e-6)
    with open_map("scores", path, Reading(kind=kind, band=1)) as scores:  # type: ignore[arg-type]
        np.testing.assert_allclose(scores.probabilities(), pair[0].astype(np.float32) / np.float32(full), rtol=1e-6)


def test_pair_that_is_no_softmax(tmp_path: Path) -> None:
    pair = np.stack([PROBABILITIES, PROBABILITIES[::-1]])
    with (
        open_map("scores", save(tmp_path, pair), Reading(kind="probabilities")) as scores,
        pytest.raises(InputError, match=r"add up to .* and not 1.*--bidx"),
    ):
        scores.probabilities()


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_logits_of_a_class(tmp_path: Path, classes: int) -> None:
    z = RNG.normal(0, 5, (classes, 30, 40)).astype(np.float32)
    path = save(tmp_path, z)
    expected = softmax(z)
    for band in range(1, classes + 1):
        with open_map("scores", path, Reading(band=band)) as scores:
            np.testing.assert_allclose(scores.probabilities(), expected[band - 1], atol=1e-6)
    if classes == 2:
        with open_map("scores", path) as scores:
            np.testing.assert_array_equal(scores.logits(), z[1] - z[0])
    else:
        with pytest.raises(UsageError, match=f"{classes} bands.*--bidx"):
            open_map("scores", path)
    with pytest.raises(UsageError, match=f"band {classes + 1} of {classes}"):
        open_map("scores", path, Reading(band=classes + 1))


def test_probabilities_of_a_class(tmp_path: Path) -> None:
    p = softmax(RNG.normal(0, 2, (4, 30, 40))).astype(np.float32)
    with open_map("scores", save(tmp_path, p), Reading(band=3)) as scores:
        np.testing.assert_array_equal(scores.probabilities(), p[2])


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("probabilities", 3.7, "probabilities with a value of 3.7, expected 0 to 1"),
        ("probabilities", -0.1, "value of -0.1"),
        ("percent", 101, "percent with a value of 101, expected 0 to 100"),
        ("byte", 256, "byte with a value of 256, expected 0 to 255"),
    ],
)
def test_numbers_out_of_range(tmp_path: Path, kind: str, value: float, message: str) -> None:
    array = PROBABILITIES.copy()
    array[7, 8] = value
    path = save(tmp_path, array)
    with open_map("scores", path, Reading(kind=kind)) as scores:  # type: ignore[arg-type]
        with pytest.raises(InputError, match=message) as caught:
            scores.logits()
        assert str(path) in str(caught.value)
        scores.logits(Window(0, 0, 5, 5))  # only what is read is looked at
    with open_map("scores", path, Reading(kind=kind, nodata=value)) as scores:  # type: ignore[arg-type]
        assert np.isnan(scores.probabilities()[7, 8])


@pytest.mark.parametrize("value", [-9999, 1e20, -3.4028234663852886e38])
def test_undeclared_nodata_is_no_logit(tmp_path: Path, value: float) -> None:
    array = LOGITS.copy()
    array[3, 4] = value
    with (
        open_map("scores", save(tmp_path, array), Reading(kind="logits")) as scores,
        pytest.raises(InputError, match=r"--nodata"),
    ):
        scores.logits()
    with open_map("scores", save(tmp_path, array), Reading(kind="logits", nodata=value)) as scores:
        np.testing.assert_array_equal(np.argwhere(np.isnan(scores.logits())), [[3, 4]])


def test_invalid_pixels_are_nan(tmp_path: Path) -> None:
    array = LOGITS.copy()
    array[0, :3] = (np.nan, np.inf, -np.inf)
    array[1, 1] = -9999
    mask = np.ones(array.shape, np.uint8)
    mask[2, :5] = 0
    np.save(tmp_path / "mask.npy", mask)
    with open_map("scores", save(tmp_path, array), Reading(nodata=-9999), valid_mask=tmp_path / "mask.npy") as scores:
        expected = np.zeros(array.shape, bool)
        expected[0, 0] = expected[1, 1] = expected[2, :5] = True
        np.testing.assert_array_equal(np.isnan(scores.logits()), expected)
        np.testing.assert_array_equal(np.isnan(scores.probabilities()), expected)
        np.testing.assert_array_equal(np.isnan(scores.logits(Window(1, 0, 3, 9))), expected[1:4, :9])


def test_one_invalid_class_makes_the_pixel_invalid(tmp_path: Path) -> None:
    z = RNG.normal(0, 5, (3, 30, 40)).astype(np.float32)
    z[2, 4, 5] = np.nan
    z[0, 6, 7] = -9999
    with open_map("scores", save(tmp_path, z), Reading(band=2, nodata=-9999)) as scores:
        np.testing.assert_array_equal(np.argwhere(np.isnan(scores.logits())), [[4, 5], [6, 7]])


def test_nodata_that_a_class_may_really_have(tmp_path: Path) -> None:
    p = np.zeros((2, 2, 2), np.float32)
    p[0], p[1] = [[1, 0], [0.5, 0]], [[0, 1], [0.5, 0]]
    with open_map("scores", save(tmp_path, p), Reading(nodata=0, kind="probabilities")) as scores:
        np.testing.assert_array_equal(scores.probabilities(), [[0, 1], [0.5, np.nan]])


def test_declared_nodata_can_be_overruled(tmp_path: Path) -> None:
    array = LOGITS.copy()
    array[3, 3] = 0
    for nodata, invalid in ((None, [[3, 3]]), (-9999, [[3, 3], [4, 4]]), (float("nan"), [])):
        array[4, 4] = -9999 if nodata == -9999 else 1
        tifffile.imwrite(tmp_path / "a.tif", array, extratags=[(42113, 2, 0, "0", True)])
        with open_map("scores", tmp_path / "a.tif", Reading(nodata=nodata)) as scores:
            found = np.argwhere(np.isnan(scores.logits()))
            np.testing.assert_array_equal(found, np.reshape(invalid, (-1, 2)))


def test_no_valid_pixel(tmp_path: Path) -> None:
    with open_map("scores", save(tmp_path, np.full((30, 40), np.nan, np.float32)), Reading(kind="logits")) as scores:
        with pytest.raises(InputError, match="no valid pixel"):
            scores.logits()
        assert np.isnan(scores.logits(Window(0, 0, 4, 4))).all()  # a window may well be empty
        with pytest.raises(InputError, match="no valid pixel"):
            scores.check_valid()
    with open_map("scores", save(tmp_path, LOGITS), Reading(kind="logits")) as scores:
        scores.logits(Window(0, 0, 4, 4))
        scores.check_valid()


def test_mask_of_another_size(tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", np.ones((30, 41)))
    with pytest.raises(InputError, match="30×41 pixels, expected 30×40"):
        open_map("scores", save(tmp_path, LOGITS), valid_mask=tmp_path / "mask.npy")


def test_integer_logits(tmp_path: Path) -> None:
    with open_map("scores", save(tmp_path, LOGITS.astype(np.int16)), Reading(kind="logits")) as scores:
        np.testing.assert_array_equal(scores.logits(), LOGITS.astype(np.int16))


def test_wide_and_narrow_floats(tmp_path: Path) -> None:
    wide = LOGITS.astype(np.float64)
    wide[0, 0] = 1e300  # beyond float32
    with open_map("scores", save(tmp_path, wide), Reading(nodata=1e300)) as scores:
        assert np.isnan(scores.logits()[0, 0])
        np.testing.assert_array_equal(scores.logits()[1:], LOGITS[1:])
    with open_map("scores", save(tmp_path, LOGITS.astype(np.float16))) as scores:
        np.testing.assert_array_equal(scores.logits(), LOGITS.astype(np.float16))


@given(st.floats(-200, 200, width=32))
def test_sigmoid_and_logit(z: float) -> None:
    array = np.array([z, np.nan], np.float32)
    p = sigmoid(array)
    np.testing.assert_allclose(p, [1 / (1 + np.exp(-np.float64(z))), np.nan], rtol=1e-6, atol=1e-38)
    assert p.dtype == logit(p).dtype == np.float32
    assert np.isnan(logit(p)[1])
    if abs(z) < 8:
        np.testing.assert_allclose(logit(p)[0], z, atol=2e-3)


def test_windows_from_many_threads(tmp_path: Path) -> None:
    array = RNG.normal(0, 4, (300, 300)).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", array, tile=(32, 32), compression="zlib")
    windows = [Window(y, x, 70, 70) for y in range(0, 230, 20) for x in range(0, 230, 20)]
    with open_map("scores", tmp_path / "a.tif") as scores, ThreadPoolExecutor(8) as pool:
        for window, part in zip(windows, pool.map(scores.logits, windows), strict=True):
            np.testing.assert_array_equal(part, array[window.slices])


def test_masks_for_scoring(tmp_path: Path) -> None:
    mask = (PROBABILITIES > 0.5).astype(np.uint8) * 255
    kind, p = read_prediction(save(tmp_path, mask))
    assert kind == "mask"
    np.testing.assert_array_equal(p, mask / 255)
    mask[0, 0] = 127
    kind, p = read_prediction(save(tmp_path, mask), nodata=127)
    assert kind == "mask"
    assert np.isnan(p[0, 0])
    valid = np.ones(mask.shape, bool)
    valid[5, 6] = False
    np.save(tmp_path / "valid.npy", valid)
    _, p = read_prediction(save(tmp_path, mask), nodata=127, valid_mask=tmp_path / "valid.npy")
    np.testing.assert_array_equal(np.argwhere(np.isnan(p)), [[0, 0], [5, 6]])
    mask[0, 0] = 100
    with pytest.raises(InputError, match="mask is not binary: values 0, 100, 255"):
        read_prediction(save(tmp_path, mask), kind="mask")
    kind, p = read_prediction(save(tmp_path, LOGITS))
    assert kind == "logits"
    np.testing.assert_allclose(p, reference_sigmoid(LOGITS), rtol=1e-6)
    kind, p = read_prediction(save(tmp_path, PROBABILITIES))
    assert kind == "probabilities"


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty.tif").touch()
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "a.jpg").write_bytes(b"x")
    for name, message in {
        "missing.npy": "no such file",
        "empty.tif": r"empty file \(0 bytes\)",
        "folder.npy": "is a folder",
        "a.jpg": "unknown format '.jpg', expected one of .npy",
        "nul\0.npy": "no such file|cannot be read",
    }.items():
        with pytest.raises(InputError, match=message):
            open_raster(tmp_path / name)
