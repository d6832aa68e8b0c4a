"""TIFF files through tifffile and imagecodecs: only the strips or tiles that a window touches are read and decoded."""

from __future__ import annotations

import logging
import math
import re
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from prn_cli.errors import InputError, reason
from prn_cli.execution.cores import core_count
from prn_cli.maps.tiles import Window
from prn_cli.rasters.base import Raster, holds
from prn_cli.rasters.coded import CLAIMED, lerc_bands, lerc_has_invalid
from prn_cli.rasters.directories import check_directories
from prn_cli.rasters.geo import (
    GDAL_METADATA,
    NUMPY_TYPES,
    TAG_TYPES,
    GeoTags,
    dataset_metadata,
    declares_scale,
)
from prn_cli.rasters.lzw import decode_lzw

# What is wrong with a file is said once, by the error.
logging.getLogger("tifffile").addHandler(logging.NullHandler())
logging.getLogger("tifffile").propagate = False

_ORIENTATION, _NODATA = 274, 42113
_LERC, _LERC_PARAMETERS = 34887, 50674
_PLAINER = "write it again (gdal_translate -co COMPRESS=DEFLATE)"
_STRUCTURE = {*range(254, 260), 262, 266, 273, *range(277, 280), 284, 317, *range(322, 326), 338, 339}
_TAGS_THAT_MATTER = {*_STRUCTURE, _ORIENTATION, _NODATA, *TAG_TYPES}
_MOST_PADDING = 4  # image codecs pad to whole blocks
_OVERVIEW, _MASK = 1, 4  # bits of NewSubfileType
_MASK_OF_ALL = re.compile(r'"INTERNAL_MASK_FLAGS_1"[^>]*>\s*(?:2|3|6|7|1[01]|1[45])\s*<')
_CACHE_BYTES, _MOST_CACHE_BYTES = 16 << 20, 256 << 20
_WORTH_THREADS = 1 << 23  # bytes to decode
# Uncompressed, CCITT, LZW, JPEG, deflate, PackBits, LERC, LZMA, ZSTD, WebP. The others are rare in maps, and each has a
# decoder that would have to be trusted with hostile data.
_COMPRESSIONS = {1, 2, 3, 4, 5, 7, 8, 32773, 32946, 34887, 34925, 50000, 50001}


class TiffRaster(Raster):
    """A TIFF: the bands of its first page and of further pages of the same kind. Overviews are skipped."""

    noun, rewrite = "a TIFF", "write or copy it again"

    def _open(self) -> None:
        codes = check_directories(self.path)
        self._file = tifffile.TiffFile(self.path)
        pages = self._full_size_pages(codes)
        masks = [page for page in pages if page.subfiletype & _MASK]
        pages = [page for page in pages if not page.subfiletype & _MASK]
        if not pages:
            raise self.error("no image in the TIFF", "write it again")
        first = pages[0]
        lock = threading.Lock()
        alike = [page for page in pages if (page.shaped, page.dtype) == (first.shaped, first.dtype)]
        self._pages = [_Page(page, self, lock) for page in alike]
        self.height, self.width = int(first.imagelength), int(first.imagewidth)
        self.dtype = self._pages[0].dtype
        bits = int(first.bitspersample)
        self.bits = bits if self.dtype.kind == "u" and bits < 8 * self.dtype.itemsize else 0
        if (self._pages[0].samples, *first.extrasamples) in ((2, 1), (2, 2)):  # grey and alpha
            self._alpha, self.bands = True, 1
        else:
            self._alpha, self.bands = False, sum(page.samples for page in self._pages)
            # tifffile counts the samples beyond the colours: 2 is an alpha band, 1 one that was multiplied in.
            self.alpha_last = len(alike) == 1 and self.bands > 1 and first.extrasamples[-1:] in ((1,), (2,))
        self.palette = _palette(first)
        mask = [page for page in masks if (page.imagelength, page.imagewidth) == (self.height, self.width)]
        self._mask = _Page(mask[0], self, lock) if mask else None
        if self._mask is not None:
            self._mask.absent = 0.0  # tiles that a mask leaves out are invalid
        orientation = first.tags.get(_ORIENTATION)
        self.scaled = declares_scale(self._pages[0].metadata.encode())
        self.orientation = 1 if orientation is None else int(orientation.value)
        self.nodata = self._declared_nodata(first)
        # Reading some columns of compressed strips decodes all of them.
        self.by_columns = all(page.by_columns for page in (*self._pages, self._mask) if page is not None)
        geo = geo_tags(first)
        self.geo = geo if geo.tags else None

    def _full_size_pages(self, codes: Sequence[set[int]]) -> list[Any]:
        """The pages but for overviews, none of which has lost a tag that matters as unreadable."""
        pages = [page if isinstance(page, tifffile.TiffPage) else page.aspage() for page in self._file.pages]
        if len(pages) < len(codes):  # tifffile stops at a page that it cannot read; the bands would change places
            raise self.error("damaged: a page is missing")
        for page, tags in zip(pages, codes, strict=True):
            lost = sorted(code for code in tags & _TAGS_THAT_MATTER if code not in page.tags)
            if lost:
                raise self.error(f"damaged: TIFF tag {lost[0]} cannot be read")
        return [page for page in pages if not page.subfiletype & _OVERVIEW]

    def _declared_nodata(self, page: Any) -> float | None:
        tag = page.tags.get(_NODATA)
        text = "" if tag is None else str(tag.value).strip("\0 ")
        try:
            return float(text.replace(",", ".")) if text else None
        except ValueError:
            hint = "correct it (gdal_edit -a_nodata)"
            raise self.error(f"declares '{text}' as nodata, expected a number", hint) from None

    def _read(self, window: Window) -> NDArray[Any]:
        parts = [page.read(window) for page in self._pages]
        values = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return values[:1] if self._alpha else values

    def _valid(self, window: Window) -> NDArray[np.bool_] | None:
        if self._mask is not None:
            return np.asarray(self._mask.read(window)[0] != 0, np.bool_)
        if self._alpha:
            return np.asarray(self._pages[0].read(window)[1] != 0, np.bool_)
        return None


class MaskRaster(TiffRaster):
    """A mask in a file of its own: zero where the raster beside it is invalid.

    Its first band is of all bands, unless it says that each of its bands is of one.
    """

    noun = "a mask in a TIFF"

    def _open(self) -> None:
        super()._open()
        for page in self._pages:
            page.absent = 0.0
        if _MASK_OF_ALL.search(self._pages[0].metadata):
            self.bands = 1

    def _read(self, window: Window) -> NDArray[Any]:
        return super()._read(window)[: self.bands]


@cache
def _decoders() -> ThreadPoolExecutor:
    """Threads that decode; the codecs release the GIL."""
    return ThreadPoolExecutor(core_count(), thread_name_prefix="decode")


class _Page:
    """One image of the file, read by window."""

    def __init__(self, page: Any, raster: Raster, lock: threading.Lock) -> None:
        self.absent: float | None = None  # value of strips and tiles that were left out; None: nodata
        self._raster: Raster = weakref.proxy(raster)  # in no cycle, so that decoded tiles are freed at once
        self._page = page
        self._handle = page.parent.filehandle
        self._lock = lock
        self._cache: OrderedDict[int, NDArray[Any]] = OrderedDict()
        self._cached_bytes = 0
        self._check_structure()
        self._check_segments()

    @property
    def metadata(self) -> str:
        """What GDAL says of the page, as XML."""
        tag = self._page.tags.get(GDAL_METADATA)
        return "" if tag is None else str(tag.value)

    @property
    def by_columns(self) -> bool:
        """See `Raster`."""
        return self._rows_by_themselves or self._across > 1

    def _check_structure(self) -> None:
        page = self._page
        if page.dtype is None or isinstance(page.bitspersample, tuple):
            raise self._raster.error(
                f"samples of {page.bitspersample} bits in format {page.sampleformat}, expected integers or floats",
                "save the map as float32",
            )
        self.dtype = self._raster.native(np.dtype(page.dtype))
        if self.dtype.kind == "b":
            self.dtype = np.dtype(np.uint8)
        if int(page.compression) not in _COMPRESSIONS:
            raise self._raster.error(f"compression {int(page.compression)}, which prn does not read", _PLAINER)
        more = page.tags.get(_LERC_PARAMETERS)
        if page.compression == _LERC and more is not None and tuple(np.atleast_1d(more.value))[1:2] not in ((), (0,)):
            raise self._raster.error("LERC that was compressed once more, which prn does not read", _PLAINER)
        planes, depth, self.height, self.width, self._contiguous = page.shaped
        if min(self.height, self.width) < 1:
            raise self._raster.error(f"no pixels: {self.height}×{self.width}", "write it again")
        if depth != 1:
            raise self._raster.error(f"a volume of {depth} layers, expected one", "save one map a file")
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and not page.subfiletype & _MASK:
            raise self._raster.error(
                "photometric interpretation WhiteIsZero, expected BlackIsZero: readers differ in what its numbers mean",
                "write it again as BlackIsZero (gdal_translate -co PHOTOMETRIC=MINISBLACK)",
            )
        self.samples = planes * self._contiguous
        self._planes = planes
        if page.is_tiled:
            self._segment_height, self._segment_width = int(page.tilelength), int(page.tilewidth)
        else:
            self._segment_height, self._segment_width = int(page.rowsperstrip), self.width
        if min(self._segment_height, self._segment_width) < 1:
            raise self._raster.error("strips or tiles without pixels", "write it again")
        self._down = math.ceil(self.height / self._segment_height)
        self._across = math.ceil(self.width / self._segment_width)

    def _check_segments(self) -> None:
        page = self._page
        offsets, counts = np.asarray(page.dataoffsets), np.asarray(page.databytecounts)
        expected = self._planes * self._down * self._across
        if len(offsets) != expected or len(counts) != expected:
            raise self._raster.error(
                f"damaged: {len(offsets)} offsets and {len(counts)} sizes of {expected} strips or tiles",
                "write it again",
            )
        if not {offsets.dtype.kind, counts.dtype.kind} <= {"i", "u"}:
            raise self._raster.error(
                "damaged: offsets or sizes of strips or tiles that are no integers", "write it again"
            )
        offsets, counts = offsets.astype(np.uint64), counts.astype(np.uint64)
        found = self._handle.size
        needed = int((offsets + counts).max())  # may wrap around in a damaged file, so each is checked, too
        if needed > found or max(int(offsets.max()), int(counts.max())) > found:
            raise self._raster.error(f"truncated: {found} bytes, and its strips or tiles need {needed}")
        row_bytes = self._segment_width * self._contiguous * self.dtype.itemsize
        size = row_bytes * (self._segment_height if page.is_tiled else min(self._segment_height, self.height))
        self._rows_by_themselves = (
            page.compression == 1
            and page.predictor == 1
            and page.fillorder == 1
            and page.bitspersample == 8 * self.dtype.itemsize
            and not page.is_subsampled
            # Some tools store tiles at the edge without their padding: their rows are shorter.
            and not (page.is_tiled and bool(((counts > 0) & (counts < size)).any()))
        )
        if page.is_tiled or not self._rows_by_themselves:
            self._raster.check_block(size, stored=int(counts.max()))
        if self._rows_by_themselves:
            self._row_bytes = row_bytes
            self._pixels = self.dtype.newbyteorder(page.parent.byteorder)
            return
        self._segment_bytes, self._cache_bytes = size, _CACHE_BYTES
        self._fill_order_of_lzw = int(page.fillorder) if page.compression == tifffile.COMPRESSION.LZW else None
        if self._fill_order_of_lzw is not None:  # tifffile then applies predictor and byte order
            page.compression, page.fillorder = tifffile.COMPRESSION.NONE, tifffile.FILLORDER.MSB2LSB
        self._decode = page.decode  # made here, once: making it is not thread-safe

    def read(self, window: Window) -> NDArray[Any]:
        """Read a window inside the page as `(samples, h, w)`."""
        result = np.empty((self.samples, window.height, window.width), self.dtype)
        top, left = window.y, window.x
        bottom, right = top + window.height, left + window.width
        columns = range(left // self._segment_width, math.ceil(right / self._segment_width))
        first, last = top // self._segment_height, math.ceil(bottom / self._segment_height)
        rows_together = 1
        if not self._rows_by_themselves:
            # The cache holds at least a row of the window's tiles, of all planes unless that is much: bands of rows
            # that end within it do not decode it twice.
            row_bytes = len(columns) * self._segment_bytes
            all_planes = self._planes * row_bytes
            self._cache_bytes = max(self._cache_bytes, all_planes if all_planes <= _MOST_CACHE_BYTES else row_bytes)
            rows_together = max(self._cache_bytes // all_planes, 1)
        for row in range(first, last):
            y = row * self._segment_height
            y0, y1 = max(top, y), min(bottom, y + self._segment_height)
            for plane in range(self._planes):
                bands = result[plane : plane + 1] if self._planes > 1 else result
                start = (plane * self._down + row) * self._across
                if (row - first) % rows_together == 0:
                    together = range(min(rows_together, last - row))
                    self._decode_ahead([start + i * self._across + column for i in together for column in columns])
                for column in columns:
                    x = column * self._segment_width
                    x0, x1 = max(left, x), min(right, x + self._segment_width)
                    part = self._part(start + column, Window(y0 - y, x0 - x, y1 - y0, x1 - x0))
                    bands[:, y0 - top : y1 - top, x0 - left : x1 - left] = part.transpose(2, 0, 1)
        return result

    def _part(self, index: int, part: Window) -> NDArray[Any]:
        """A part of a strip or tile as `(h, w, contiguous samples)`."""
        if self._page.databytecounts[index] == 0 or self._page.dataoffsets[index] == 0:
            return self._absent(index, part.height, part.width)
        if self._rows_by_themselves:
            return self._stored(index, part)
        with self._lock:
            segment = self._cache.get(index)
            if segment is not None:
                self._cache.move_to_end(index)
        if segment is None:
            segment = self._decoded(index)
            self._keep(index, segment)
        return segment[part.slices]

    def _decode_ahead(self, indices: list[int]) -> None:
        """Decode strips or tiles in parallel, if that pays; no more of them than the cache holds."""
        if self._rows_by_themselves or core_count() < 2:
            return
        counts, offsets = self._page.databytecounts, self._page.dataoffsets
        with self._lock:
            missing = [i for i in indices if i not in self._cache and counts[i] and offsets[i]]
        if len(missing) > 1 and len(missing) * self._segment_bytes > _WORTH_THREADS:
            for index, segment in zip(missing, _decoders().map(self._decoded, missing), strict=True):
                self._keep(index, segment)

    def _keep(self, index: int, segment: NDArray[Any]) -> None:
        # Windows overlap and share strips: what was decoded last is likely to be needed again.
        with self._lock:
            if index in self._cache:  # another thread was faster
                return
            self._cache[index] = segment
            self._cached_bytes += segment.nbytes
            while self._cached_bytes > self._cache_bytes and len(self._cache) > 1:
                self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes

    def _absent(self, index: int, height: int, width: int) -> NDArray[Any]:
        # GDAL omits tiles of nodata only. Without a nodata value, such a tile cannot be told from one that a killed
        # program never wrote.
        nodata = self._raster.nodata if self.absent is None else self.absent
        if nodata is None or (self.dtype.kind != "f" and not holds(self.dtype, nodata)):
            raise self._raster.error(
                f"strip or tile {index} was never written",
                "write the file again, or declare its nodata value (gdal_edit -a_nodata)",
            )
        return np.full((height, width, self._contiguous), nodata).astype(self.dtype)

    def _stored(self, index: int, part: Window) -> NDArray[Any]:
        if part.bottom * self._row_bytes > self._page.databytecounts[index]:
            raise self._short(index, self._page.databytecounts[index], part.bottom * self._row_bytes)
        if 2 * part.width > self._segment_width:  # one read takes less time than one for each row
            data = self._bytes(index, part.y * self._row_bytes, part.height * self._row_bytes)
            columns = part.slices[1]
        else:
            pixel = self._row_bytes // self._segment_width
            starts = range(part.y * self._row_bytes + part.x * pixel, part.bottom * self._row_bytes, self._row_bytes)
            data = b"".join(self._bytes(index, start, part.width * pixel) for start in starts)
            columns = slice(None)
        values = np.frombuffer(data, self._pixels).astype(self.dtype, copy=False)
        return values.reshape(part.height, -1, self._contiguous)[:, columns]

    def _decoded(self, index: int) -> NDArray[Any]:
        data = self._bytes(index, 0, self._page.databytecounts[index])
        self._raster.check_block(self._segment_bytes, stored=len(data))
        claim = CLAIMED.get(int(self._page.compression))
        if claim is not None and not 0 < claim(data) * self.dtype.itemsize <= _MOST_PADDING * self._segment_bytes:
            raise self._raster.error(f"strip or tile {index} claims {claim(data)} pixels, which its place cannot hold")
        if self._page.compression == _LERC and lerc_bands(data) != self._contiguous:
            # Bands whose invalid pixels differ are coded one after the other.
            raise self._raster.error(
                f"strip or tile {index} is LERC of {lerc_bands(data)} bands, expected {self._contiguous}", _PLAINER
            )
        row, column = index // self._across % self._down, index % self._across
        rows = min(self._segment_height, self.height - row * self._segment_height)
        columns = min(self._segment_width, self.width - column * self._segment_width)
        tables = {"jpegtables": self._page.jpegtables} if self._page.jpegtables else {}
        try:
            if self._fill_order_of_lzw is not None:
                row_bits = self._segment_width * self._contiguous * self._page.bitspersample
                size = (self._segment_height if self._page.is_tiled else rows) * -(-row_bits // 8)
                data = decode_lzw(data, size, fill_order=self._fill_order_of_lzw)
            segment, _, _ = self._decode(data, index, **tables)
        except MemoryError:
            raise
        except Exception as error:  # each codec raises errors of its own
            raise self._raster.error(f"strip or tile {index} cannot be decoded: {reason(error)}") from error
        if segment is None:
            return self._absent(index, self._segment_height, self._segment_width)
        decoded: NDArray[Any] = segment[0]
        if self._page.compression == _LERC and self.dtype.kind == "f" and lerc_has_invalid(data):
            # GDAL writes NaN as a mask, which tifffile ignores.
            import imagecodecs

            decoded[~imagecodecs.lerc_decode(data, masks=True)[1]] = np.nan
        if decoded.shape[0] < rows or decoded.shape[1] < columns or decoded.shape[2] != self._contiguous:
            raise self._short(index, decoded.size, rows * columns * self._contiguous)
        return decoded.astype(self.dtype, copy=False)

    def _bytes(self, index: int, start: int, count: int) -> bytes:
        with self._lock:
            self._handle.seek(self._page.dataoffsets[index] + start)
            data: bytes = self._handle.read(count)
        if len(data) != count:
            raise self._short(index, len(data), count)
        return data

    def _short(self, index: int, found: int, expected: int) -> InputError:
        return self._raster.error(f"truncated: strip or tile {index} has {found} of {expected} bytes or samples")


def _palette(page: Any) -> NDArray[np.uint8] | None:
    """The palette of a page, if it has one; 16 bits a colour in the file."""
    if page.photometric != tifffile.PHOTOMETRIC.PALETTE or page.colormap is None:
        return None
    colours = np.asarray(page.colormap, np.uint16).T
    palette = np.full((len(colours), 4), 255, np.uint8)
    # Some tools write 8 bits instead of 16.
    palette[:, :3] = colours >> 8 if colours.max(initial=0) > 255 else colours
    return palette


def geo_tags(page: Any) -> GeoTags:
    """The georeferencing of a page of a TIFF."""
    tags: dict[int, bytes] = {}
    handle = page.parent.filehandle
    for tag in page.tags:
        if tag.dtype != TAG_TYPES.get(tag.code):
            continue
        handle.seek(tag.valueoffset)
        data: bytes | None = handle.read(tag.valuebytecount)
        if tag.code == GDAL_METADATA:
            data = dataset_metadata(data or b"")
        if data:
            kind = NUMPY_TYPES[TAG_TYPES[tag.code]]
            tags[tag.code] = np.frombuffer(data, kind.newbyteorder(page.parent.byteorder)).astype(kind).tobytes()
    return GeoTags(tags)
