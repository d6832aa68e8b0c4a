from __future__ import annotations

import numpy as np
import pytest
import rasterio
from PIL import Image

from prn_cli.errors import InputError, UsageError
from prn_cli.maps.classes import choose
from prn_cli.maps.tiles import Window
from prn_cli.rasters import Reading, class_names, count_bands, create_raster, open_map, open_raster, read_palette

COLOURS = np.array([[226, 169, 41], [60, 16, 152], [110, 193, 228], [254, 221, 58], [10, 20, 30]], np.uint8)


def softmax(seed, classes=3, shape=(12, 14)):
    logits = np.random.default_rng(seed).standard_normal((classes, *shape)) * 2
    shares = np.exp(logits)
    return logits.astype(np.float32), (shares / shares.sum(axis=0)).astype(np.float32)


def test_logits_and_probabilities_of_one_model_say_the_same(tmp_path):
    logits, probabilities = softmax(0)
    logits[1, 2, 3] = np.nan
    np.save(tmp_path / "z.npy", logits)
    np.save(tmp_path / "p.npy", probabilities)
    with (
        open_map("class scores", tmp_path / "z.npy", Reading(kind="logits")) as z,
        open_map("class scores", tmp_path / "p.npy", Reading(kind="probabilities")) as p,
    ):
        assert z.classes == p.classes == 3
        ours = z.logits()
        assert np.isnan(ours[:, 2, 3]).all()
        assert np.isnan(ours).sum() == 3
        valid = ~np.isnan(ours)
        np.testing.assert_allclose(ours[valid], p.logits()[valid], rtol=1e-2, atol=1e-3)
        window = Window(3, 2, 4, 5)
        np.testing.assert_array_equal(z.logits(window), ours[:, *window.slices])
        assert np.array_equal(choose(p.scores()), probabilities.argmax(axis=0))


@pytest.mark.parametrize("full", [255, 100])
def test_rounded_softmax_is_one(tmp_path, full):
    _, probabilities = softmax(1, classes=20)
    kind = "byte" if full == 255 else "percent"
    np.save(tmp_path / "p.npy", np.rint(probabilities * full).astype(np.uint8))
    with open_map("class scores", tmp_path / "p.npy", Reading(kind=kind)) as scores:
        assert scores.logits().shape == (20, 12, 14)


def test_what_is_no_softmax_is_refused(tmp_path):
    np.save(tmp_path / "labels.npy", np.full((3, 4, 4), 0.7, np.float32))
    with (
        open_map("class scores", tmp_path / "labels.npy", Reading(kind="probabilities")) as scores,
        pytest.raises(InputError, match=r"add up to 2\.1 and not 1"),
    ):
        scores.logits()
    np.save(tmp_path / "one.npy", np.zeros((4, 4), np.float32))
    with pytest.raises(InputError, match="1 band, expected one a class"):
        open_map("class scores", tmp_path / "one.npy", Reading(kind="logits"))


def test_class_numbers_are_read_and_told_apart(tmp_path):
    numbers = np.array([[0, 1, 2], [4, 255, 9]], np.uint8)
    image = Image.fromarray(numbers)
    image.putpalette(COLOURS.tobytes() + bytes(3 * 251))
    image.save(tmp_path / "label.png")
    with open_map("class numbers", tmp_path / "label.png", Reading(nodata=9)) as label:
        assert label.read().tolist() == [[0, 1, 2], [4, 255, 255]]
        assert label.numbers == [0, 1, 2, 4]
        label.check_below(5)
        with pytest.raises(InputError, match="class 4, expected 0 to 3"):
            label.check_below(4)
    with open_map("class numbers", tmp_path / "label.png", Reading(nodata=9), one=1) as label:
        assert label.read().tolist() == [[0, 1, 0], [0, 255, 255]]
    np.save(tmp_path / "wide.npy", numbers.astype(np.int64) - 1)
    with open_map("class numbers", tmp_path / "wide.npy", Reading(nodata=-1)) as label:
        assert label.read().tolist() == [[255, 0, 1], [3, 254, 8]]
    with pytest.raises(InputError, match="the value -1, expected class numbers"):
        open_map("class numbers", tmp_path / "wide.npy")
    np.save(tmp_path / "nothing.npy", np.full((2, 2), 255, np.uint8))
    with pytest.raises(InputError, match="no valid pixel"):
        open_map("class numbers", tmp_path / "nothing.npy")


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_palette_is_kept(tmp_path, suffix):
    path = tmp_path / f"map.{suffix}"
    numbers = np.random.default_rng(0).integers(0, 5, (30, 40)).astype(np.uint8)
    numbers[:4] = 255
    with create_raster(path, height=30, width=40, dtype=np.uint8, nodata=255, palette=COLOURS) as writer:
        writer.write(numbers[:17])
        writer.write(numbers[17:])
    with open_raster(path) as raster:
        assert np.array_equal(raster.read()[0], numbers)
        assert np.array_equal(raster.palette[:5, :3], COLOURS)
        assert raster.nodata == 255
    assert np.array_equal(read_palette(path).colours[:5], COLOURS)
    with rasterio.open(path) as other:
        assert np.array_equal(other.read(1), numbers)
        assert [other.colormap(1)[number][:3] for number in range(5)] == [tuple(map(int, row)) for row in COLOURS]
        assert other.nodata == 255
    if suffix == "png":
        with Image.open(path) as image:
            assert image.mode == "P"
            assert np.array_equal(np.asarray(image), numbers)


def test_a_palette_may_be_text_with_names(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("# number red green blue name\n0 226 169 41 bare land\n2,110,193,228,road\n\n1 60 16 152\n")
    palette = read_palette(path)
    assert np.array_equal(palette.colours, COLOURS[:3])
    assert palette.names == {0: "bare land", 2: "road"}
    assert class_names(3, None, palette) == ["bare land", "1", "road"]
    for text, message in (("0 1 2", "the line '0 1 2'"), ("0 1 2 256", "numbers 0 to 255"), ("# no", "no class")):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_palette(path)
    np.save(tmp_path / "grey.npy", np.zeros((2, 2), np.uint8))
    with pytest.raises(InputError, match="has no palette"):
        read_palette(tmp_path / "grey.npy")


def test_names_are_one_a_class():
    assert class_names(2, "land, water", None) == ["land", "water"]
    assert class_names(2, None, None) == ["0", "1"]
    for given in ("land", "land,land", "land,", "land,../water"):
        with pytest.raises(UsageError):
            class_names(2, given, None)


def test_bands_are_those_of_the_first_file_that_can_be_opened(tmp_path):
    np.save(tmp_path / "five.npy", np.zeros((5, 4, 4), np.float32))
    (tmp_path / "broken.npy").write_text("no array")
    assert count_bands([tmp_path / "broken.npy", tmp_path / "five.npy"]) == 5
    with pytest.raises(InputError):
        count_bands([tmp_path / "broken.npy"])
