"""Labels, masks and baselines lie where their georeference says, as images do; the oracle is GDAL's warper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.transform import Affine
from rasterio.warp import Resampling, reproject

from prn_cli.errors import InputError
from prn_cli.maps.tiles import Window
from prn_cli.rasters import Reading, open_map, open_raster

UTM = Affine(10, 0, 500000, 0, -10, 5000000)
SHAPE = 24, 30
LABEL = np.random.default_rng(3).integers(0, 2, SHAPE, np.uint8)
LOGITS = Reading(kind="logits")

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

MOVES = {
    "same": (LABEL, UTM),
    "south up": (LABEL[::-1], UTM @ Affine.translation(0, 24) @ Affine.scale(1, -1)),
    "west up": (LABEL[:, ::-1], UTM @ Affine.translation(30, 0) @ Affine.scale(-1, 1)),
    "crossed": (LABEL.T, UTM @ Affine(0, 1, 0, 1, 0, 0)),
    "quarter turn": (np.rot90(LABEL), UTM @ Affine(0, -1, 30, 1, 0, 0)),
    "half turn": (np.rot90(LABEL, 2), UTM @ Affine.translation(30, 24) @ Affine.scale(-1, -1)),
    "larger": (np.pad(LABEL, ((2, 5), (7, 1)), constant_values=1), UTM @ Affine.translation(-7, -2)),
    "twice as fine": (LABEL.repeat(2, 0).repeat(2, 1), UTM @ Affine.scale(0.5)),
    "not square": (LABEL.repeat(3, 1), UTM @ Affine.scale(1 / 3, 1)),
}


def write(path: Path, values: NDArray[Any], transform: Affine | None = UTM, crs: Any = 32632, **more: Any) -> Path:
    values = values if values.ndim == 3 else values[None]
    geo = {} if transform is None else {"transform": transform, "crs": crs}
    count, height, width = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=values.dtype, **geo, **more
    ) as file:
        file.write(values)
    return path


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    return write(tmp_path / "map.tif", np.random.default_rng(0).normal(size=SHAPE).astype(np.float32))


@pytest.mark.parametrize("role", ["label", "class label", "grey label", "mask", "class numbers", "scores"])
@pytest.mark.parametrize("move", MOVES)
def test_the_same_ground_is_read_on_the_grid_of_the_map(tmp_path: Path, scores: Path, role: str, move: str) -> None:
    values, transform = MOVES[move]
    path = write(tmp_path / "label.tif", values.astype(np.float32 if role == "scores" else np.uint8), transform)
    with open_raster(scores) as like, open_map(role, path, LOGITS, like=like) as opened:
        assert (opened.height, opened.width) == SHAPE
        read = opened.scores if role == "scores" else opened.read
        np.testing.assert_array_equal(read(), LABEL)
        np.testing.assert_array_equal(read(Window(5, 7, 11, 3)), LABEL[5:16, 7:10])


@pytest.mark.parametrize("move", MOVES)
def test_a_validity_mask_is_read_so_too(tmp_path: Path, scores: Path, move: str) -> None:
    values, transform = MOVES[move]
    mask = write(tmp_path / "valid.tif", np.ascontiguousarray(values), transform)
    with open_map("scores", scores, LOGITS, valid_mask=mask) as opened:
        np.testing.assert_array_equal(np.isnan(opened.logits()), LABEL == 0)


@pytest.mark.parametrize("move", [move for move in MOVES if move not in ("twice as fine", "not square")])
def test_and_so_is_an_image(tmp_path: Path, scores: Path, move: str) -> None:
    values, transform = MOVES[move]
    image = write(tmp_path / "image.tif", values, transform)
    with open_raster(scores) as like, open_map("image", image, like=like) as opened:
        np.testing.assert_array_equal(opened.read()[0], LABEL)
        np.testing.assert_array_equal(opened.read(Window(5, 7, 11, 3))[0], LABEL[5:16, 7:10])


@given(
    size=st.tuples(st.floats(4, 23), st.floats(4, 23)),
    flip=st.tuples(st.sampled_from([1, -1]), st.sampled_from([1, -1])),
    crossed=st.booleans(),
    seed=st.integers(0, 9),
)
def test_any_pixel_size_as_gdal_warps_it(
    tmp_path_factory: pytest.TempPathFactory, size: Any, flip: Any, crossed: bool, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("warp")
    scores = write(folder / "map.tif", np.zeros(SHAPE, np.float32))
    label = np.random.default_rng(seed).integers(0, 200, (90, 90), np.uint8)
    centre = UTM @ Affine.translation(15.123, 12.321)
    scaled = centre @ Affine.scale(size[0] / 10 * flip[0], size[1] / 10 * flip[1])
    transform = scaled @ (Affine(0, 1, 0, 1, 0, 0) if crossed else Affine.identity()) @ Affine.translation(-45, -45)
    write(folder / "label.tif", label, transform)
    expected = np.full(SHAPE, 255, np.uint8)
    places = {"src_transform": transform, "dst_transform": UTM, "src_crs": 32632, "dst_crs": 32632}
    reproject(label, expected, **places, resampling=Resampling.nearest, init_dest_nodata=False)
    with open_raster(scores) as like, open_map("class label", folder / "label.tif", like=like) as opened:
        found = opened.read()
    assert (found == expected).mean() > 0.99  # centres on the border of two pixels are a matter of rounding


@pytest.mark.parametrize(
    ("transform", "crs", "message"),
    [
        (UTM @ Affine.translation(2, 2), 32632, "georeferenced elsewhere than .*map.tif, of which it covers a part"),
        (UTM @ Affine.translation(0, -1), 32632, ".*covers a part"),
        (UTM @ Affine.scale(0.9), 32632, ".*covers a part"),
        (UTM @ Affine.translation(400, 0), 32632, "lies beside its map"),
        (UTM @ Affine.rotation(20), 32632, "turned against its map"),
        (UTM, 32633, r"in another coordinate reference system \(EPSG:32633\) than its map \(EPSG:32632\)"),
        (UTM, 'LOCAL_CS["site",UNIT["metre",1]]', "in another coordinate reference system"),
    ],
)
def test_other_ground_is_refused(tmp_path: Path, scores: Path, transform: Affine, crs: Any, message: str) -> None:
    label = write(tmp_path / "label.tif", LABEL, transform, crs)
    with open_raster(scores) as like, pytest.raises(InputError, match=rf"label\.tif: {message}"):
        open_map("label", label, like=like)
    with pytest.raises(InputError, match=rf"label\.tif: {message}"):
        open_map("scores", scores, LOGITS, valid_mask=label)


def test_without_a_georeference_the_size_must_be_the_same(tmp_path: Path, scores: Path) -> None:
    label = write(tmp_path / "label.tif", LABEL, None)
    with open_raster(scores) as like, open_map("label", label, like=like) as opened:
        np.testing.assert_array_equal(opened.read(), LABEL)
    write(label, LABEL[:-1], None)
    with open_raster(scores) as like, pytest.raises(InputError, match=r"23×30 pixels, expected 24×30 as in"):
        open_map("label", label, like=like)


@pytest.mark.parametrize("crs", ["EPSG:32632+4326", "+proj=utm +zone=32 +datum=WGS84 +units=m"])
def test_systems_that_are_written_differently_are_the_same_ground(tmp_path: Path, crs: str) -> None:
    scores = write(tmp_path / "map.tif", np.zeros(SHAPE, np.float32), UTM, crs)
    label = write(tmp_path / "label.tif", LABEL[::-1], *(MOVES["south up"][1:]))
    with open_raster(scores) as like, open_map("label", label, like=like) as opened:
        np.testing.assert_array_equal(opened.read(), LABEL)


def test_like_gives_maps_their_place_and_contradicts_none(tmp_path: Path) -> None:
    bare = write(tmp_path / "bare.tif", np.zeros(SHAPE, np.float32), None)
    placed = write(tmp_path / "placed.tif", np.zeros(SHAPE, np.float32), UTM)
    half = write(tmp_path / "half.tif", np.zeros(SHAPE, np.float32), UTM, None)
    larger = write(tmp_path / "larger.tif", *MOVES["larger"])
    for path in (bare, half, placed):
        with open_map("scores", path, LOGITS, georeference=placed) as opened, open_raster(placed) as reference:
            assert opened.raster.geo is not None
            assert opened.raster.geo.reference_system() == reference.geo.reference_system()
            np.testing.assert_array_equal(opened.raster.geo.affine(), reference.geo.affine())
    with open_map("scores", half, LOGITS, georeference=larger) as opened:
        np.testing.assert_array_equal(opened.raster.geo.affine().ravel(), tuple(UTM)[:6])
    with pytest.raises(InputError, match="expected 24×30"):
        open_map("scores", bare, LOGITS, georeference=larger)
    write(larger, LABEL, UTM @ Affine.translation(3, 0))
    with pytest.raises(InputError, match=r"larger\.tif: georeferenced elsewhere"):
        open_map("scores", placed, LOGITS, georeference=larger)
