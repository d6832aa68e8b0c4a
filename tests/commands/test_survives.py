"""Runs that are killed, that meet a full disk, or whose files change under them."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from prn_cli.commands import app
from prn_cli.execution import interrupts
from prn_cli.files.manifest import MANIFEST_NAME

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="signals and forks are a matter of POSIX")

# Runs command lines in forks of one interpreter that has imported all they need, and kills them at random moments:
# after so many calls of functions, in all threads together. After each it prints what was recorded as finished, so that
# the test can see that nothing of that is done again.
KILLER = """
import importlib, itertools, json, os, random, shutil, signal, sys, threading, time
from contextlib import suppress
from prn_cli.commands import app

line, out, kills, share, seed = json.loads(sys.argv[1])
draw = random.Random(seed)

def start(from_start=0, from_work=0):
    # A run that is killed so many calls after its start, or after it has begun to write; or that tells both numbers.
    child = os.fork()
    if child:
        return child
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    calls, begun, last = itertools.count(1), [], [from_start]

    def count(frame, event, argument):
        if next(calls) == last[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(event, arguments):
        if event == "os.rename" and not begun:
            begun.append(next(calls))
            if from_work:
                last[0] = begun[0] + from_work

    sys.addaudithook(watch)
    threading.setprofile(count)
    sys.setprofile(count)
    code = app.run(line)
    sys.setprofile(None)
    with open("end", "w") as file:
        json.dump([*begun, next(calls), list(sys.modules)], file)
    os._exit(code)

def state():
    found = {}
    for folder, _, names in os.walk(out):
        for name in names:
            status = os.stat(os.path.join(folder, name))
            found[os.path.relpath(os.path.join(folder, name), out)] = [status.st_ino, status.st_mtime_ns]
    recorded = []
    if size():
        for text in open(manifest, "rb"):
            try:
                recorded += [output["path"] for output in json.loads(text)["outputs"].values()]
            except (ValueError, KeyError):
                pass
    return {"files": found, "recorded": recorded}

def size():
    return os.path.getsize(manifest) if os.path.exists(manifest) else 0

manifest = os.path.join(out, "prn-manifest.jsonl")
assert os.waitpid(start(), 0)[1] == 0
for name in json.load(open("end"))[-1]:
    with suppress(ImportError):
        importlib.import_module(name)
shutil.rmtree(out)
assert os.waitpid(start(), 0)[1] == 0  # from here on, nothing has to be imported
begun, ended, _ = json.load(open("end"))
killed = 0
while killed < kills:
    shutil.rmtree(out)  # a round: start, be killed, start again, until it is done
    while True:
        # Anywhere while it starts, or within this share of the work on all files.
        early, late = draw.randint(1, begun), draw.randint(1, int(share * (ended - begun)))
        end = os.waitpid(start(from_start=early) if draw.random() < 0.2 else start(from_work=late), 0)[1]
        print(json.dumps({"done": end == 0} | state()), flush=True)
        if end == 0:
            break
        assert end == signal.SIGKILL
        killed += 1
        if killed == kills:
            break
for folder, _, names in os.walk(out):  # those that were not even locked yet go when they are a minute old
    for name in names:
        if ".prn-new" in name:
            os.utime(os.path.join(folder, name), (time.time() - 100,) * 2)
assert os.waitpid(start(), 0)[1] == 0
print(json.dumps({"done": True} | state()), flush=True)
"""


@pytest.fixture
def folder(tmp_path, make_onnx, random_logits, monkeypatch) -> Path:
    """`logits/` with small maps in three formats, their labels, and `model.onnx`; the working folder."""
    make_onnx()
    for name in ("logits", "labels"):
        (tmp_path / name).mkdir()
    draw = np.random.default_rng(5)
    for number in range(12):
        logits = random_logits(60 + 5 * number, 90, seed=number)
        label = (logits + draw.standard_normal(logits.shape) > 0).astype(np.uint8)
        write(tmp_path / "logits" / f"{number}.{('npy', 'tif')[number % 2]}", logits)
        write(tmp_path / "labels" / f"{number}.png", label)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, array: np.ndarray) -> None:
    from prn_cli.rasters import create_raster

    with create_raster(path, height=array.shape[0], width=array.shape[1], dtype=array.dtype) as writer:
        writer.write(array)


def outputs(folder: Path) -> dict[str, bytes]:
    """Every file under a folder but the manifest, by its name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != MANIFEST_NAME
    }


def prn(*arguments: str | Path, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "prn_cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, **options)


REFINE = ["refine", "logits", "-w", "model.onnx", "-j", "1", "-q", "--probabilities", "out/p", "-o"]
PSEUDOLABEL = ["pseudolabel", "--patch", "16", "-j", "2", "-q", "-o"]


@pytest.mark.parametrize(
    ("line", "kills", "share"), [(REFINE, 20, 0.5), (PSEUDOLABEL, 8, 0.25)], ids=["refine", "pseudolabel"]
)
def test_killed_at_random_moments_it_ends_as_if_it_never_was(folder, line, kills, share):
    assert prn(*line, "out").returncode == 0
    unbroken = outputs(folder / "out")
    shutil.rmtree(folder / "out")
    setting = json.dumps([[*line, "out"], "out", kills, share, 11])
    run = subprocess.run([sys.executable, "-c", KILLER, setting], stdout=subprocess.PIPE, text=True, timeout=600)
    assert run.returncode == 0
    states = [json.loads(text) for text in run.stdout.splitlines()]
    assert sum(not state["done"] for state in states) == kills
    partly = 0
    for before, after in pairwise(states):
        if before["done"]:
            continue
        partly += 0 < len(before["recorded"]) < len(unbroken)
        for name in before["recorded"]:
            assert after["files"][name] == before["files"][name], f"{name} was finished, and done again"
    assert partly >= kills // 5, "too few of the kills came while files were being done"
    assert outputs(folder / "out") == unbroken


# Kills the process when so many outputs have taken their names.
CUT = """
import os, signal, sys
from prn_cli.commands import app
from prn_cli.files.temporaries import Temporary

replace, left = Temporary.replace, [int(sys.argv[1])]

def cut(temporary):
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    replace(temporary)

Temporary.replace = cut
app.run(sys.argv[2:])
"""


@pytest.mark.parametrize("renamed", range(4))
def test_one_file_whose_run_is_killed_between_its_outputs_ends_as_if_it_never_was(folder, renamed):
    line = ["refine", "logits/0.npy", *REFINE[2:7], "-o", "out/mask.png", "--probabilities", "p/0.npy", "--bias", "out"]
    assert prn(*line).returncode == 0
    places = folder / "out", folder / "p"
    unbroken = [outputs(place) for place in places]
    for place in places:
        shutil.rmtree(place)
    cut = subprocess.run([sys.executable, "-c", CUT, str(renamed), *line], timeout=600)
    assert cut.returncode == (0 if renamed == 3 else -signal.SIGKILL)
    whole = [name for place in places for name in outputs(place) if "tmp" not in name]
    assert len(whole) == renamed
    done = prn(*line, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["status"] == ("kept" if renamed == 3 else "refined")
    assert [outputs(place) for place in places] == unbroken


# Disks


def full_after(size: int) -> Callable[[], None]:
    """Let no file of a process grow beyond so many bytes, as a quota does."""

    def limit() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def obey_permissions() -> None:
    """Take from root the right to write where the permissions forbid it."""
    if os.geteuid() == 0:
        drop_from_bounding_set, dac_override = 24, 1
        if ctypes.CDLL(None).prctl(drop_from_bounding_set, dac_override, 0, 0, 0) != 0:
            os._exit(77)


def errors(stderr: str) -> list[str]:
    assert "Traceback" not in stderr
    return [line for line in stderr.splitlines() if line.startswith("prn: error:")]


def test_a_file_that_finds_no_space_costs_no_other(folder, random_logits):
    write(folder / "logits" / "big.npy", random_logits(700, 600))
    done = prn(*REFINE, "out", preexec_fn=full_after(100_000))
    assert done.returncode == 1
    [found, total] = errors(done.stderr)
    assert "out/p/big.npy: cannot be written: file too large" in found
    assert "1 of 13 failed; the rest is done" in total
    names = outputs(folder / "out")
    assert len(names) == 24
    assert not any("tmp" in name for name in names)
    assert prn(*REFINE, "out").returncode == 0
    assert len(outputs(folder / "out")) == 26


def in_a_file_system_of_its_own(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script of the shell that mounts one at `out`."""
    line = ["unshare", "-rm"]
    if shutil.which("unshare") is None or subprocess.run([*line, "mount", "-t", "tmpfs", "none", "out"]).returncode:
        pytest.skip("no file system of its own for this test")
    return subprocess.run([*line, "sh", "-c", script], capture_output=True, text=True, timeout=600, check=False)


def test_a_full_file_system_is_a_line_a_file(folder):
    (folder / "out").mkdir()
    inside = f"mount -t tmpfs -o size=56k none out && {sys.executable} -m prn_cli " + " ".join([*REFINE, "out"])
    done = in_a_file_system_of_its_own(f"{inside}; code=$?; cp -r out copy; exit $code")
    assert done.returncode == 1
    found = errors(done.stderr)
    assert 2 <= len(found) <= 13
    assert all("no space left on device" in text for text in found[:-1]), found
    assert not any("tmp" in name for name in outputs(folder / "copy"))


def test_a_full_file_system_is_a_line_for_gdal_too(folder):
    pytest.importorskip("rasterio")
    noise = np.random.default_rng(3).standard_normal((1000, 1100)).astype(np.float32)
    write(folder / "logits" / "noise.npy", noise)
    line = ["refine", "logits/noise.npy", *REFINE[2:7], "--format", "cog", "-o", "out"]
    assert prn(*line, "--overwrite").returncode == 0
    room = (folder / "out" / "noise.tif").stat().st_size // 1024
    (folder / "out" / "noise.tif").unlink()
    for share in (1.1, 1.7):  # the plain TIFF fits, and the copy does not, in different places
        size = f"size={int(room * share)}k"
        inside = f"mount -t tmpfs -o {size} none out && exec {sys.executable} -m prn_cli {' '.join(line)}"
        done = in_a_file_system_of_its_own(inside)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 2
        found, _ = errors(done.stderr)
        assert "out/noise.tif: cannot be written: no space left on device; check the folder" in found


@pytest.mark.parametrize("line", [REFINE, PSEUDOLABEL], ids=["refine", "pseudolabel"])
def test_a_folder_that_is_read_only_is_one_line(folder, line):
    (folder / "out").mkdir(mode=0o555)
    done = prn(*line, "out", preexec_fn=obey_permissions)
    if done.returncode == 77:
        pytest.skip("runs as root, who cannot give up writing everywhere")
    assert done.returncode == 1
    [found] = errors(done.stderr)
    assert "prn-manifest.jsonl: cannot be written: permission denied; check the folder, its permissions" in found


@pytest.mark.parametrize("mode", [0o444, 0])
def test_beside_the_manifest_of_another_user_one_file_has_its_own(folder, mode):
    (folder / MANIFEST_NAME).touch(mode)
    line = ("refine", "logits/0.npy", *REFINE[2:7], "-o", "mask.png", "--json")
    for status in ("refined", "kept"):
        done = prn(*line, preexec_fn=obey_permissions)
        if done.returncode == 77:
            pytest.skip("runs as root, who cannot give up writing everywhere")
        assert (done.returncode, json.loads(done.stdout)["status"]) == (0, status), done.stderr
    assert (folder / f".mask.png.{MANIFEST_NAME}").stat().st_size > 0
    assert (folder / MANIFEST_NAME).stat().st_size == 0


def test_a_read_only_folder_of_the_layer_is_said_before_the_work(folder):
    pytest.importorskip("pyogrio")
    (folder / "layers").mkdir(mode=0o555)
    done = prn(*REFINE, "out", "--polygons", "layers/all.gpkg", preexec_fn=obey_permissions)
    if done.returncode == 77:
        pytest.skip("runs as root, who cannot give up writing everywhere")
    assert done.returncode == 1
    [found] = errors(done.stderr)
    assert "layers/all.gpkg: cannot be written: permission denied" in found
    assert not (folder / "out").exists()


def test_a_subfolder_that_is_read_only_fails_every_file_in_few_lines(folder):
    (folder / "out" / "p").mkdir(parents=True)
    (folder / "out" / "p").chmod(0o555)
    done = prn(*REFINE, "out", preexec_fn=obey_permissions)
    if done.returncode == 77:
        pytest.skip("runs as root, who cannot give up writing everywhere")
    assert done.returncode == 1
    *causes, last = errors(done.stderr)
    assert last == "prn: error: 12 of 12 failed"
    assert 1 <= len(causes) < 12
    assert "permission denied" in causes[0]
    assert list(outputs(folder / "out")) == []


# Inputs that do not keep still


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


@pytest.mark.parametrize(
    ("happens", "cause"),
    [
        (lambda path: os.truncate(path, 1000), "truncated while it was read|changed while it was read"),
        (append, "changed while it was read"),
        (Path.unlink, "vanished while it was read"),
        (lambda path: shutil.copy(path, "copy.npy") and os.replace("copy.npy", path), "changed while it was read"),
    ],
    ids=["cut", "appended", "removed", "replaced"],
)
def test_an_input_that_changes_while_it_is_read_fails_alone(folder, random_logits, held, happens, cause):
    from re import search

    big = folder / "logits" / "big.npy"
    write(big, np.tile(random_logits(600, 600), (2, 1)))
    line = ["refine", "logits/big.npy", "logits/0.npy", *REFINE[2:], "out", "--tta"]
    with held(r"open .*/\.big\..*\.prn-tmp", *line) as run:
        run.wait()
        happens(big)
        run.go_on()
        _, stderr = run.process.communicate()
    assert run.process.returncode == 1
    [found, total] = errors(stderr)
    assert search(f"logits/big.npy: ({cause})", found)
    assert "1 of 2 failed; the rest is done" in total
    assert sorted(outputs(folder / "out")) == ["0.png", "p/0.npy"]


def test_an_input_that_vanishes_before_its_turn_fails_alone(folder):
    (folder / "list").write_text("".join(f"logits/{n}.{('npy', 'tif')[n % 2]}\n" for n in range(13)))
    with (folder / "list").open() as names:
        done = prn("refine", "-", *REFINE[2:], "out", stdin=names)
    assert done.returncode == 1
    [found, _] = errors(done.stderr)
    assert "logits/12.npy" in found


# Signals and neighbours


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", ["network", r"open .*/\.big\..*\.prn-tmp"], ids=["amid the work", "at its start"])
def test_a_batch_system_that_ends_a_run_leaves_nothing_half_done(folder, random_logits, signalled, number, moment):
    write(folder / "logits" / "big.npy", np.tile(random_logits(700, 700), (10, 3)))
    line = [*REFINE, "out", "--tta", "--format", "tif"]
    done = signalled(number, moment, *line, there="out/.big.*.prn-tmp.*")
    assert done.returncode == 130
    assert "interrupted; what was finished is kept" in done.stderr
    assert "Traceback" not in done.stderr
    assert not any("tmp" in name or "big" in name for name in outputs(folder / "out"))


def test_nohup_stays_nohup(folder):
    code = (
        "import signal; from prn_cli.execution.interrupts import stop_cleanly; "
        "stop_cleanly(); print(signal.getsignal(signal.SIGHUP).name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
        check=True,
    )
    assert done.stdout == "SIG_IGN\n"


def test_several_runs_into_one_folder(folder):
    """Two with the same files, and two with a half each: every file is whole, and every line of the manifest."""
    names = sorted(str(path) for path in Path("logits").iterdir())
    shares = [names, names, names[::2], names[1::2]]
    command = [sys.executable, "-m", "prn_cli", "refine", "-w", "model.onnx", "-q", "-j", "1", "-o", "out"]
    assert prn(*command[3:-1], "alone", *names).returncode == 0
    runs = [subprocess.Popen([*command, *share], stderr=subprocess.PIPE, text=True) for share in shares]
    for run in runs:
        assert run.communicate(timeout=600)[1] == ""
        assert run.returncode == 0
    assert outputs(folder / "out") == outputs(folder / "alone")
    lines = [json.loads(line) for line in (folder / "out" / MANIFEST_NAME).read_text().splitlines()]
    assert sum("outputs" in line for line in lines) >= len(names)
    again = prn(*command[3:], *names, "--json")
    assert {json.loads(line)["status"] for line in again.stdout.splitlines()} == {"kept"}


def test_several_runs_of_one_file_each_into_one_folder(folder):
    names = {f"out/{path.stem}.png": str(path) for path in Path("logits").iterdir()}
    line = ["refine", *REFINE[2:7], "-o"]
    runs = [
        subprocess.Popen([sys.executable, "-m", "prn_cli", *line, out, name], stderr=subprocess.PIPE, text=True)
        for out, name in [*names.items()][:4]
    ]
    for run in runs:
        assert run.communicate(timeout=600)[1] == ""
        assert run.returncode == 0
    lines = [json.loads(line) for line in (folder / "out" / MANIFEST_NAME).read_text().splitlines()]
    assert sum("outputs" in line for line in lines) == sum("begun" in line for line in lines) == 4
    again = prn(*line, "out", "logits", "--format", "png", "--json")
    assert sorted(json.loads(line)["status"] for line in again.stdout.splitlines()) == ["kept"] * 4 + ["refined"] * 8


def test_an_interrupt_that_broke_an_import_is_an_interrupt(monkeypatch, capsys):
    monkeypatch.setattr(interrupts, "came", [signal.SIGTERM])
    assert app.run(["refine", "nowhere", "-o", "out"]) == 130
    assert capsys.readouterr().err == "prn: error: interrupted; what was finished is kept\n"


# Interrupts the process when it is about to import one module, and tells of another.
INTERRUPTED_IMPORT = """
import os, signal, sys
at, later, *line = sys.argv[1:]

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == at:
            os.kill(os.getpid(), signal.SIGINT)
        if name == later:
            print("imported", later)

sys.meta_path.insert(0, Finder)
sys.argv[1:] = line
from prn_cli.__main__ import main
main()
"""


def interrupted_import(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", INTERRUPTED_IMPORT, *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=600)


def test_an_interrupt_before_the_application_is_there_ends_quietly(folder):
    done = interrupted_import("typer", "prn_cli.commands.refine", "refine", "logits", "-o", "out")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_an_interrupt_waits_until_the_extensions_of_training_are_imported(folder):
    """That of protobuf, which onnx imports, crashes the process now and then where an interrupt breaks its import."""
    done = interrupted_import("google.protobuf", "prn_cli.workflows.training.stages", "train", "logits", "-o", "run")
    assert (done.returncode, done.stdout) == (130, "imported prn_cli.workflows.training.stages\n")
    assert done.stderr == "prn: error: interrupted; what was finished is kept\n"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_after_the_work_does_not_change_its_exit_code(name):
    late = f"atexit.register(lambda: os.kill(os.getpid(), signal.{name}))"
    code = f"import atexit, os, signal; from prn_cli.commands import app; {late}; app.main()"
    done = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
