"""The folder of a training run: what it may hold, and the lock that keeps other runs out."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prn_cli.errors import OutputError, UsageError
from prn_cli.files.temporaries import lock

STATES, LOG, TENSORBOARD = "state*.safetensors", "log.jsonl", "tensorboard"
_WRITTEN = ("model.json", "model.onnx", "model.safetensors", LOG, TENSORBOARD)


def state_file(folder: Path, stage: str) -> Path:
    """The file of the state of a stage of training."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", stage)[:40]
    digest = hashlib.sha256(stage.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return folder / (f"state-{name}-{digest}.safetensors" if stage else "state.safetensors")


def _written(folder: Path) -> list[Path]:
    """What a run has written, its states first."""
    return [*sorted(folder.glob(STATES)), *(folder / name for name in _WRITTEN if (folder / name).exists())]


def check(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Check that a run may use the folder. Nothing is deleted before the inputs have been read.

    Raises:
        UsageError: it holds files that the run must not replace, or nothing to resume.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError("is a file, expected a folder", hint="give another --out", path=folder)
    found = [path.name for path in _written(folder)]
    has_state = any(folder.glob(STATES))
    # A run that was killed in its first epoch may have left a TensorBoard log and nothing else.
    if resume and not has_state and set(found) - {TENSORBOARD}:
        raise UsageError(f"{folder} holds {found[0]}, but no state to resume from", hint="give the folder of the run")
    if found and not resume and not overwrite:
        hint = "--resume to go on with it, --overwrite to start anew"
        raise UsageError(f"{folder} holds {'a run' if has_state else found[0]}", hint=hint)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Make the folder and keep other runs out of it. Folders made here that stay empty are removed at the end.

    Raises:
        UsageError: another run uses it.
        OutputError: it cannot be made.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError.because(error, folder) from error
    descriptor = None
    with suppress(OSError):  # such as on Windows, where folders cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        if descriptor is not None and lock(descriptor, wait=False) is False:
            raise UsageError("another prn train is at work in it", hint="give another --out, or wait", path=folder)
        try:
            yield
        finally:
            with suppress(OSError):
                for place in missing:
                    place.rmdir()
    finally:
        if descriptor is not None:
            os.close(descriptor)


def clear(folder: Path) -> None:
    """Remove what a run has written."""
    for path in _written(folder):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
