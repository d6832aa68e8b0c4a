"""Batches in several processes: the same as in one, whatever becomes of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from prn_cli.files.manifest import MANIFEST_NAME

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, prn stays in one process")

MAPS = 70
SLOW = 160  # px: with --tta, some seconds of work


@pytest.fixture
def folder(tmp_path, make_onnx, random_logits, monkeypatch) -> Path:
    """`logits/` with so many small maps that they are worth processes, and `model.onnx`; the working folder."""
    make_onnx()
    (tmp_path / "logits").mkdir()
    for number in range(MAPS):
        np.save(tmp_path / "logits" / f"{number:02}.npy", random_logits(24 + number % 3, 30, seed=number))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def line(out: str, *more: str) -> list[str]:
    return [sys.executable, "-m", "prn_cli", "refine", "logits", "-w", "model.onnx", "-o", out, *more]


def prn(out: str, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(line(out, *more), capture_output=True, text=True, timeout=120)


def masks(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MANIFEST_NAME}


def named(folder: Path) -> list[str]:
    """The masks that have their names."""
    return [name for name in masks(folder) if name[0] != "."]


def started(run: subprocess.Popen[str], out: Path) -> list[int]:
    """The processes of a run, once a first mask is there."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        assert run.poll() is None, run.communicate()
        if out.is_dir() and any(path.suffix == ".png" and path.name[0] != "." for path in out.iterdir()):
            return [int(number) for number in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()]
        time.sleep(0.002)
    raise AssertionError("no mask")


def make_slow(random_logits) -> None:
    for number in range(MAPS):
        np.save(f"logits/{number:02}.npy", random_logits(SLOW, SLOW, seed=number))


def is_running(number: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_processes_make_what_one_makes(folder, random_logits):
    """Also of a large map, which is left to the first process, and is done last."""
    np.save("logits/05.npy", random_logits(2100, 2000))
    several, one = prn("several", "-v", "--json", "-j", "3"), prn("one", "-v", "--json", "-j", "1")
    assert (several.returncode, one.returncode) == (0, 0)
    assert "in 4 processes" in several.stderr
    assert "processes" not in one.stderr
    assert masks(Path("several")) == masks(Path("one"))
    assert len(masks(Path("several"))) == MAPS
    records = [json.loads(line) for line in several.stdout.splitlines()]
    assert Path(records[-1]["input"]).name == "05.npy"
    for record in records:
        record["mask"] = record["mask"].replace("several", "one")
    ours, theirs = (
        sorted(tuple((key, value) for key, value in record.items() if key != "seconds") for record in found)
        for found in (records, map(json.loads, one.stdout.splitlines()))
    )
    assert ours == theirs
    again = prn("several", "--json", "-j", "3")
    assert {json.loads(line)["status"] for line in again.stdout.splitlines()} == {"kept"}


def test_bad_files_fail_alone(folder):
    Path("logits/03.npy").write_bytes(b"no map")
    Path("logits/04.npy").unlink()
    Path("logits/04.npy").symlink_to("nowhere")
    done = prn("out", "-j", "2")
    assert done.returncode == 1
    assert done.stderr.count("prn: error:") == 3
    assert "logits/03.npy: not a .npy array, or damaged" in done.stderr
    assert "logits/04.npy: cannot be read: no such file" in done.stderr
    assert f"2 of {MAPS} failed; the rest is done" in done.stderr
    assert len(masks(Path("out"))) == MAPS - 2
    first = prn("first", "-j", "2", "--fail-fast")
    assert first.returncode == 1
    assert "stopped at the first failure" in first.stderr


def test_a_process_that_dies_costs_one_map(folder, random_logits):
    make_slow(random_logits)
    run = subprocess.Popen(line("out", "-j", "2", "--tta"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    processes = started(run, Path("out"))
    assert len(processes) == 3
    os.kill(processes[0], signal.SIGKILL)
    _, error = run.communicate(timeout=120)
    assert run.returncode == 1
    assert error.count("the process that worked on it was killed by signal 9; perhaps memory is short") == 1
    assert f"1 of {MAPS} failed; the rest is done" in error
    assert prn("out", "-j", "2", "--tta").returncode == 0
    assert len(named(Path("out"))) == MAPS


def test_what_dead_processes_leave_is_done_in_the_first(folder, random_logits):
    make_slow(random_logits)
    run = subprocess.Popen(line("out", "-j", "2"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for number in started(run, Path("out")):
        os.kill(number, signal.SIGKILL)
    _, error = run.communicate(timeout=120)
    failed = error.count("was killed by signal 9")
    assert run.returncode == 1
    assert 1 <= failed <= 3
    # One that died just after its mask was named could not say so any more.
    assert MAPS - failed <= len(named(Path("out"))) <= MAPS


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_processes_end_with_the_first_one(folder, random_logits, number):
    make_slow(random_logits)
    run = subprocess.Popen(line("out", "-j", "2", "--tta"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    processes = started(run, Path("out"))
    run.send_signal(number)
    _, error = run.communicate(timeout=60)
    until = time.monotonic() + 10
    while any(map(is_running, processes)) and time.monotonic() < until:
        time.sleep(0.01)
    assert not any(map(is_running, processes))
    if number == signal.SIGKILL:
        assert run.returncode == -signal.SIGKILL
    else:
        assert (run.returncode, error.count("interrupted; what was finished is kept")) == (130, 1)
        assert len(masks(Path("out"))) == len(named(Path("out")))
    assert prn("out", "--tta", "-j", "2").returncode == 0
    assert prn("whole", "--tta", "-j", "1").returncode == 0
    assert sorted(named(Path("out"))) == sorted(masks(Path("whole")))
    assert all(masks(Path("out"))[name] == mask for name, mask in masks(Path("whole")).items())


def test_errors_of_all_kinds_come_back():
    code = """
import threading, traceback
from prn_cli.commands.batch import TooLarge
from prn_cli.commands.processes import Processes, can_fork
from prn_cli.errors import InputError

class Odd(Exception):
    def __init__(self, one, two):
        super().__init__("odd")

def work(item):
    if item == 1:
        raise InputError("found, expected", hint="do", path="file")
    if item == 2:
        raise TooLarge
    if item == 3:
        raise Odd(1, 2)
    if item == 4:
        raise MemoryError
    if item == 5:
        return 1 / 0
    return item * 10

assert can_fork()
found, left = {}, []

def every(processes):
    left.extend((yield from processes.outcomes()))

with Processes(range(7), work, 3, stop=threading.Event()) as processes:
    for item, outcome in every(processes):
        try:
            found[item] = outcome()
        except Exception as error:
            found[item] = error
assert left == [2], left
assert (found[0], found[6]) == (0, 60)
assert str(found[1]) == "file: found, expected; do"
assert type(found[3]) is RuntimeError and str(found[3]) == "Odd: odd"
assert type(found[4]) is MemoryError
assert "in work" in "".join(traceback.format_exception(found[5]))

import multiprocessing.process
start = multiprocessing.process.BaseProcess.start
def refused(process):
    raise BlockingIOError("no more processes")
multiprocessing.process.BaseProcess.start = refused
with Processes(range(3), work, 3, stop=threading.Event()) as processes:
    assert list(every(processes)) == []
assert left == [2, 0, 1, 2], left
multiprocessing.process.BaseProcess.start = start
multiprocessing.current_process()._config["daemon"] = True
assert not can_fork()
multiprocessing.current_process()._config["daemon"] = False
assert can_fork()
threading.Thread(target=threading.Event().wait, daemon=True).start()
assert not can_fork()
"""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
