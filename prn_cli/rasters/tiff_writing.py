"""Writing TIFF: tiles or strips are encoded in a thread as soon as they are complete."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from prn_cli.errors import OutputError, UsageError
from prn_cli.rasters.geo import ASCII, TAG_TYPES
from prn_cli.rasters.writing import RasterWriter, Target, full_palette, packer

logging.getLogger("tifffile").addHandler(logging.NullHandler())
logging.getLogger("tifffile").propagate = False

_NODATA = 42113
_PLACES = 324, 325  # tags of the tiles' offsets and sizes
_BIGTIFF_FROM = 1 << 30  # bytes of pixels; classic TIFF ends at 4 GiB, and some readers of it at 2
_ENCODE_BYTES = 16 << 20  # bytes of pixels that tifffile takes at a time to encode them side by side
_STRIP_BYTES = 256 << 10
_SMALL_BYTES = 4 << 20
_WIDEST_OPEN = 1024  # columns
_TILES_COLUMNS = 256
_QUEUE_BYTES = 16 << 20  # of tiles or strips that wait to be encoded
_COMPRESSIONS = {"NONE": 1, "LZW": 5, "DEFLATE": 8, "ZSTD": 50000}  # as tag 259 has them
_LONGEST_SIDE = 65536
_YES_NO = {"YES": True, "TRUE": True, "ON": True, "1": True, "NO": False, "FALSE": False, "OFF": False, "0": False}
_CHOICES: dict[str, Collection[str]] = {
    "COMPRESS": _COMPRESSIONS,
    "TILED": _YES_NO,
    "PREDICTOR": ("1", "2", "3"),
    "BIGTIFF": (*_YES_NO, "IF_NEEDED", "IF_SAFER"),
}
_NUMBERS = dict.fromkeys(("BLOCKXSIZE", "BLOCKYSIZE"), (1, _LONGEST_SIDE, 1))


@dataclass(frozen=True, slots=True)
class TiffLayout:
    """How a TIFF stores its pixels."""

    compression: int
    predictor: int
    tiled: bool
    block_height: int
    block_width: int
    big: bool


def tiff_layout(height: int, width: int, dtype: np.dtype[Any], options: Mapping[str, str]) -> TiffLayout:
    """The layout that GDAL's creation options ask for: by default tiles of 256 px, deflate, a predictor for floats."""
    chosen = checked_options(options, _CHOICES, _NUMBERS, "")
    tiled = _YES_NO[chosen.get("TILED", "YES")]
    compression = _COMPRESSIONS[chosen.get("COMPRESS", "DEFLATE")]
    if tiled:
        block_width, block_height = (int(chosen.get(key, 256)) for key in ("BLOCKXSIZE", "BLOCKYSIZE"))
        for key, size in (("BLOCKXSIZE", block_width), ("BLOCKYSIZE", block_height)):
            if size % 16:
                raise UsageError(f"{key}={size}, expected a multiple of 16 up to {_LONGEST_SIDE}")
    else:
        if "BLOCKXSIZE" in chosen:
            raise UsageError("BLOCKXSIZE with TILED=NO: strips are as wide as the map", hint="leave it out")
        rows = min(max(1, _STRIP_BYTES // (width * dtype.itemsize)), _LONGEST_SIDE)
        block_width, block_height = width, min(int(chosen.get("BLOCKYSIZE", rows)), height)
    predictor = int(chosen.get("PREDICTOR", 3 if dtype.kind == "f" else 1))
    if predictor == (2 if dtype.kind == "f" else 3):
        raise UsageError(f"PREDICTOR={predictor} does not suit {dtype}: 2 is for integers and 3 for floats")
    big = chosen.get("BIGTIFF", "IF_NEEDED")
    most = _BIGTIFF_FROM // 2 if big == "IF_SAFER" else _BIGTIFF_FROM
    return TiffLayout(
        compression,
        predictor if compression > 1 else 1,
        tiled,
        block_height,
        block_width,
        _YES_NO.get(big, height * width * dtype.itemsize > most),
    )


def checked_options(
    options: Mapping[str, str],
    choices: Mapping[str, Collection[str]],
    numbers: Mapping[str, tuple[int, int, int]],
    subject: str,
) -> dict[str, str]:
    """Creation options in capitals. Refuses unknown ones and unknown values.

    `choices` are the values of options that have a few, `numbers` the least, the greatest and the step of those that
    are numbers; `subject` is what messages say of the format.
    """
    chosen: dict[str, str] = {}
    for name, text in options.items():
        key, value = name.upper(), text.upper()
        if key in choices:
            if value not in choices[key]:
                raise UsageError(f"{key}={text}, expected one of {', '.join(choices[key])}")
        elif key in numbers:
            least, most, step = numbers[key]
            if not value.isdecimal() or not least <= int(value) <= most or int(value) % step:
                steps = f"a multiple of {step}, " if step > 1 else ""
                raise UsageError(f"{key}={text}, expected {steps}{least} to {most}")
        else:
            known = ", ".join(sorted((*choices, *numbers)))
            raise UsageError(f"unknown creation option {key}{subject}, expected one of {known}")
        chosen[key] = value
    return chosen


@dataclass(slots=True)
class _Block:
    """A strip, or some neighbouring tiles of a row, being filled.

    Attributes:
        number: index of the strip or first tile in the file.
        pixels: of the block.
        rows: number of rows on the map.
        columns: number of columns on the map.
        missing: number of pixels on the map still to come.
    """

    number: int
    pixels: NDArray[Any]
    rows: int
    columns: int
    missing: int

    def filled(self) -> NDArray[Any]:
        """The pixels; beyond the map, its edge is repeated, which compresses better than a jump to zero."""
        self.pixels[self.rows :] = self.pixels[self.rows - 1]
        self.pixels[:, self.columns :] = self.pixels[:, self.columns - 1 : self.columns]
        return self.pixels


class TiffWriter(RasterWriter):
    """A TIFF being written, by its own thread if it is large."""

    holds_tags = True

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        height, width, dtype = self.height, self.width, self.dtype
        geo, nodata, palette = target.geo, target.nodata, target.palette
        self._layout = tiff_layout(height, width, dtype, target.creation_options)
        # 16 bits a colour, as TIFF has it: 255 becomes 65535.
        self._colours = None if palette is None else full_palette(palette).T.astype(np.uint16) * np.uint16(257)
        self._tags: list[tuple[int, int, int, Any, bool]] = []
        if geo is not None:
            self._tags += [(code, TAG_TYPES[code], 0, value, True) for code, value in geo.tags.items()]
        if nodata is not None:
            self._tags.append((_NODATA, ASCII, 0, _nodata_text(nodata), True))
        # Small files wait until they are complete: starting a thread takes longer than encoding them.
        self._aside = height * width * dtype.itemsize > _SMALL_BYTES
        layout = self._layout
        self._across = -(-width // layout.block_width)
        self._together = max(_TILES_COLUMNS // layout.block_width, 1)  # tiles in a block: one by one, small ones cost
        # Where a piece ends within blocks, they stay open until the next piece.
        self.any_order = layout.tiled and layout.block_width <= _WIDEST_OPEN
        block_bytes = layout.block_height * layout.block_width * self._together * dtype.itemsize
        waiting = max(_QUEUE_BYTES // block_bytes, 2) if self._aside else 0
        self._open: dict[int, _Block] = {}
        self._blocks: queue.Queue[_Block | None] = queue.Queue(waiting)
        self._order: list[int] = []
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self._thread: threading.Thread | None = None

    def _start(self) -> None:
        self._file = tifffile.TiffWriter(self._temporary, bigtiff=self._layout.big, byteorder="<")
        if self._aside:
            self._thread = threading.Thread(target=self._encode, name=f"write {self.path.name}", daemon=True)
            self._thread.start()

    def _take(self, piece: NDArray[Any], y: int, x: int) -> None:
        height, width = self._layout.block_height, self._layout.block_width * self._together
        bottom, right = y + piece.shape[0], x + piece.shape[1]
        for top in range(y - y % height, bottom, height):
            for left in range(x - x % width, right, width):
                number = top // height * self._across + left // self._layout.block_width
                block = self._open.get(number)
                if block is None:
                    block = self._open[number] = self._new_block(number, top, left)
                rows = slice(max(y, top), min(bottom, top + height))
                columns = slice(max(x, left), min(right, left + width))
                part = piece[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
                block.pixels[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = part
                block.missing -= part.size
                if not block.missing:
                    self._put(self._open.pop(number))

    def _finish(self) -> None:
        self._put(None)
        if self._thread is None:
            self._encode()
        else:
            self._thread.join()
        self._raise_failure()

    def _abort(self) -> None:
        self._stop.set()
        if self._thread is not None:
            with suppress(queue.Empty):
                while True:
                    self._blocks.get_nowait()
            self._blocks.put(None)
            self._thread.join()
        else:
            super()._abort()

    def _new_block(self, number: int, top: int, left: int) -> _Block:
        layout = self._layout
        rows = min(layout.block_height, self.height - top)
        columns = min(layout.block_width * self._together, self.width - left)
        shape = rows, columns
        if layout.tiled:
            shape = layout.block_height, -(-columns // layout.block_width) * layout.block_width
        return _Block(number, np.empty(shape, self.dtype), rows, columns, rows * columns)

    def _put(self, block: _Block | None) -> None:
        while True:
            self._raise_failure()
            try:
                self._blocks.put(block, timeout=0.1)
                return
            except queue.Full:
                continue

    def _raise_failure(self) -> None:
        if self._failure is not None:
            if isinstance(self._failure, OSError):
                raise OSError(self._failure.errno, self._failure.strerror or str(self._failure)) from self._failure
            raise OutputError.because(self._failure, self.path) from self._failure

    def _segments(self) -> Iterator[Any]:
        pack = self._own_packing()
        while True:
            block = self._blocks.get()
            if self._stop.is_set():
                raise _StoppedError
            if block is None:
                return
            pixels = block.filled()
            for number, x in enumerate(range(0, pixels.shape[1], self._layout.block_width)):
                self._order.append(block.number + number)
                part = np.ascontiguousarray(pixels[:, x : x + self._layout.block_width])
                yield part if pack is None else pack(part)

    def _own_packing(self) -> Callable[[NDArray[Any]], bytes] | None:
        """What encodes a tile or strip here; None where tifffile does, in parallel."""
        layout = self._layout
        if self.dtype.itemsize == 1 and layout.compression == _COMPRESSIONS["DEFLATE"] and layout.predictor == 1:
            return self._packed_runs
        # tifffile would take strips from the whole map only.
        return self._packed_strip if layout.compression > 1 and not layout.tiled else None

    def _packed_runs(self, part: NDArray[Any]) -> bytes:
        deflate = packer(self.dtype)
        return deflate.compress(part.data) + deflate.flush()

    def _packed_strip(self, rows: NDArray[Any]) -> bytes:
        if self._layout.predictor > 1:
            rows = tifffile.TIFF.PREDICTORS[self._layout.predictor](rows, axis=-1)
        packed: bytes = tifffile.TIFF.COMPRESSORS[self._layout.compression](rows)
        return packed

    def _encode(self) -> None:
        layout = self._layout
        shape = (self.height, self.width)
        try:
            with self._file as file:
                file.write(
                    self._segments(),
                    shape=shape,
                    dtype=self.dtype,
                    photometric="minisblack" if self._colours is None else "palette",
                    colormap=self._colours,
                    compression=layout.compression,
                    predictor=layout.predictor if layout.predictor > 1 else None,
                    tile=(layout.block_height, layout.block_width) if layout.tiled else None,
                    rowsperstrip=None if layout.tiled else layout.block_height,
                    metadata=None,
                    software=False,
                    extratags=self._tags,
                    buffersize=_ENCODE_BYTES,
                    maxworkers=None if self._aside else 1,  # threads would take longer to start than to encode
                )
            self._put_in_order()
        except _StoppedError:
            pass
        except Exception as error:
            self._failure = error

    def _put_in_order(self) -> None:
        """Correct the offsets of the tiles, which tifffile took to come in order from the top left."""
        if self._order == sorted(self._order):
            return
        with tifffile.TiffFile(self._temporary, mode="r+") as file:
            tags = file.pages.first.tags
            for code in _PLACES:
                found = tags[code].value
                placed = [0] * len(found)
                for number, value in zip(self._order, found, strict=True):
                    placed[number] = value
                tags[code].overwrite(placed)


class _StoppedError(Exception):
    """The caller has given up."""


def _nodata_text(nodata: float) -> str:
    if np.isnan(nodata):
        return "nan"
    return str(int(nodata)) if float(nodata).is_integer() else repr(float(nodata))
