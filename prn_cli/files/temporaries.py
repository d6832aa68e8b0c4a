"""Files that take their name only when they are complete, and the removal of those that killed runs left behind.

A temporary file lies hidden beside its target and is locked while its run writes it. The lock ends with the process,
however and on whichever machine it ends, so an unlocked temporary file is a leftover.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from io import FileIO
from pathlib import Path

from prn_cli.errors import OutputError, UsageError

try:
    import fcntl
except ImportError:  # Windows, where open files cannot be removed
    fcntl = None  # type: ignore[assignment]

_NAME = re.compile(r"\..{0,40}\.[0-9a-f]{16}\.prn-(tmp|new|copy)(\.\w{1,12})?(\.ovr\.tmp)?", re.DOTALL)
_DESCRIPTOR = re.compile(r"/dev/(stdout|stderr)|/(?:dev|proc/self)/fd/(\d+)")
_STEM = 40  # characters, so that names stay within the limits of file systems
_JUST_MADE = 60.0  # seconds: a new file may be about to be locked
_SURELY_LEFT = 86400.0  # seconds: on file systems without locks


class Temporary:
    """A file that is being written.

    Attributes:
        path: the file that it will be.
        name: the temporary file, to be written to by its name.
        copy: a second file that may be made from it and must be removed first. It needs no lock.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # In the same folder, because renaming is atomic within a file system only. Hidden from listings.
        start = f".{path.stem[:_STEM]}.{os.urandom(8).hex()}"
        self.name = path.with_name(f"{start}.prn-tmp{path.suffix}")
        self.copy = path.with_name(f"{start}.prn-copy{path.suffix}")
        self._new = path.with_name(f"{start}.prn-new{path.suffix}")
        self._file: FileIO | None = None
        self._synced = False

    def create(self) -> None:
        """Create and lock the temporary file, and its folder if need be."""
        file = open_made(self._new, os.O_EXCL)
        if fcntl is None:
            file.close()
        else:
            self._file = file
            lock(file.fileno(), wait=False)
        os.replace(self._new, self.name)  # a file of this name has been locked, see `_is_stale`

    def sync(self) -> None:
        """Wait until the finished file is on the disk. If that fails, the temporary file stays."""
        with self.name.open("r+b") if self._file is None else nullcontext(self._file) as file:
            os.fsync(file.fileno())
        self._synced = True

    def replace(self) -> None:
        """Give the finished file its name, replacing what has it. If that fails, the temporary file stays."""
        if not self._synced:
            self.sync()
        os.replace(self.name, self.path)
        self._release()

    def discard(self) -> None:
        """Remove the temporary file, if it exists."""
        with suppress(OSError):
            self.name.unlink(missing_ok=True)
        self._release()

    def _release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def open_made(path: Path, flags: int) -> FileIO:
    """Open a file to read and write, without a buffer. It is made, and its folder, if need be."""

    def opened(name: str, _: int) -> int:
        return os.open(name, os.O_RDWR | os.O_CREAT | flags | getattr(os, "O_BINARY", 0), 0o666)

    try:
        return FileIO(path, "r+", opener=opened)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileIO(path, "r+", opener=opened)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file completely or not at all. Pipes and devices, such as `/dev/fd/63`, are written into."""
    temporary = Temporary(path)
    try:
        if is_stream(path):
            _write_stream(path, content)
            return
        temporary.create()
        temporary.name.write_bytes(content)
        temporary.replace()
    except OSError as error:
        raise OutputError.because(error, path) from error
    finally:
        temporary.discard()


def check_place(path: Path) -> None:
    """Check, before the work, that `write_whole` can write a file. Its folder is made if need be."""
    temporary = Temporary(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not is_stream(path):
            temporary.create()
    except OSError as error:
        raise OutputError.because(error, path) from error
    finally:
        temporary.discard()


def refuse_strangers(
    path: Path,
    inputs: Iterable[Path | None],
    *,
    option: str,
    what: str,
    example: str,
    is_ours: Callable[[bytes], bool],
) -> None:
    """Check, before the work, that a file would replace nothing that prn did not write.

    Args:
        path: of the file.
        inputs: what is read.
        option: that names the file, such as `--report`.
        what: the file is, such as `report`.
        example: a name that it could have.
        is_ours: tells prn's own files by their first 1000 bytes.

    Raises:
        OutputError: there is a folder, or a file that prn did not write.
        UsageError: it is one of the inputs.
    """
    if path.is_dir():
        raise OutputError("is a folder, expected a file to write", hint=f"add a name, such as {example}", path=path)
    resolved = path.resolve()
    if any(other is not None and other.resolve() == resolved for other in inputs):
        raise UsageError("is an input, and would be written over", hint=f"choose another {option}", path=path)
    if is_stream(path) or not path.exists():  # reading a stream would wait for its writer
        return
    with path.open("rb") as file:
        head = file.read(1000)
    if not is_ours(head):
        raise OutputError(
            f"is there already and is no {what} of prn's", hint=f"choose another {option}, or remove it", path=path
        )


def is_stream(path: Path) -> bool:
    """Whether a path names a pipe, a device or a descriptor, which is written into and not replaced."""
    if _descriptor(path) is not None:
        return True
    try:
        mode = path.stat().st_mode
    except OSError:  # no such file yet
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _descriptor(path: Path) -> int | None:
    """The descriptor of this process that a path such as `/dev/stdout` or `/dev/fd/63` names."""
    match = _DESCRIPTOR.fullmatch(os.fspath(path))
    return None if match is None else {"stdout": 1, "stderr": 2}.get(match[1]) or int(match[2])


def _write_stream(path: Path, content: bytes) -> None:
    descriptor = _descriptor(path)
    if descriptor is None:
        path.write_bytes(content)
        return
    sys.stdout.flush()
    # A duplicate shares the position in the file; opened again by its name, it would start at the beginning.
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(content)


def lock(descriptor: int, *, wait: bool) -> bool | None:
    """Lock a file for this process until the descriptor is closed; whether it is, or None where locks do not work."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def remove_stale(folders: Iterable[Path]) -> int:
    """Remove the temporary files that killed runs left in some folders; returns how many.

    Only files with names of `Temporary` are touched, and none that a run still writes on this machine or, where the
    file system shares its locks, on another. Without locks, files older than a day are removed.
    """
    removed = 0
    for folder in set(folders):
        try:
            with os.scandir(folder) as entries:
                found = [(entry.path, match[1]) for entry in entries if (match := _NAME.fullmatch(entry.name))]
        except OSError:  # no such folder yet, or no right to list it
            continue
        for path, state in found:
            with suppress(OSError):
                if _is_left(path, state):
                    os.unlink(path)  # noqa: PTH108
                    removed += 1
    return removed


def _is_left(path: str, state: str) -> bool:
    if state != "copy":
        return _is_stale(path, was_locked=state == "tmp")
    # A copy is being made while the file that it is made from exists and is locked.
    start, _, suffix = path.removesuffix(".ovr.tmp").rpartition(".prn-copy")
    try:
        return stat.S_ISREG(os.lstat(path).st_mode) and _is_stale(f"{start}.prn-tmp{suffix}", was_locked=True)
    except FileNotFoundError:
        return True


def _is_stale(path: str, *, was_locked: bool) -> bool:
    descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        status = os.fstat(descriptor)
        age = time.time() - status.st_mtime
        if not stat.S_ISREG(status.st_mode):
            return False
        free = lock(descriptor, wait=False)
        if free is None:
            return age > _SURELY_LEFT
        return free and (was_locked or age > _JUST_MADE)
    finally:
        os.close(descriptor)
