"""What outputs were made from: `prn-manifest.jsonl` in their folder, two JSON lines for each output.

The manifest makes outputs traceable and lets a stopped run continue: an output is done if it is whole and was made from
the same inputs with the same settings. It also tells prn's files from others, which are never overwritten: the line
`{"begun": [names]}` is written before an output takes its name, the entry itself after it. Lines are only appended,
each in one write and under a lock, so that several runs may share a folder. The last entry of an output counts; torn
and foreign lines are ignored.

A folder may hold a million outputs, of which a run asks about its own. Other lines are skipped by their names, five
times faster than by parsing them, and memory grows with the run, not with the folder.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

from prn_cli import __version__
from prn_cli.errors import InputError, OutputError, UsageError
from prn_cli.files.remote import gdal_name, state_of, without_secrets
from prn_cli.files.temporaries import lock, open_made

MANIFEST_NAME = "prn-manifest.jsonl"
OTHER_SETTINGS = "other settings"
"""How `Manifest.why` begins where settings differ; it goes on with their names."""

_LONGEST_LINE = 1 << 20  # bytes
_BUFFER = 1 << 20  # bytes
_SAMPLES, _SAMPLE_BYTES = 5, 1 << 12  # of an input
_BLOCK = 1 << 13  # bytes: some dozen entries, often none of them the run's own

# Lines may be torn, so no match spans two of them.
_STRING = re.compile(rb'"([^"\\\n]*(?:\\[^\n][^"\\\n]*)*)"')
_PATH = re.compile(rb'"path"[ \t\r]*:[ \t\r]*' + _STRING.pattern)
_BEGUN = re.compile(rb'"begun"([^\n]*)')


@dataclass(frozen=True, slots=True)
class Stamp:
    """By what a change of a file is noticed: inode, size in bytes, modification time in ns, tag in a bucket.

    `sample` is a hash of some of its bytes, for copies that keep size and time.
    """

    path: Path
    inode: int
    size: int
    mtime_ns: int
    tag: str = ""
    sample: str = field(default="", compare=False)  # while a file is read, its time tells of changes

    def record(self) -> dict[str, Any]:
        """What a manifest keeps: not the inode, so that a file may be copied or moved back."""
        remote = gdal_name(self.path) is not None
        path = without_secrets(self.path) if remote else os.path.abspath(self.path)  # noqa: PTH100
        known = {"path": path, "size": self.size, "mtime_ns": self.mtime_ns, "tag": self.tag, "sample": self.sample}
        return {name: value for name, value in known.items() if value != ""}


@dataclass(frozen=True, slots=True)
class Job:
    """One file's work: what it reads, how, and what it writes. Made before the work begins.

    Attributes:
        stamps: of each input, by role.
        settings: everything else on which the outputs depend, as JSON has it.
        outputs: the files to write, by role.
    """

    stamps: Mapping[str, Stamp]
    settings: Mapping[str, Any]
    outputs: Mapping[str, Path]

    def inputs(self) -> dict[str, dict[str, Any]]:
        """The record of each input, by role."""
        return {role: stamp.record() for role, stamp in self.stamps.items()}


class Manifest:
    """The manifest of outputs in one folder.

    Args:
        folder: it need not exist yet.
        outputs: what will be asked about. Asking about others reads the manifest again.
        name: of the manifest's file.
    """

    def __init__(self, folder: Path, outputs: Iterable[Path] = (), *, name: str = MANIFEST_NAME) -> None:
        self.folder = folder
        self.path = folder / name
        self._prefix = os.path.join(os.path.abspath(folder), "")  # noqa: PTH100, PTH118
        self._wanted: set[bytes] = set()
        self._entries: dict[str, bytes] = {}  # lines, which take a seventh of the memory of objects
        self._begun: set[str] = set()  # not recorded since
        self._file: tuple[int, int] | None = None
        self._end = 0  # of the lines that were read
        self._lock = threading.Lock()
        self._want(map(self._name, outputs))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the place: another process can `begin` jobs there, too."""
        return partial(Manifest, name=self.path.name), (self.folder,)

    def _want(self, names: Iterable[str]) -> None:
        """Read the lines of names that were not asked about before."""
        new = {_encoded(name) for name in names} - self._wanted
        if new:
            with self._lock:
                wanted = self._wanted | new
                self._end = 0
                self._read_on(wanted)
                self._wanted = wanted

    def _read_on(self, wanted: set[bytes]) -> None:
        """Read the appended lines of these names, or all of their lines if the file was replaced."""

        def is_wanted(lines: bytes) -> bool:
            return not wanted.isdisjoint(_names_in(lines))

        try:
            with self.path.open("rb", _BUFFER) as file:
                status = os.fstat(file.fileno())
                if self._file != (status.st_dev, status.st_ino) or status.st_size < self._end:
                    self._forget()
                self._file = status.st_dev, status.st_ino
                file.seek(self._end)
                block = b""
                while following := file.read(_BLOCK) + file.readline(_LONGEST_LINE):
                    block = following
                    if is_wanted(block):
                        for line in filter(is_wanted, block.split(b"\n")):
                            self._take(line)
                # A last line without a newline may still grow, so it is read again.
                self._end = file.tell() - len(block.rpartition(b"\n")[2])
        except (FileNotFoundError, NotADirectoryError):  # `start` makes it, or raises
            self._forget()
        except OSError as error:
            raise OutputError(
                f"cannot be read: {error.strerror}", hint="check its permissions, or move it away", path=self.path
            ) from error

    def _forget(self) -> None:
        self._entries.clear()
        self._begun.clear()
        self._file = None
        self._end = 0

    def _take(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            return  # torn or foreign
        if not isinstance(entry, dict):
            return
        begun, outputs = entry.get("begun"), entry.get("outputs")
        if isinstance(begun, list):
            self._begun.update(name for name in begun if isinstance(name, str))
        elif isinstance(outputs, dict) and _are_figures(entry.get("figures")):
            paths = [output.get("path") for output in outputs.values() if isinstance(output, dict)]
            names = [path for path in paths if isinstance(path, str)]
            if len(names) == len(outputs):
                self._keep(names, line)

    def job(self, *, inputs: Mapping[str, Path], settings: Mapping[str, Any], outputs: Mapping[str, Path]) -> Job:
        """Stamp the inputs as they are now, so that changes during the work are noticed. Settings are JSON values."""
        return Job(stamp_inputs(inputs), json.loads(json.dumps(settings)), dict(outputs))

    def finished(self, job: Job) -> dict[str, Any] | None:
        """The entry of a finished job; None if its outputs are missing, not whole, or made differently."""
        found = self._find(job)
        return None if isinstance(found, str) else found

    def why(self, job: Job) -> str:
        """Why a job is not finished; empty if it is."""
        found = self._find(job)
        return found if isinstance(found, str) else ""

    def _find(self, job: Job) -> dict[str, Any] | str:
        """The entry of a finished job, or why there is none."""
        names = {role: self._name(path) for role, path in job.outputs.items()}
        self._want(names.values())
        line, entry = b"", {}
        for role, path in job.outputs.items():
            found = self._entries.get(names[role])
            if found is None:
                return f"no {role} yet"
            if not line:
                line, entry = found, json.loads(found)
            if found is not line:
                return "outputs of different runs"
            output = entry["outputs"].get(role, {})
            if output.get("path") != names[role]:
                return f"no {role} yet"
            try:
                if path.stat().st_size != output.get("size"):
                    return f"the {role} is not whole, or was changed"
            except OSError:
                return f"the {role} is gone"
        if not line:
            return "no output"
        if not _same_inputs(entry.get("inputs"), job.inputs()):
            return "other inputs, or changed ones"
        if entry.get("settings") != job.settings:
            return OTHER_SETTINGS + _differing(entry.get("settings"), job.settings)
        return entry

    def refuse_strangers(self, outputs: Iterable[Path]) -> None:
        """Refuse outputs that exist and that prn did not write. It keeps `-o labels/` from overwriting the labels."""
        paths = list(outputs)
        self._want(map(self._name, paths))
        for path in paths:
            if not self._knows(path) and os.path.lexists(path):
                with self._lock:
                    self._read_on(self._wanted)  # another run may have begun it since
                if self._knows(path):
                    continue
                raise UsageError(
                    f"is there already, and no {self.path.name} says that prn wrote it",
                    hint="choose another place, or --overwrite",
                    path=path,
                )

    def made(self, paths: Iterable[Path]) -> set[Path]:
        """Those of the paths that are outputs of prn."""
        asked = list(paths)
        self._want(map(self._name, asked))
        return {path for path in asked if self._knows(path)}

    def figures(self, paths: Iterable[Path]) -> dict[Path, Mapping[str, Any]]:
        """Of those outputs that are as prn recorded them: the figures."""
        asked = {path: self._name(path) for path in paths}
        self._want(asked.values())
        return {
            path: json.loads(self._entries[name])["figures"]
            for path, name in asked.items()
            if name in self._entries and not self._is_changed(path)
        }

    def _knows(self, path: Path) -> bool:
        name = self._name(path)
        return name in self._entries or name in self._begun

    def changed(self, job: Job) -> list[Path]:
        """The outputs of a job that exist, but not as prn recorded them."""
        paths = [path for path in job.outputs.values() if self._is_changed(path)]
        if paths:
            with self._lock:
                self._read_on(self._wanted)  # another run may have written them since
        return [path for path in paths if self._is_changed(path)]

    def _is_changed(self, path: Path) -> bool:
        name = self._name(path)
        line = self._entries.get(name)
        if line is None or name in self._begun:
            return False
        sizes = [output.get("size") for output in json.loads(line)["outputs"].values() if output["path"] == name]
        try:
            return path.stat().st_size not in sizes
        except OSError:
            return False

    def start(self) -> None:
        """Create the folder and the manifest, before any work."""
        self._append(b"")

    def begin(self, job: Job) -> None:
        """Check that the inputs are unchanged, and note that the outputs are about to take their names.

        The outputs of a run that is killed before it can `record` them are then known as prn's.
        """
        check_unchanged(job.stamps)
        names = [self._name(path) for path in job.outputs.values()]
        self._append(json.dumps({"begun": names}).encode() + b"\n")
        self._begun.update(names)

    def record(self, job: Job, *, seconds: float, figures: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Append the entry of a job whose outputs are all in place, and return it.

        Figures are finite numbers, None, or again figures by name.
        """
        outputs = {role: {"path": self._name(path), "size": _size(path)} for role, path in job.outputs.items()}
        entry: dict[str, Any] = {
            "inputs": job.inputs(),
            "settings": job.settings,
            "outputs": outputs,
            "figures": dict(figures or {}),
            "seconds": round(seconds, 4),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "prn": __version__,
        }
        line = json.dumps(entry).encode() + b"\n"
        self._append(line)
        self._keep(map(self._name, job.outputs.values()), line)
        return entry

    def _keep(self, names: Iterable[str], line: bytes) -> None:
        for name in names:
            self._entries[name] = line
            self._begun.discard(name)

    def _append(self, line: bytes) -> None:
        try:
            with self._lock, open_made(self.path, os.O_APPEND) as file:
                lock(file.fileno(), wait=True)  # appending is atomic on local file systems, but not on NFS
                end = file.seek(0, os.SEEK_END)
                if line and end:
                    file.seek(end - 1)
                    if file.read(1) != b"\n":
                        line = b"\n" + line  # after a torn line, which would swallow this one
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise OutputError.because(error, self.path) from error

    def _name(self, path: Path) -> str:
        """The path from the folder, so that the outputs may move as a whole; absolute for files elsewhere."""
        whole = os.path.abspath(path)  # noqa: PTH100 (a link stays the name that the user gave)
        return whole.removeprefix(self._prefix).replace(os.sep, "/")


def manifest_beside(path: Path, outputs: Iterable[Path] = ()) -> Manifest:
    """The manifest of a single output: that of its folder, or one of its own if another user owns that."""
    shared = path.parent / MANIFEST_NAME
    own = shared.exists() and not os.access(shared, os.R_OK | os.W_OK)
    return Manifest(path.parent, outputs, name=f".{path.name}.{MANIFEST_NAME}" if own else MANIFEST_NAME)


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def _names_in(lines: bytes) -> list[bytes]:
    """All names of outputs in some lines, and perhaps other text."""
    found: list[bytes] = _PATH.findall(lines)
    found += _STRING.findall(b"\n".join(_BEGUN.findall(lines)))
    return [_without_escapes(name) if b"\\" in name else name for name in found] if b"\\" in lines else found


def _without_escapes(name: bytes) -> bytes:
    try:
        return _encoded(json.loads(b'"' + name + b'"'))
    except ValueError:  # and so is the line
        return name


def _are_figures(found: object) -> bool:
    """Whether these are figures as `record` takes them."""
    if not isinstance(found, dict):
        return False
    values = [*found.values()]
    values += [part for value in found.values() if isinstance(value, dict) for part in value.values()]
    return all(
        value is None or isinstance(value, dict) or (isinstance(value, int | float) and abs(value) < math.inf)
        for value in values
    )


def _same_inputs(before: Any, now: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the inputs are those of an entry; those of a prn that took no samples have none."""
    if not isinstance(before, Mapping) or before.keys() != now.keys():
        return False
    for role, known in now.items():
        recorded = before[role]
        sampled = isinstance(recorded, Mapping) and "sample" in recorded
        if recorded != (known if sampled else {name: value for name, value in known.items() if name != "sample"}):
            return False
    return True


def _differing(before: object, now: Mapping[str, Any]) -> str:
    if not isinstance(before, Mapping):
        return ""
    names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    return f": {', '.join(names)}"


def stamp_inputs(inputs: Mapping[str, Path], *, sampled: bool = True) -> dict[str, Stamp]:
    """Stamp files before they are read, for `check_unchanged`; `sampled` for a manifest, which outlives them."""
    return {role: _stamp(path, sampled=sampled) for role, path in inputs.items()}


def check_unchanged(stamps: Mapping[str, Stamp]) -> None:
    """Check that files did not change or vanish while they were read."""
    for stamp in stamps.values():
        try:
            same = _stamp(stamp.path) == stamp
        except InputError as error:
            raise InputError("vanished while it was read", hint="run again", path=stamp.path) from error
        if not same:
            raise InputError("changed while it was read", hint="run again when it is complete", path=stamp.path)


@contextmanager
def unchanged(*paths: Path | None) -> Iterator[None]:
    """Check that files do not change within the context. None is skipped."""
    stamps = stamp_inputs({os.fspath(path): path for path in paths if path is not None}, sampled=False)
    yield
    check_unchanged(stamps)


def _stamp(path: Path, *, sampled: bool = False) -> Stamp:
    if gdal_name(path) is not None:
        return Stamp(path, 0, *state_of(path))
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"cannot be read: {reason}".lower(), hint="check the path", path=path) from error
    sample = _sample(path, status.st_size) if sampled and stat.S_ISREG(status.st_mode) else ""
    return Stamp(path, status.st_ino, status.st_size, status.st_mtime_ns, sample=sample)


def _sample(path: Path, size: int) -> str:
    """A hash of a few blocks, evenly spread over a file, the first and the last among them."""
    blocks = []
    try:
        with path.open("rb", buffering=0) as file:
            for number in range(_SAMPLES):
                file.seek(max(size - _SAMPLE_BYTES, 0) * number // (_SAMPLES - 1))
                blocks.append(file.read(_SAMPLE_BYTES))
    except (OSError, ValueError):  # it fails when its turn comes
        return ""
    # At once: each update lets other threads in, and waits for them.
    return hashlib.blake2b(b"".join(blocks), digest_size=8).hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise OutputError(f"is gone: {error.strerror}", hint="run again", path=path) from error


def check_outputs(jobs: Iterable[tuple[Iterable[Path], Iterable[Path]]]) -> None:
    """Check, before the work, that no output is an input and that all outputs are different files.

    Jobs are the inputs and the outputs of each; the first input names the job.
    """
    plans = [(list(inputs), list(outputs)) for inputs, outputs in jobs]
    folders = cache(os.path.realpath)

    def real_path(path: Path) -> str:
        """Without links, which may lead an output to an input."""
        folder, name = os.path.split(path)
        if name in ("", ".", "..") or os.path.islink(path):  # noqa: PTH114
            return os.path.realpath(path)
        return os.path.join(folders(folder), name)  # noqa: PTH118

    inputs = {real_path(path): path for job, _ in plans for path in job}
    owners: dict[str, int] = {}
    for number, ((job, *_), outputs) in enumerate(plans):
        for output in outputs:
            real = real_path(output)
            if real in inputs:
                raise UsageError(
                    f"would be written over the input {inputs[real]}", hint="choose another output", path=output
                )
            if owners.get(real) == number:
                raise UsageError(
                    f"would be written twice for {job}", hint="give each output its own folder", path=output
                )
            if real in owners:
                raise UsageError(
                    f"would be written for both {plans[owners[real]][0][0]} and {job}",
                    hint="rename one of them, or write them to two folders",
                    path=output,
                )
            owners[real] = number
