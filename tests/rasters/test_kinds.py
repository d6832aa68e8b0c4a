from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from prn_cli.errors import InputError, UsageError
from prn_cli.maps.tiles import Window
from prn_cli.rasters import Reading, count_reasons, open_map, resolve, with_bands


def save(folder: Path, *arrays: np.ndarray) -> list[Path]:
    paths = []
    for number, array in enumerate(arrays):
        paths.append(folder / f"{number:03}.npy")
        np.save(paths[-1], array)
    return paths


def ramp(low: float, high: float, dtype: str) -> np.ndarray:
    return np.linspace(low, high, 64).reshape(8, 8).astype(dtype)


@pytest.mark.parametrize(
    ("low", "high", "dtype", "kind"),
    [
        (-9, 7, "float16", "logits"),
        (-9, -1, "float32", "logits"),
        (-0.5, 0.5, "float64", "logits"),
        (0, 1, "float32", "probabilities"),
        (0.2, 0.3, "float16", "probabilities"),
        (0, 1.0005, "float16", "probabilities"),
        (-0.0005, 0.9, "float32", "probabilities"),
        (0, 255, "uint8", "byte"),
        (3, 202, "uint8", "byte"),
        (3, 239, "uint8", "byte"),
        (0, 33000, "uint16", "byte"),
        (0, 65535, "uint16", "byte"),
    ],
)
def test_clear_kinds(tmp_path: Path, low: float, high: float, dtype: str, kind: str) -> None:
    paths = save(tmp_path, ramp(low, high, dtype))
    assert resolve(Reading(), paths).kind == kind
    assert resolve(Reading(), paths, "prediction").kind == kind


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (ramp(0, 100, "float32"), "from 0 to 100 could be percent or logits.*--input-kind percent"),
        (ramp(0, 7, "float32"), "percent or logits"),
        (ramp(0, 255, "float32"), "byte or logits"),
        (np.zeros((4, 4), np.float32), "logits or probabilities"),
        (ramp(0, 100, "uint8"), "percent or byte"),
        (ramp(0, 200, "uint16"), "percent or byte"),
        (ramp(-9, 7, "int16"), "logits, percent or byte"),
        (ramp(0, 90000, "uint32"), "logits, percent or byte"),
    ],
)
def test_ambiguity_is_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve(Reading(), save(tmp_path, array))
    with pytest.raises(InputError, match=message):
        resolve(Reading(), save(tmp_path, array), "prediction")


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "int64"])
@pytest.mark.parametrize("values", [(0, 1), (0, 255), (0, 0), (1, 1)])
def test_masks(tmp_path: Path, values: tuple[int, int], dtype: str) -> None:
    mask = np.where(np.arange(64).reshape(8, 8) % 3 == 0, *values).astype(dtype)
    paths = save(tmp_path, mask)
    with pytest.raises(InputError, match="a mask of two values"):
        resolve(Reading(), paths)
    assert resolve(Reading(), paths, "prediction").kind == "mask"


@pytest.mark.parametrize(
    "numbers",
    [
        [{0, 127}],
        [{127}],
        [{0, 127}, {0, 255, 127}],
        [{0, 255}, {127}, {0}],
        [{0, 127}, {0, 255}],
        [{0, 1, 255}, {0, 1}, {0}],
        [{1, 255}, {0, 1}],
    ],
)
def test_prn_s_own_masks_with_invalid_pixels(tmp_path: Path, numbers: list[set[int]]) -> None:
    arrays = [np.array([sorted(found) * 3], np.uint8) for found in numbers]
    for order in (arrays, arrays[::-1]):
        paths = save(tmp_path, *order)
        assert resolve(Reading(), paths, "prediction").kind == "mask"
        with pytest.raises(InputError, match="a mask of two values"):
            resolve(Reading(), paths)


@pytest.mark.parametrize("numbers", [[{0, 1}, {0, 255}], [{0, 1, 255}, {0, 255}], [{0, 1}, {0, 127}], [{0, 1, 127}]])
def test_masks_of_two_kinds_are_refused(tmp_path: Path, numbers: list[set[int]]) -> None:
    paths = save(tmp_path, *(np.array([sorted(found)], np.uint8) for found in numbers))
    for role in ("prediction", "scores"):
        with pytest.raises(InputError, match=r"masks of 0 and 1 and masks of 0 and 255.*one kind at a time"):
            resolve(Reading(), paths, role)
    if 127 not in set().union(*numbers):
        assert resolve(Reading(nodata=255), paths, "prediction").kind == "mask"


def test_bytes_beside_what_looks_like_masks(tmp_path: Path) -> None:
    some = np.array([[0, 127]], np.uint8)
    assert resolve(Reading(), save(tmp_path, some, np.array([[0, 80, 255]], np.uint8)), "prediction").kind == "byte"


def test_empty_masks_among_others(tmp_path: Path) -> None:
    some = np.array([[0, 255]], np.uint8)
    assert (
        resolve(Reading(), save(tmp_path, np.zeros_like(some), some, np.zeros_like(some)), "prediction").kind == "mask"
    )
    assert resolve(Reading(), save(tmp_path, some, np.array([[0, 80, 220]], np.uint8)), "prediction").kind == "byte"


def test_the_joint_range_counts(tmp_path: Path) -> None:
    paths = save(tmp_path, ramp(0, 0.9, "float32"), ramp(-3, 4, "float16"), np.zeros((2, 2), np.float64))
    assert resolve(Reading(), paths).kind == "logits"
    assert resolve(Reading(), save(tmp_path, ramp(0, 30, "uint8"), ramp(0, 220, "uint8"))).kind == "byte"


def test_a_sample_of_sixteen_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prn_cli.rasters import Reading, raster, resolve

    paths = save(tmp_path, *[ramp(-1, 1, "float32")] * 100)
    opened: list[Path] = []
    real = raster.open_raster
    monkeypatch.setattr(raster, "open_raster", lambda path, **more: opened.append(path) or real(path, **more))
    resolve(Reading(), paths)
    assert len(opened) == 16
    assert (opened[0], opened[-1]) == (paths[0], paths[-1])


def test_bad_files_are_left_to_fail_on_their_own(tmp_path: Path) -> None:
    paths = save(tmp_path, np.full((2, 2), np.nan), ramp(-3, 3, "float32"))
    (tmp_path / "empty.npy").touch()
    assert resolve(Reading(), [tmp_path / "missing.npy", tmp_path / "empty.npy", *paths]).kind == "logits"
    with pytest.raises(InputError, match="no such file"):
        resolve(Reading(), [tmp_path / "missing.npy", tmp_path / "empty.npy"])
    with pytest.raises(InputError, match="no valid pixel"):
        resolve(Reading(), paths[:1])
    with pytest.raises(InputError, match="no score maps"):
        resolve(Reading(), [])


def test_mixed_types_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"uint8, but 000\.npy has float32"):
        resolve(Reading(), save(tmp_path, ramp(0, 1, "float32"), ramp(0, 255, "uint8")))


def test_invalid_pixels_do_not_count(tmp_path: Path) -> None:
    array = ramp(0, 1, "float32")
    array[0, :4] = (np.nan, np.inf, -np.inf, -9999)
    paths = save(tmp_path, array)
    with pytest.raises(InputError, match=r"a value of -9999, expected logits within .*--nodata -9999"):
        resolve(Reading(), paths)
    assert resolve(Reading(nodata=-9999), paths).kind == "probabilities"


def test_a_big_map_with_little_in_it(tmp_path: Path) -> None:
    array = np.full((1500, 1500), np.nan, np.float16)
    array[700, 300:310] = np.linspace(0, 0.5, 10)  # between the windows of the sample
    assert resolve(Reading(), save(tmp_path, array)).kind == "probabilities"
    array[:] = 0
    array[700, 300] = -4
    assert resolve(Reading(), save(tmp_path, array)).kind == "logits"
    with pytest.raises(InputError, match="no valid pixel"):
        resolve(Reading(), save(tmp_path, np.full((1500, 1500), np.nan, np.float16)))


PROBABILITIES = 1 / (1 + np.exp(-np.linspace(-9, 9, 5000))).reshape(50, 100)


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [(1000, "uint16"), (10_000, "uint16"), (4095, "uint16"), (32_767, "uint16"), (200, "uint8"), (250, "uint8")],
)
@pytest.mark.parametrize("invalid", [False, True])
def test_scaled_integers_are_asked_about(tmp_path: Path, scale: int, dtype: str, invalid: bool) -> None:
    array = np.round(PROBABILITIES * scale).astype(dtype)
    if invalid:  # a value of its own that nothing declares
        array[:4] = np.iinfo(dtype).max
    paths = save(tmp_path, array)
    with pytest.raises(
        InputError, match=rf"another scale; say which: --input-kind byte; or --scale {scale} for"
    ) as caught:
        resolve(Reading(), paths)
    assert (f"--nodata {np.iinfo(dtype).max}" in str(caught.value)) == invalid
    reading = Reading(scale=scale, nodata=float(np.iinfo(dtype).max))
    assert resolve(reading, paths).kind == "probabilities"
    with open_map("scores", paths[0], reading) as scores:
        valid = ~np.isnan(scores.probabilities())
        assert valid.all() == (not invalid)
        np.testing.assert_allclose(scores.probabilities()[valid], PROBABILITIES[valid], atol=0.5 / scale)


@pytest.mark.parametrize("dtype", ["int16", "int32", "float32", "float64"])
def test_scaled_logits(tmp_path: Path, dtype: str) -> None:
    logits = np.linspace(-9, 9, 5000).reshape(50, 100)
    array = np.round(logits * 1000).astype(dtype)
    array[0, :3] = -9999
    paths = save(tmp_path, array)
    with pytest.raises(InputError):
        resolve(Reading(nodata=-9999), paths)
    reading = resolve(Reading(nodata=-9999, scale=1000), paths)
    assert reading.kind == "logits"
    with open_map("scores", paths[0], reading) as scores:
        found = scores.logits()
        assert np.isnan(found[0, :3]).all()
        np.testing.assert_allclose(found[1:], logits[1:], atol=1e-3)


def test_declared_bits_are_the_scale(tmp_path: Path) -> None:
    array = np.round(PROBABILITIES * 4095).astype(np.uint16)
    path = tmp_path / "a.tif"
    with rasterio.open(path, "w", driver="GTiff", height=50, width=100, count=1, dtype="uint16", NBITS=12) as file:
        file.write(array, 1)
    with open_map("scores", path) as scores:
        assert scores.kind == "byte"
        np.testing.assert_allclose(scores.probabilities(), PROBABILITIES, atol=1e-3)


def test_probabilities_beside_one_negative_value_are_asked_about(tmp_path: Path) -> None:
    array = PROBABILITIES.astype(np.float32)
    array[:5] = -1
    paths = save(tmp_path, array)
    with pytest.raises(InputError, match=r"logits, or probabilities beside -1.*--input-kind probabilities --nodata -1"):
        resolve(Reading(), paths)
    assert resolve(Reading(nodata=-1), paths).kind == "probabilities"


def test_probabilities_among_logits(tmp_path: Path) -> None:
    logits = np.linspace(-4, 4, 5000, dtype=np.float32).reshape(50, 100)
    paths = save(tmp_path, logits, PROBABILITIES.astype(np.float32), logits)
    with pytest.raises(InputError, match=r"001\.npy: values from 0 to 1, where other files hold logits"):
        resolve(Reading(), paths)
    assert resolve(Reading(), [paths[0], paths[2]]).kind == "logits"


def of_two_bands(kind: str) -> np.ndarray:
    z = np.linspace(-8, 8, 5000).reshape(50, 100)
    p = 1 / (1 + np.exp(-z))
    wave = np.sin(np.arange(5000)).reshape(50, 100)
    bands = {
        "pair": (-z + wave, z),
        "shifted": (6 - z / 2, z / 2 - 6),
        "log-softmax": (np.log(1 - p), np.log(p)),
        "background of 0": (0 * z, z),
        "entropy": (z, -(p * np.log(p) + (1 - p) * np.log(1 - p))),
        "falling entropy": (np.abs(z) - 1, 4 - np.abs(z) / 2),
        "classes": (z, (z > 0) * 1.0),
        "empty band": (z, 0 * z),
        "two classes of their own": (z, 3 * wave),
        "day": (z, 0 * z + 120),
    }
    return np.stack(bands[kind]).astype(np.float32)


@pytest.mark.parametrize("kind", ["pair", "shifted", "log-softmax", "background of 0"])
def test_two_bands_of_a_softmax(tmp_path: Path, kind: str) -> None:
    paths = save(tmp_path, of_two_bands(kind))
    assert with_bands(resolve(Reading(), paths), paths).is_pair
    assert not with_bands(Reading(kind="logits", band=2), paths).is_pair


@pytest.mark.parametrize(
    "kind", ["entropy", "falling entropy", "classes", "empty band", "two classes of their own", "day"]
)
def test_two_bands_that_are_no_softmax(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InputError, match=r"2 bands, .* do not rise and fall against each other"):
        with_bands(Reading(kind="logits"), save(tmp_path, of_two_bands(kind)))


def test_all_maps_of_a_set_have_as_many_bands(tmp_path: Path) -> None:
    pair = of_two_bands("pair")
    paths = save(tmp_path, pair, pair[1])
    for first, other in (paths, paths[::-1]):
        reading = with_bands(Reading(kind="logits"), [first, other])
        open_map("scores", first, reading).close()
        with pytest.raises(InputError, match=f"expected {reading.bands} as in the first map"):
            open_map("scores", other, reading)


@pytest.mark.parametrize("values", [(0, 1), (0, 255)])
@pytest.mark.parametrize("suffix", ["npy", "png"])
def test_hard_masks_are_scores_of_their_own_kind(tmp_path: Path, values: tuple[int, int], suffix: str) -> None:
    truth = np.arange(64).reshape(8, 8) % 3 == 0
    mask, path = np.where(truth, values[1], values[0]).astype(np.uint8), tmp_path / f"mask.{suffix}"
    mask[:2, :2] = 127 if values[1] == 255 else 255
    if suffix == "npy":
        np.save(path, mask)
    else:
        Image.fromarray(mask).save(path)
    reading = Reading(kind="mask", nodata=float(mask[0, 0]) if suffix == "png" else None)
    with open_map("scores", path, reading) as scores:
        probabilities, logits = scores.probabilities(), scores.logits(Window(1, 2, 3, 4))
        scores.check_valid()
        assert count_reasons(scores.reasons()) == {"nodata": 4}
    assert np.isnan(probabilities[:2, :2]).all()
    valid = ~np.isnan(probabilities)
    assert valid.sum() == 60
    np.testing.assert_allclose(probabilities[valid], np.where(truth, 0.95, 0.05)[valid], rtol=1e-6)
    np.testing.assert_allclose(logits, np.where(truth, 2.944439, -2.944439)[1:4, 2:6], rtol=1e-5)


def test_what_is_no_mask_is_not_read_as_one(tmp_path: Path) -> None:
    (path,) = save(tmp_path, np.uint8([[0, 3, 255]]))
    with pytest.raises(InputError, match="mask is not binary"):
        open_map("scores", path, Reading(kind="mask"))
    (path,) = save(tmp_path, np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(UsageError, match="--input-kind mask, expected scores with a band a class"):
        open_map("class scores", path, Reading(kind="mask"))
