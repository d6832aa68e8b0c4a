"""Arrays in one file without a name: a set may be larger than memory, and a killed run leaves nothing behind."""

from __future__ import annotations

import math
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import OutputError

_ALIGNMENT = 8  # bytes


@dataclass(frozen=True, slots=True)
class Place:
    """Where an array lies in a store."""

    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def view(self, stored: NDArray[np.uint8]) -> NDArray[Any]:
        """The array, from the bytes that `Store.mapped` returns."""
        size = self.dtype.itemsize * math.prod(self.shape)
        return stored[self.offset : self.offset + size].view(self.dtype).reshape(self.shape)


class Store:
    """A temporary file of arrays, on the disk of the folder, or of the nearest one above it that exists.

    All methods raise an `OutputError` if the file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        place = next(place for place in (folder, *folder.parents) if place.exists())
        with self._writing():
            self._file = tempfile.TemporaryFile(dir=place)  # noqa: SIM115 (open for as long as the arrays are)
        self._lock = threading.Lock()

    def put(self, array: NDArray[Any]) -> Place:
        """Append an array; safe in threads."""
        with self._lock, self._writing():
            offset = self._file.seek(-self._file.seek(0, 2) % _ALIGNMENT, 2)
            self._file.write(array.tobytes())
        return Place(offset, array.dtype, array.shape)

    def mapped(self) -> NDArray[np.uint8]:
        """All bytes by one memory map: a map for each array would need a file descriptor each."""
        with self._writing():
            self._file.flush()
        return np.memmap(self._file, dtype=np.uint8, mode="r")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError.because(error, self._folder) from error
