"""A run that is called again finds what it has written among its inputs, and passes over it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

import prn_cli as prn
from prn_cli.errors import InputError, UsageError


def make(*paths: Path) -> None:
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.random.default_rng(number).normal(0, 3, (20, 24)).astype(np.float32))


def outputs(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir() if path.suffix in (".png", ".npy", ".tif"))


@pytest.mark.parametrize("pattern", ["**/*", "folders"])
def test_a_pattern_that_finds_the_masks_works_again(tmp_path: Path, pattern: str) -> None:
    make(tmp_path / "site" / "a.npy", tmp_path / "site" / "b.npy")
    out = tmp_path / "site" / "masks"
    for _ in range(2):
        names = [str(tmp_path / pattern)] if "*" in pattern else [str(p) for p in (out.parent, out) if p.exists()]
        prn.refine(names, out=out, probabilities=out / "soft", strength=0)
        assert outputs(out) == ["a.png", "b.png"]
        assert outputs(out / "soft") == ["a.npy", "b.npy"]


def test_masks_beside_their_maps(tmp_path: Path) -> None:
    make(tmp_path / "a.npy", tmp_path / "b.npy")
    for _ in range(2):
        prn.refine(tmp_path, out=tmp_path, strength=0)
    with pytest.raises(UsageError, match="all inputs were made by prn"):
        prn.refine(tmp_path / "a.png", out=tmp_path, strength=0)


def test_a_single_output_beside_its_map(tmp_path: Path) -> None:
    make(tmp_path / "a.npy")
    for _ in range(2):
        done = prn.refine(str(tmp_path / "*.npy"), out=tmp_path / "mask.npy", strength=0)
        assert [found.input.name for found in done.maps] == ["a.npy"]
    assert done.maps[0].status == "kept"


def test_outputs_under_another_name_of_their_folder(tmp_path: Path) -> None:
    make(tmp_path / "in" / "a.npy")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for folder in ("in", "link", "in/../in"):
        done = prn.refine(tmp_path / folder, out=tmp_path / "in", strength=0)
        assert [found.input.name for found in done.maps] == ["a.npy"]


def test_outputs_of_a_run_into_another_folder(tmp_path: Path) -> None:
    make(tmp_path / "in" / "a.npy")
    for out in ("masks", "more"):
        done = prn.refine(str(tmp_path / "**" / "*.*"), out=tmp_path / out, strength=0)
        assert [found.input.name for found in done.maps] == ["a.npy"]


def test_pseudolabels_among_the_maps(tmp_path: Path) -> None:
    make(tmp_path / "in" / "a.npy")
    (tmp_path / "labels").mkdir()
    np.save(tmp_path / "labels" / "a.npy", (np.load(tmp_path / "in" / "a.npy") > 0).astype(np.uint8))
    for _ in range(2):
        done = prn.pseudolabel(
            str(tmp_path / "in" / "**" / "*"), labels=tmp_path / "labels", out=tmp_path / "in" / "made", patch=16
        )
        assert [found.input.name for found in done.maps] == ["a.npy"]


def test_a_file_of_the_same_size_and_time_is_another(tmp_path: Path) -> None:
    path = tmp_path / "in" / "a.npy"
    make(path)
    prn.refine(path.parent, out=tmp_path / "out", strength=0)
    times = path.stat().st_mtime_ns
    np.save(path, -np.load(path))
    os.utime(path, ns=(times, times))
    done = prn.refine(path.parent, out=tmp_path / "out", strength=0)
    assert [found.status for found in done.maps] == ["refined"]
    manifest = tmp_path / "out" / "prn-manifest.jsonl"
    manifest.write_text(re.sub(r', "sample": "\w+"', "", manifest.read_text()))  # as an older prn wrote it
    done = prn.refine(path.parent, out=tmp_path / "out", strength=0)
    assert [found.status for found in done.maps] == ["kept"]


def test_probabilities_of_another_run_are_inputs(tmp_path: Path) -> None:
    make(tmp_path / "in" / "a.npy")
    prn.refine(tmp_path / "in", out=tmp_path / "one", probabilities=tmp_path / "soft", strength=0)
    prn.refine(tmp_path / "soft", out=tmp_path / "two", strength=0)
    assert outputs(tmp_path / "two") == ["a.png"]


def test_two_maps_of_one_stem_are_refused_before_the_work(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    make(tmp_path / "in" / "a.npy")
    tifffile.imwrite(tmp_path / "in" / "a.tif", np.load(tmp_path / "in" / "a.npy"))
    with pytest.raises(InputError, match="has the stem of"):
        prn.refine(tmp_path / "in", out=tmp_path / "out", strength=0)
    assert not (tmp_path / "out").exists()
