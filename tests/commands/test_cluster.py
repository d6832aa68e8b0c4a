"""`prn refine --dask` on real schedulers and workers: the same work, the same outputs, whoever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import tifffile

from prn_cli.commands import app
from prn_cli.errors import install_line
from prn_cli.execution import cluster
from prn_cli.execution.cluster import Cluster
from prn_cli.execution.watch import Watch
from prn_cli.files.manifest import MANIFEST_NAME
from prn_cli.maps.drift import describe, reference
from prn_cli.rasters import create_raster
from prn_cli.workflows.refine import RefineOptions
from prn_cli.workflows.refine import refine as refine_here

distributed = pytest.importorskip("distributed")


class Processes:
    """A scheduler, and workers of one thread each, which nobody starts again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = ""
        self.scheduler = self._start("scheduler", "--port", "0", "--host", "127.0.0.1", "--scheduler-file", "s.json")
        self.workers = [self.add_worker(name) for name in "abc"]

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        with (self.folder / "log").open("ab") as log:
            line = [sys.executable, "-m", "dask", *arguments, "--no-dashboard"]
            return subprocess.Popen(line, cwd=self.folder, env=environment, stdout=log, stderr=log)

    def add_worker(self, name: str) -> subprocess.Popen[bytes]:
        return self._start("worker", "--scheduler-file", "s.json", "--nthreads", "1", "--no-nanny", "--name", name)

    def client(self) -> distributed.Client:
        for _ in range(20):
            # A client takes the scheduler's first message to come alone, which one that is busy does not promise.
            with suppress(AssertionError):
                return distributed.Client(self.address, timeout=600, set_as_default=False)
            time.sleep(0.5)
        raise RuntimeError("no client was made")

    def wait(self) -> None:
        file = self.folder / "s.json"
        while not self.address:
            time.sleep(0.05)
            assert self.scheduler.poll() is None, (self.folder / "log").read_text()
            if file.exists() and file.stat().st_size:
                self.address = json.loads(file.read_text())["address"]
        with self.client() as client:
            client.wait_for_workers(3, timeout=600)
            known = client.scheduler_info(n_workers=-1)["workers"]
        self.addresses = {worker["name"]: address for address, worker in known.items()}

    def hold_worker(self, name: str) -> None:
        """Stop a worker, so that what it has in hand it keeps."""
        self.workers["abc".index(name)].send_signal(signal.SIGSTOP)

    def wait_for_work(self, name: str, run: subprocess.Popen[str]) -> None:
        """Wait until a worker that was stopped has work of a run in hand, which then waits for it."""
        with self.client() as client:
            while not client.processing(workers=[self.addresses[name]])[self.addresses[name]]:
                assert run.poll() is None, run.communicate()
                time.sleep(0.05)
        assert run.poll() is None

    def kill_worker(self, name: str) -> None:
        self.workers["abc".index(name)].kill()

    def stop(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def workers(tmp_path_factory) -> Iterator[Processes]:
    processes = Processes(tmp_path_factory.mktemp("dask"))
    try:
        processes.wait()
        yield processes
    finally:
        processes.stop()


@pytest.fixture
def folder(tmp_path, make_onnx, monkeypatch) -> Path:
    make_onnx()
    (tmp_path / "logits").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "prn_cli", "refine", *arguments, "-w", "model.onnx", "-j", "1"]


def refine(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=600)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files if path.name != MANIFEST_NAME}


def recorded(folder: Path) -> list[str]:
    """The figures of all maps in a manifest."""
    entries = [json.loads(line) for line in (folder / MANIFEST_NAME).read_text().splitlines()]
    return sorted(str(entry["figures"]) for entry in entries if "figures" in entry)


def write_tiff(path: Path, logits: np.ndarray) -> None:
    height, width = logits.shape
    with create_raster(path, height=height, width=width, dtype=np.float32, nodata=np.nan) as writer:
        writer.write(logits)


def test_a_worker_killed_among_many_files_loses_none(folder, workers, random_logits):
    Path("valid").mkdir()
    for number in range(20):
        np.save(f"logits/{number:02}.npy", random_logits(200, 180, seed=number))
        np.save(f"valid/{number:02}.npy", random_logits(200, 180, seed=99 + number) > -3)
    options = ("logits", "--tta", "--json", "--valid-mask", "valid")
    plain = refine(*options, "-o", "plain")
    assert plain.returncode == 0, plain.stderr
    dask = (*options, "-o", "masks", "--dask", workers.address)
    workers.hold_worker("c")
    with subprocess.Popen(command(*dask), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = "".join(process.stdout.readline() for _ in range(10))
        workers.wait_for_work("c", process)
        workers.kill_worker("c")
        rest, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "error" not in errors
    records = [json.loads(line) for line in (first + rest).splitlines()]
    assert sorted(record["input"] for record in records) == [f"logits/{number:02}.npy" for number in range(20)]
    assert {record["status"] for record in records} == {"refined"}
    assert contents(folder / "masks") == contents(folder / "plain")

    again = refine(*options, "-o", "masks")  # without a cluster
    assert again.returncode == 0
    assert again.stdout.count('"kept"') == 20


def test_a_worker_killed_over_a_mosaic_loses_nothing(folder, workers, random_logits):
    logits = random_logits(1600, 240)
    logits[700:1300, 40:200] = np.nan
    write_tiff(folder / "logits" / "mosaic.tif", logits)
    np.save("logits/other.npy", random_logits(400, 300))
    options = ("logits", "--bias", "out/bias", "--probabilities", "out/probabilities", "--tile", "112", "--tta")
    plain = refine(*options, "-o", "out")
    assert plain.returncode == 0, plain.stderr
    (folder / "out").rename("plain")
    dask = command(*options, "-o", "out", "--dask", workers.address, "--dask-split", "0.05")
    workers.hold_worker("b")
    with subprocess.Popen(dask, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not list(Path("out").glob(".mosaic*")):
            time.sleep(0.01)
        workers.wait_for_work("b", process)
        workers.kill_worker("b")
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert contents(folder / "out") == contents(folder / "plain")
    assert recorded(folder / "out") == recorded(folder / "plain")


def test_maps_of_classes_are_the_same_in_sections(folder, random_logits, make_onnx, monkeypatch):
    make_onnx(reference=reference([describe(random_logits(90, 80) + 30)]).to_json())
    logits = np.stack([random_logits(900, 520, seed=number) for number in range(4)])
    logits[:, 250:600, 40:380] = np.nan
    np.save("logits/bands_first.npy", logits)
    last = np.moveaxis(logits[:, 80:], 0, -1)
    tifffile.imwrite("logits/bands_last.tif", last, tile=(64, 64), photometric="minisblack", planarconfig="contig")
    line = ("logits", "--task", "multiclass", "--bias", "out/bias", "--probabilities", "out/probabilities")
    line = (*line, "--tile", "112", "--format", "tif", "-o", "out")
    plain = refine(*line)
    assert plain.returncode == 0, plain.stderr
    (folder / "out").rename("plain")
    sections = []
    calls = Cluster.calls

    def spy(self, function, arguments, **options):
        arguments = list(arguments)
        sections.append(len(arguments))
        return calls(self, function, arguments, **options)

    monkeypatch.setattr(Cluster, "calls", spy)
    monkeypatch.delattr(Cluster, "call")  # nor is it refined whole
    assert app.run(["refine", *line, "-w", "model.onnx", "-q", "--dask", "local:2", "--dask-split", "0.1"]) == 0
    assert len(sections) == 2
    assert min(sections) > 4
    names = contents(folder / "out").keys()
    assert len(names) == 18
    assert names == contents(folder / "plain").keys()
    for name in names:  # but for the order in which the tiles lie in the file
        np.testing.assert_array_equal(*(tifffile.imread(folder / part / name) for part in ("out", "plain")))
    assert recorded(folder / "out") == recorded(folder / "plain")
    assert "'drift': 0" not in str(recorded(folder / "out"))


def test_a_chain_is_the_same_in_sections_and_its_progress_moves(folder, random_logits, make_onnx):
    make_onnx(name="other.onnx", strength=0.7)
    np.save("logits/a.npy", random_logits(1100, 420, seed=5))
    options = {"weights": ("model.onnx", "other.onnx"), "strength": (0.8, 0.6), "tile": 112, "input_kind": "logits"}
    refine_here(RefineOptions("logits", out="plain", bias="plain/bias", **options))
    steps, totals = [], []

    class Listener(Watch):
        @contextmanager
        def progress(self, label, total):
            totals.append(total)
            yield lambda count=1, text=None: steps.append(count)

    more = {"out": "out", "bias": "out/bias", "dask": "local:2", "dask_split": 0.1}
    assert refine_here(RefineOptions("logits", **more, **options), Listener()).verdict == ""
    assert contents(folder / "out") == contents(folder / "plain")
    assert recorded(folder / "out") == recorded(folder / "plain")
    assert len(steps) > 4
    assert sum(steps) == pytest.approx(totals[0])


def test_failures_are_named_as_in_a_plain_run(folder, workers, random_logits):
    np.save("logits/good.npy", random_logits(90, 80))
    np.save("logits/nothing.npy", np.full((60, 50), np.nan, np.float32))
    write_tiff(folder / "logits" / "empty_mosaic.tif", np.full((900, 300), np.nan, np.float32))
    np.save("logits/wild.npy", np.full((900, 300), 1e9, np.float32))
    Path("logits/torn.npy").write_bytes(Path("logits/good.npy").read_bytes()[:3000])

    def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
        return sorted(line for line in done.stderr.splitlines() if "error" in line)

    np.save("logits/great.npy", random_logits(1000, 400))
    options = ("logits", "--input-kind", "logits", "-o", "masks", "--overwrite", "--max-pixels", "300000")
    plain = refine(*options)
    dask = refine(*options, "--dask", workers.address, "--dask-split", "0.01")
    assert plain.returncode == dask.returncode == 1
    assert len(errors(plain)) == 6
    assert errors(dask) == errors(plain)
    assert list(contents(folder / "masks")) == ["good.png"]


@pytest.mark.parametrize("split", ["100", "0.05"])
def test_a_lost_scheduler_is_plain_lines(folder, random_logits, split):
    for number in range(12):
        np.save(f"logits/{number:02}.npy", random_logits(400, 380, seed=number))
    (folder / "dask").mkdir()
    processes = Processes(folder / "dask")
    try:
        processes.wait()
        processes.hold_worker("a")
        line = command("logits", "-o", "masks", "--dask", processes.address, "--dask-split", split, "--tta")
        with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as run:
            processes.wait_for_work("a", run)
            processes.scheduler.kill()
            _, errors = run.communicate()
    finally:
        processes.stop()
    assert run.returncode == 1
    assert "the scheduler was lost; see its log, and run again" in errors
    assert all(line.startswith("prn: ") for line in errors.splitlines()), errors


def test_workers_of_its_own(folder, random_logits):
    np.save("logits/a.npy", random_logits(90, 80))
    assert refine("logits/a.npy", "-o", "plain.png").returncode == 0
    done = refine("logits/a.npy", "-o", "mask.png", "--dask", "local:2")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert Path("mask.png").read_bytes() == Path("plain.png").read_bytes()
    assert "2 workers" in done.stderr
    assert json.loads(refine("logits/a.npy", "-o", "mask.png", "--json").stdout)["status"] == "kept"


def test_a_call_that_ends_while_its_patience_does_is_no_failure():
    class Future:
        """One that is done just after it was waited for in vain."""

        def __init__(self, outcome) -> None:
            self.outcomes = iter([TimeoutError("timed out after 5 s."), outcome])

        def done(self) -> bool:
            return True

        def result(self, timeout=None):
            outcome = next(self.outcomes)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

    patient = Cluster.__new__(Cluster)
    assert patient._outcome(Future(7)) == 7
    with pytest.raises(TimeoutError, match="its own"):
        patient._outcome(Future(TimeoutError("its own")))


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("local:0", "--dask local:0, expected local, local:2 or an address; as in tcp://host:8786"),
        ("host", "--dask host, expected"),
        ("tcp://127.0.0.1:1", "no Dask scheduler answers there"),
    ],
)
def test_a_wrong_address_is_one_line_and_costs_nothing(folder, where, message, random_logits, capsys, monkeypatch):
    monkeypatch.setattr(cluster, "_PATIENCE", "0.5s")
    np.save("logits/a.npy", random_logits(90, 80))
    code = app.run(["refine", "logits", "-o", "masks", "-w", "model.onnx", "-q", "--dask", where])
    errors = capsys.readouterr().err
    assert code == 2
    assert message in errors
    assert errors.count("\n") == 1
    assert not Path("masks").exists()


def test_without_the_extra_it_is_named(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert app.run(["refine", "nowhere", "-o", "masks", "-w", "model.onnx", "-q", "--dask", "local"]) == 2
    assert f"--dask needs distributed, which is not installed; {install_line('dask')}" in capsys.readouterr().err
    assert not Path("masks").exists()
