"""Tiles of a scene give what the whole scene gives, in runs that stop, go on, change and come in parts."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prn_cli as prn
from prn_cli.files.manifest import MANIFEST_NAME

rasterio = pytest.importorskip("rasterio")

from rasterio.transform import Affine  # noqa: E402

UTM = Affine(2, 0, 500000, 0, -2, 5000000)
ROWS, COLUMNS = (0, 70, 140, 180), (0, 100, 101, 240)
AREAS = {"min_area": 400.0, "fill_holes": 300.0}


def write(path: Path, logits: np.ndarray, transform: Affine | None, crs: int | None = 32633) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    size = {"count": 1, "height": logits.shape[0], "width": logits.shape[1], "dtype": "float32"}
    with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=transform, **size) as file:
        file.write(logits, 1)


@pytest.fixture
def scene(tmp_path: Path, random_logits: Any) -> np.ndarray:
    logits = random_logits(180, 240) - 1
    logits[60:75, 90:104] = np.nan
    write(tmp_path / "whole" / "a.tif", logits, UTM)
    for i, (y, bottom) in enumerate(pairwise(ROWS)):
        for j, (x, right) in enumerate(pairwise(COLUMNS)):
            write(tmp_path / "tiles" / f"{i}{j}.tif", logits[y:bottom, x:right], UTM @ Affine.translation(x, y))
    return logits


@pytest.fixture
def refine(tmp_path: Path, make_onnx: Any) -> Any:
    weights = make_onnx()

    def run(name: str = "tiles", out: str | None = None, **more: Any) -> dict[str, str]:
        """Refine, and tell the status of each map. Strength 0, as windows see no farther than their tile."""
        options = {"weights": weights, "strength": 0.0, "threshold": 0.5, "input_kind": "logits", **AREAS, **more}
        result = prn.refine(tmp_path / name, out=tmp_path / (out or f"{name}-out"), **options)
        return {found.input.stem: found.status for found in result.maps}

    return run


def masks(folder: Path) -> np.ndarray:
    """The masks of a folder on one grid."""
    found = np.zeros((180, 240), np.uint8)
    for path in folder.glob("*.tif"):
        with rasterio.open(path) as file:
            x, y = (round(value) for value in ~UTM @ (file.transform.c, file.transform.f))
            found[y : y + file.height, x : x + file.width] = file.read(1)
    return found


def test_tiles_give_what_the_whole_scene_gives(tmp_path: Path, scene: np.ndarray, refine: Any) -> None:
    refine("whole")
    statuses = refine("tiles", probabilities=tmp_path / "p")
    assert set(statuses.values()) == {"refined"}
    whole = masks(tmp_path / "whole-out")
    np.testing.assert_array_equal(masks(tmp_path / "tiles-out"), whole)
    assert (whole == 127).sum() == np.isnan(scene).sum()
    changed = (whole == 255) != (scene > 0)
    assert changed[np.isfinite(scene)].any()
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == sorted(f"{stem}.tif" for stem in statuses)
    refine("whole", out="plain", min_area=0.0, fill_holes=0.0)
    refine("tiles", out="tiles-plain", min_area=0.0, fill_holes=0.0)
    np.testing.assert_array_equal(masks(tmp_path / "tiles-plain"), masks(tmp_path / "plain"))
    assert not (tmp_path / "tiles-plain" / ".drafts").exists()


def test_what_is_current_is_kept(tmp_path: Path, scene: np.ndarray, refine: Any) -> None:
    more = {"probabilities": tmp_path / "p", "polygons": tmp_path / "layer.gpkg"}
    refine(**more)
    first = masks(tmp_path / "tiles-out")
    assert set(refine(**more).values()) == {"kept"}
    (tmp_path / "tiles-out" / "11.tif").unlink()
    (tmp_path / "p" / "20.tif").unlink()
    assert {stem for stem, status in refine(**more).items() if status == "refined"} == {"11", "20"}
    assert (tmp_path / "p" / "20.tif").is_file()
    np.testing.assert_array_equal(masks(tmp_path / "tiles-out"), first)


def test_other_areas_refine_nothing_again(tmp_path: Path, scene: np.ndarray, refine: Any) -> None:
    refine()
    drafts = {path: path.stat().st_mtime_ns for path in (tmp_path / "tiles-out" / ".drafts").iterdir()}
    assert len(drafts) == 9
    for areas in ({"min_area": 40.0}, {"fill_holes": 0.0}):
        assert set(refine(**areas).values()) == {"refined"}
        refine("whole", **areas)
        np.testing.assert_array_equal(masks(tmp_path / "tiles-out"), masks(tmp_path / "whole-out"))
    assert {path: path.stat().st_mtime_ns for path in drafts} == drafts


def test_a_tile_that_changes_changes_its_scene(tmp_path: Path, scene: np.ndarray, refine: Any) -> None:
    refine()
    scene[ROWS[1] : ROWS[2], COLUMNS[2] :] += 1
    write(tmp_path / "tiles" / "12.tif", scene[ROWS[1] : ROWS[2], COLUMNS[2] :], UTM @ Affine.translation(101, 70))
    write(tmp_path / "whole" / "a.tif", scene, UTM)
    assert set(refine().values()) == {"refined"}
    refine("whole")
    np.testing.assert_array_equal(masks(tmp_path / "tiles-out"), masks(tmp_path / "whole-out"))


def test_a_tile_that_fails_costs_no_other(tmp_path: Path, scene: np.ndarray, refine: Any) -> None:
    tile = tmp_path / "tiles" / "12.tif"
    whole = tile.read_bytes()
    tile.write_bytes(whole[:300])
    assert len(refine()) == 8
    tile.write_bytes(whole)
    assert len(refine()) == 9
    refine("whole")
    np.testing.assert_array_equal(masks(tmp_path / "tiles-out"), masks(tmp_path / "whole-out"))


def test_the_last_run_of_a_job_array_joins_its_parts(tmp_path: Path, scene: np.ndarray, refine: Any) -> None:
    for part in range(3):
        refine(num_parts=3, part_id=part)
    drafts = {path: path.stat().st_mtime_ns for path in (tmp_path / "tiles-out" / ".drafts").iterdir()}
    assert len(drafts) == 9
    refine()
    assert {path: path.stat().st_mtime_ns for path in drafts} == drafts
    refine("whole")
    np.testing.assert_array_equal(masks(tmp_path / "tiles-out"), masks(tmp_path / "whole-out"))


def test_neighbours_on_other_grids_are_none(tmp_path: Path, refine: Any) -> None:
    """A block of 4 pixels (16 m²) at the right border; beside it ground of another system, pixel size or offset."""
    logits = np.full((20, 20), -6, np.float32)
    logits[8:10, 18:] = 6
    other = np.full((20, 20), -6, np.float32)
    places = {
        "system": (UTM @ Affine.translation(20, 0), 32634),
        "size": (UTM @ Affine.translation(20, 0) @ Affine.scale(1.1), 32633),
        "offset": (UTM @ Affine.translation(20, 0.5), 32633),
        "gap": (UTM @ Affine.translation(21, 0), 32633),
        "none": (None, None),
    }
    for name, place in places.items():
        write(tmp_path / name / "a.tif", logits, UTM)
        write(tmp_path / name / "b.tif", other, *place)
        refine(name, min_area=100.0)
        assert (masks_of(tmp_path / f"{name}-out" / "a.tif") == 255).sum() == 4  # spared
    write(tmp_path / "beside" / "a.tif", logits, UTM)
    write(tmp_path / "beside" / "b.tif", other, UTM @ Affine.translation(20, 5))
    refine("beside", min_area=100.0)
    assert (masks_of(tmp_path / "beside-out" / "a.tif") == 255).sum() == 0
    assert (tmp_path / "beside-out" / MANIFEST_NAME).is_file()


def masks_of(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1)
