"""Files that take their name only when they are whole, and the removal of what killed runs left behind.

A temporary file lies beside the file that it will be, hidden, and is locked for as long as its run writes it. The lock
goes with the process, however that ends and on whichever machine it runs, so an unlocked one is nobody's any more.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from prn_cli.errors import OutputError, UsageError

try:
    import fcntl
except ImportError:  # Windows, which does not let go of open files and needs no locks for it
    fcntl = None  # type: ignore[assignment]

_NAME = re.compile(r"\..{0,40}\.[0-9a-f]{16}\.prn-(tmp|new|copy)(\.\w{1,12})?(\.ovr\.tmp)?", re.DOTALL)
_DESCRIPTOR = re.compile(r"/dev/(stdout|stderr)|/(?:dev|proc/self)/fd/(\d+)")
_STEM = 40  # characters, so that no name grows longer than file systems allow
_JUST_MADE = 60.0  # seconds: a new one may be about to be locked
_SURELY_LEFT = 86400.0  # seconds: for file systems without locks


class Temporary:
    """A file on its way.

    Attributes:
        path: the file that will be there.
        name: the temporary file, to be written to by its name.
        copy: a second one that may be made of it, and is to be removed before the first one goes. It needs no lock.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # In the same folder: a rename within a file system is atomic. Hidden, so that listings leave it out.
        start = f".{path.stem[:_STEM]}.{os.urandom(8).hex()}"
        self.name = path.with_name(f"{start}.prn-tmp{path.suffix}")
        self.copy = path.with_name(f"{start}.prn-copy{path.suffix}")
        self._new = path.with_name(f"{start}.prn-new{path.suffix}")
        self._descriptor: int | None = None
        self._synced = False

    def create(self) -> None:
        """Create and lock the temporary file, and its folder if need be.

        Raises:
            OSError: that cannot be done.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        try:
            descriptor = os.open(self._new, flags, 0o666)
        except FileNotFoundError:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._new, flags, 0o666)
        if fcntl is None:
            os.close(descriptor)
        else:
            self._descriptor = descriptor
            lock(descriptor, wait=False)
        os.replace(self._new, self.name)  # what has this name has been locked, see `_is_stale`

    def sync(self) -> None:
        """Wait until the finished file is on the disk.

        Raises:
            OSError: it does not get there; the temporary file is still there.
        """
        if self._descriptor is None:
            _sync(self.name)
        else:
            os.fsync(self._descriptor)  # of whatever descriptor, it is the file that is synced
        self._synced = True

    def replace(self) -> None:
        """Give the finished file its name, in place of what had it.

        Raises:
            OSError: that cannot be done; the temporary file is still there.
        """
        if not self._synced:
            self.sync()
        os.replace(self.name, self.path)
        self._release()

    def discard(self) -> None:
        """Remove the temporary file, if it is there."""
        with suppress(OSError):
            self.name.unlink(missing_ok=True)
        self._release()

    def _release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there whole, or as it was before; into a pipe or a device, as into `/dev/fd/63`.

    Raises:
        OutputError: it cannot be written.
    """
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
    """Check that `write_whole` will find a place for a file. Its folder is made if need be.

    Raises:
        OutputError: it will not.
    """
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


def is_stream(path: Path) -> bool:
    """Whether what has this name takes what is written, and must keep the name: a pipe, a device, a descriptor."""
    if _descriptor(path) is not None:
        return True
    try:
        mode = path.stat().st_mode
    except OSError:  # a file that is to be made, or the error of making it
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _descriptor(path: Path) -> int | None:
    """The descriptor of this process that a path such as /dev/stdout or /dev/fd/63 names."""
    match = _DESCRIPTOR.fullmatch(os.fspath(path))
    return None if match is None else {"stdout": 1, "stderr": 2}.get(match[1]) or int(match[2])


def _write_stream(path: Path, content: bytes) -> None:
    descriptor = _descriptor(path)
    if descriptor is None:
        path.write_bytes(content)
        return
    sys.stdout.flush()  # what comes after what is there already
    # A duplicate shares the place in the file; what is opened anew by its name would begin at the start.
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(content)


def lock(descriptor: int, *, wait: bool) -> bool | None:
    """Lock a file for this process, until the descriptor is closed.

    Returns:
        Whether it is locked; False if another process has it and `wait` is off; None if there are no locks here.
    """
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
    """Remove the temporary files that runs which were killed left in these folders.

    Only files named as `Temporary` names them are touched, and none that a run still writes: not on this machine, nor,
    where the file system shares its locks, on another. Without locks, those older than a day go.

    Returns:
        How many were removed.
    """
    removed = 0
    for folder in set(folders):
        try:
            with os.scandir(folder) as entries:
                found = [(entry.path, match[1]) for entry in entries if (match := _NAME.fullmatch(entry.name))]
        except OSError:  # not there yet, or not to be listed: nothing to remove
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
    # It is being made for as long as what it is made of is there, and locked.
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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
