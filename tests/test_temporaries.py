from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from prn_cli.errors import OutputError
from prn_cli.files.temporaries import Temporary, remove_stale, write_whole

fcntl = pytest.importorskip("fcntl")

# Makes a temporary file, says so, and waits to be killed.
WRITER = """
import signal, sys
from pathlib import Path
from prn_cli.files.temporaries import Temporary
temporary = Temporary(Path(sys.argv[1]))
temporary.create()
temporary.name.write_bytes(b"half")
print(temporary.name, flush=True)
signal.pause()
"""


def test_only_what_nobody_writes_any_more_is_removed(tmp_path):
    path = tmp_path / "map.tif"
    run = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    name = Path(run.stdout.readline().strip())
    mine = Temporary(tmp_path / "other.png")
    mine.create()
    assert remove_stale([tmp_path, tmp_path, tmp_path / "nowhere"]) == 0
    assert name.exists()
    run.kill()
    run.wait()
    assert remove_stale([tmp_path]) == 1
    assert list(tmp_path.iterdir()) == [mine.name]
    mine.replace()
    assert list(tmp_path.iterdir()) == [tmp_path / "other.png"]


def test_what_goes_into_a_pipe_leaves_the_pipe_in_its_place(tmp_path):
    path = tmp_path / "rows.csv"
    os.mkfifo(path)
    link = tmp_path / "link.csv"
    link.symlink_to(path)
    for name in (path, link):
        reader = subprocess.Popen(["cat", path], stdout=subprocess.PIPE)
        write_whole(name, b"a,b\n")
        assert reader.communicate(timeout=600)[0] == b"a,b\n"
        assert path.is_fifo()
    assert link.is_symlink()
    assert sorted(tmp_path.iterdir()) == [link, path]


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="descriptors have no names here")
def test_a_descriptor_is_written_to_by_its_name(tmp_path):
    (tmp_path / "rows.csv").write_bytes(b"before\n")
    with (tmp_path / "rows.csv").open("ab") as file:  # as a shell's 3>>rows.csv
        write_whole(Path(f"/dev/fd/{file.fileno()}"), b"a,b\n")
        file.write(b"after\n")
    assert (tmp_path / "rows.csv").read_bytes() == b"before\na,b\nafter\n"
    assert list(tmp_path.iterdir()) == [tmp_path / "rows.csv"]


@pytest.mark.parametrize(
    "name",
    [
        "map.tif",
        ".map.tif",
        ".map.123.tmp.tif",
        "map.0123456789abcdef.prn-tmp.tif",
        ".map.0123456789abcdeg.prn-tmp.tif",
        ".map.0123456789abcdef.prn-tmp.tif.bak",
        ".map.0123456789abcdef.prn-new.tif",  # just made: its run may be about to lock it
    ],
)
def test_what_is_not_ours_stays(tmp_path, name):
    (tmp_path / name).write_bytes(b"precious")
    assert remove_stale([tmp_path]) == 0
    assert (tmp_path / name).read_bytes() == b"precious"


def test_links_and_folders_that_are_named_so_stay(tmp_path):
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / ".a.0123456789abcdef.prn-tmp.tif").symlink_to("precious")
    (tmp_path / ".b.0123456789abcdef.prn-tmp.tif").mkdir()
    (tmp_path / ".d.0123456789abcdef.prn-copy.tif").symlink_to("precious")
    os.mkfifo(tmp_path / ".c.0123456789abcdef.prn-tmp.tif")
    assert remove_stale([tmp_path]) == 0
    assert len(list(tmp_path.iterdir())) == 5


def test_new_ones_go_when_they_are_old(tmp_path):
    path = tmp_path / ".map.0123456789abcdef.prn-new.tif"
    path.touch()
    os.utime(path, (time.time() - 100,) * 2)
    assert remove_stale([tmp_path]) == 1


def test_a_copy_goes_as_soon_as_its_run_is_killed(tmp_path, make_onnx, random_logits, held):
    """That of a cloud-optimised GeoTIFF, which is made of another file."""
    pytest.importorskip("rasterio")
    out = tmp_path / "out"
    np.save(tmp_path / "map.npy", random_logits(300, 300))
    line = ["refine", tmp_path / "map.npy", "-o", out / "map.tif", "--format", "cog", "-w", make_onnx()]
    with held(r"shutil\.copyfile .*\.prn-copy", *line) as run:
        run.wait()
        assert len(list(out.glob(".map.*"))) == 2
        assert remove_stale([out]) == 0
        run.process.kill()
        run.process.wait()
    left = list(out.glob(".*"))
    assert len(left) >= 2
    assert remove_stale([out]) == len(left)
    assert not list(out.glob(".*"))


@pytest.mark.parametrize("name", ["a.tif", "a"])
def test_a_copy_stays_while_what_it_is_made_of_is_written(tmp_path, name):
    temporary = Temporary(tmp_path / name)
    temporary.create()
    beside = temporary.copy.with_name(f"{temporary.copy.name}.ovr.tmp")
    for path in (temporary.copy, beside):
        path.write_bytes(b"half")
        os.utime(path, (time.time() - 1e6,) * 2)
    assert remove_stale([tmp_path]) == 0
    temporary.replace()
    temporary.copy.with_name(temporary.copy.name.replace(".prn-copy", "2.prn-copy")).write_bytes(b"precious")
    assert remove_stale([tmp_path]) == 2
    assert sorted(path.read_bytes() for path in tmp_path.iterdir()) == [b"", b"precious"]


def test_names_fit_file_systems_and_may_be_anything(tmp_path):
    for stem in ("界" * 80, "a\nb", "..", "x" * 250):
        path = tmp_path / f"{stem}.tif"
        write_whole(path, b"content")
        assert path.read_bytes() == b"content"
        temporary = Temporary(path)
        temporary.create()
        os.close(os.dup(temporary._file.fileno()))
        temporary._release()
    assert remove_stale([tmp_path]) == 4


def test_write_whole_leaves_the_old_file_when_it_fails(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    with pytest.raises(OutputError, match="directory"):
        write_whole(tmp_path / "folder", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
