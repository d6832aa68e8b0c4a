from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from prn_cli.errors import InputError
from prn_cli.maps.tiles import Window, row_bands
from prn_cli.rasters import Reading, mask_nodata, open_map, read_label, resolve

PATTERN = np.arange(48).reshape(6, 8) % 3 == 0


def save(path: Path, array: np.ndarray) -> Path:
    np.save(path / "a.npy", array)
    return path / "a.npy"


def read_prediction(path: Path, *, valid_mask: Path | None = None, **options: Any) -> tuple[str, np.ndarray]:
    reading = resolve(Reading(**options), [path], "prediction")
    with open_map("prediction", path, reading, valid_mask=valid_mask) as opened:
        return reading.kind, opened.probabilities()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int64", "float16", "float32", "float64"])
@pytest.mark.parametrize("high", [1, 255])
def test_two_values(tmp_path: Path, high: int, dtype: str) -> None:
    label = read_label(save(tmp_path, (PATTERN * high).astype(dtype)))
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, PATTERN)


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (1, 1), (255, 1)])
def test_one_value(tmp_path: Path, value: int, expected: int) -> None:
    label = read_label(save(tmp_path, np.full((3, 4), value, np.uint8)))
    np.testing.assert_array_equal(label, np.full((3, 4), expected))


def test_booleans(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_label(save(tmp_path, PATTERN)), PATTERN)


def test_ignored_pixels(tmp_path: Path) -> None:
    array = PATTERN.astype(np.float32)
    array[0, 1:3] = (np.nan, -7)
    expected = PATTERN.astype(np.uint8)
    expected[0, 1:3] = 255
    np.testing.assert_array_equal(read_label(save(tmp_path, array), Reading(label_nodata=-7)), expected)
    stored = PATTERN.astype(np.uint8)
    stored[0, 1:3] = 255
    np.testing.assert_array_equal(read_label(save(tmp_path, stored), Reading(label_nodata=255)), expected)
    tifffile.imwrite(tmp_path / "a.tif", stored, extratags=[(42113, 2, 0, "255", True)])
    np.testing.assert_array_equal(read_label(tmp_path / "a.tif"), expected)
    Image.fromarray(stored).save(tmp_path / "a.png", transparency=255)
    np.testing.assert_array_equal(read_label(tmp_path / "a.png"), expected)


def test_grey_saved_as_colour(tmp_path: Path) -> None:
    grey = Image.fromarray(PATTERN.astype(np.uint8) * 255)
    grey.convert("RGB").save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label(tmp_path / "a.png"), PATTERN)
    Image.merge("RGB", [grey, grey, Image.new("L", grey.size)]).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="3 bands, expected one"):
        read_label(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0, 1, 2), "labels are not binary: values 0, 1, 2, expected 0 and 1, or 0 and 255; if 2 means ignore"),
        ((0, 1, 255), "values 0, 1, 255.*--label-nodata 255"),
        ((1, 255), "values 1, 255.*--label-nodata 255"),
        ((0, 128), "values 0, 128"),
        (range(48), "values 0, 1, 2, 3, 4, 5, …"),
    ],
)
def test_other_values(tmp_path: Path, values: tuple[int, ...], message: str) -> None:
    array = np.resize(np.array(list(values), np.uint8), (6, 8))
    path = save(tmp_path, array)
    with pytest.raises(InputError, match=message) as caught:
        read_label(path)
    assert caught.value.path == str(path)


def test_probabilities_are_no_label(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not binary: values 0, 0\.25"):
        read_label(save(tmp_path, np.array([[0, 0.25], [0.5, 1]])))


def test_zero_declared_as_nodata_is_background_or_not(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PATTERN.astype(np.uint8), extratags=[(42113, 2, 0, "0", True)])
    with pytest.raises(InputError, match=r"declares 0 as nodata.*--label-nodata nan"):
        read_label(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_label(tmp_path / "a.tif", Reading(label_nodata=float("nan"))), PATTERN)
    np.testing.assert_array_equal(read_label(tmp_path / "a.tif", Reading(label_nodata=0)), np.where(PATTERN, 1, 255))
    with pytest.raises(InputError, match=r"declares 0 as nodata.*say --nodata nan"):
        read_prediction(tmp_path / "a.tif", kind="mask")
    np.testing.assert_array_equal(read_prediction(tmp_path / "a.tif", nodata=float("nan"))[1], PATTERN)


def test_nothing_that_counts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no valid pixel"):
        read_label(save(tmp_path, np.full((3, 3), 7, np.uint8)), Reading(label_nodata=7))


def test_bands(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 bands"):
        read_label(save(tmp_path, np.zeros((2, 3, 4))))


@pytest.mark.parametrize("values", [(0, 255), (0, 1)])
def test_a_mask_in_npy_needs_no_declared_nodata(tmp_path, values):
    mask = np.array([[*values, mask_nodata(values)]], np.uint8)
    np.save(tmp_path / "holes.npy", mask)
    np.save(tmp_path / "whole.npy", mask[:, :2])
    assert resolve(Reading(), [tmp_path / "whole.npy", tmp_path / "holes.npy"], "prediction").kind == "mask"
    kind, read = read_prediction(tmp_path / "holes.npy")
    assert kind == "mask"
    assert np.array_equal(read, [[0, 1, np.nan]], equal_nan=True)


def test_a_mask_without_foreground_keeps_its_invalid_pixels(tmp_path):
    np.save(tmp_path / "holes.npy", np.array([[0, 127, 0]], np.uint8))
    kind, read = read_prediction(tmp_path / "holes.npy")
    assert kind == "mask"
    assert np.array_equal(read, [[0, np.nan, 0]], equal_nan=True)
    np.save(tmp_path / "nothing.npy", np.array([[127, 127]], np.uint8))
    with pytest.raises(InputError, match="no valid pixel"):
        read_prediction(tmp_path / "nothing.npy", kind="mask")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_by_window_as_whole(tmp_path: Path, data: st.DataObject) -> None:
    """What is foreground, what is nodata, and what is refused depends on the whole file, however it is read."""
    numbers = data.draw(st.sampled_from([(0, 1), (0, 255), (0, 1, 255), (0, 127, 255), (0, 1, 7), (255,), (0, 0.5)]))
    dtype = data.draw(st.sampled_from(["uint8", "float32"]))
    shape = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 30))
    draw = np.random.default_rng(data.draw(st.integers(0, 99)))
    path = save(tmp_path, draw.choice(numbers, shape, p=None).astype(dtype))
    role = data.draw(st.sampled_from(["label", "mask"]))
    nodata = data.draw(st.sampled_from([None, 255]))

    def read(pixels: int) -> np.ndarray | str:
        with pytest.MonkeyPatch.context() as patch:
            bands = [Window(y, 0, 1, shape[1]) for y in range(shape[0])] if pixels == 1 else None
            patch.setattr("prn_cli.rasters.labels.row_bands", lambda h, w: bands or row_bands(h, w))
            try:
                with open_map(role, path, Reading(nodata=nodata, label_nodata=nodata)) as opened:
                    y, x = data.draw(st.integers(0, shape[0] - 1)), data.draw(st.integers(0, shape[1] - 1))
                    window = Window(y, x, shape[0] - y, shape[1] - x)
                    whole = opened.read()
                    np.testing.assert_array_equal(opened.read(window), whole[window.slices])
                    return whole
            except InputError as error:
                return str(error)

    whole, banded = read(1 << 22), read(1)
    assert isinstance(whole, str) == isinstance(banded, str)
    if isinstance(whole, str):
        assert whole == banded
    else:
        np.testing.assert_array_equal(whole, banded)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "uint32"])
def test_grey_of_8_bits_in_any_integer(tmp_path: Path, dtype: str) -> None:
    values = np.array([[0, 128, 129, 255]], dtype)
    np.save(tmp_path / "a.npy", values)
    np.testing.assert_array_equal(read_label(tmp_path / "a.npy", role="grey label"), [[0, 0, 1, 1]])
