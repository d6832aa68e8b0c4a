"""What GDAL keeps beside a raster: `.aux.xml`, world files and `.msk`, found and read as GDAL does.

A file that says how the raster is to be read, and is not understood, is refused by name.
"""

from __future__ import annotations

import os
import re
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError
from prn_cli.files.remote import gdal_name
from prn_cli.rasters.base import TIFF_SUFFIXES, Raster
from prn_cli.rasters.geo import RPC_COEFFICIENTS, TIEPOINTS, GeoTags, parse_xml

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_WITH_SIDECARS = (*TIFF_SUFFIXES, ".png", ".jpg", ".jpeg")
_MOST_LISTED = 1000  # GDAL's own limit: in a larger folder it asks for single names, in lower and in upper case
_JUST_NOW = 2 * 10**9  # ns: a folder's time may not tell a change after it
_MOST_BYTES = 1 << 20
_LONGEST_WORLD_FILE = 4096  # characters
_ERDAS = b"EHFA_HEADER_TAG"
_NUMBER = re.compile(r"\s*([+-]?(?:\d+[.,]?\d*|[.,]\d+)(?:[eE][+-]?\d+)?)")
_RPC_ORDER = (
    *("ERR_BIAS", "ERR_RAND", "LINE_OFF", "SAMP_OFF", "LAT_OFF", "LONG_OFF", "HEIGHT_OFF"),
    *("LINE_SCALE", "SAMP_SCALE", "LAT_SCALE", "LONG_SCALE", "HEIGHT_SCALE"),
    *("LINE_NUM_COEFF", "LINE_DEN_COEFF", "SAMP_NUM_COEFF", "SAMP_DEN_COEFF"),
)


def find_sidecars(path: Path) -> dict[str, Path]:
    """The files that GDAL would read beside a raster, by kind: `pam`, `world`, `mask`, and `other` formats."""
    suffix = path.suffix
    if suffix.lower() not in _WITH_SIDECARS or gdal_name(path) is not None:
        return {}
    stem, name = path.stem, path.name
    known = {
        "pam": (f"{name}.aux.xml",),
        "mask": (f"{name}.msk",),
        "world": (f"{stem}{suffix[:2]}{suffix[-1]}w", f"{stem}{suffix}w", f"{stem}.wld"),
        "other": (f"{stem}.tab", f"{name}.aux", f"{stem}.aux") if suffix.lower().startswith(".tif") else (),
    }
    listed = _listing(path.parent)
    found: dict[str, Path] = {}
    for kind, names in known.items():
        for each in names:
            spelled = listed.get(each.lower()) if listed is not None else _spelled(path, each)
            if spelled is not None and (kind != "pam" or spelled == each):  # GDAL takes it in lower case only
                place = path.with_name(spelled)
                if listed is None or place.is_file():
                    found[kind] = place
                    break
    return found


def read_sidecars(raster: Raster) -> None:
    """Complete a raster that was just opened by what lies beside it. Refuses what is not understood."""
    found = find_sidecars(raster.path)
    pam = _root(found["pam"]) if "pam" in found else None
    if pam is not None:
        _take_values(raster, pam, found["pam"])
    geo = _georeference(raster, pam, found)
    if geo.tags or geo.system:
        raster.geo = geo
    if "mask" in found:
        raster.mask = _open_mask(raster, found["mask"])


def describe(geo: GeoTags, *, has_tags: bool) -> bytes:
    """The `.aux.xml` that a raster needs for a georeference that its format cannot hold; empty if it needs none."""
    affine, points = geo.affine(), geo.control_points()
    if not geo.system and (has_tags or affine is None):
        return b""
    from xml.etree.ElementTree import Element, SubElement, tostring  # few rasters need it

    root = Element("PAMDataset")
    if points is not None:
        half = 0.5 if geo.pixel_is_point else 0.0
        listed = SubElement(root, "GCPList", Projection=geo.system, **_axes(geo))
        for number, (column, row, _, *place) in enumerate(points, 1):
            values = {"Pixel": column + half, "Line": row + half, **dict(zip("XYZ", place, strict=True))}
            SubElement(listed, "GCP", {"Id": str(number)} | {key: repr(float(value)) for key, value in values.items()})
    elif geo.system:
        SubElement(root, "SRS", **_axes(geo)).text = geo.system
    if affine is not None and not has_tags:
        (a, b, c), (d, e, f) = affine.tolist()
        SubElement(root, "GeoTransform").text = ", ".join(map(repr, (c, a, b, f, d, e)))
    return tostring(root)


def _axes(geo: GeoTags) -> dict[str, Any]:
    return {"dataAxisToSRSAxisMapping": geo.axes} if geo.axes else {}


def _listing(folder: Path) -> dict[str, str] | None:
    """The names of sidecars in a folder, by their lower case; None if it is large or cannot be listed."""
    try:
        changed = folder.stat().st_mtime_ns
    except OSError:
        return None
    recent = time.time_ns() - changed < _JUST_NOW
    return (_list.__wrapped__ if recent else _list)(os.fspath(folder), changed)


@lru_cache(64)
def _list(folder: str, changed: int) -> dict[str, str] | None:  # noqa: ARG001
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in islice(entries, _MOST_LISTED + 1)]
    except OSError:
        return None
    if len(names) > _MOST_LISTED:
        return None
    endings = (".aux.xml", ".msk", "w", ".wld", ".tab", ".aux")
    # Where two differ in case alone, the one in lower case counts.
    return {name.lower(): name for name in sorted(names) if name.lower().endswith(endings)}


def _spelled(path: Path, name: str) -> str | None:
    stem, dot, ending = name.rpartition(".")
    spellings = (name, f"{stem}{dot}{ending.lower()}", f"{stem}{dot}{ending.upper()}")
    for each in dict.fromkeys(spellings):
        if path.with_name(each).is_file():
            return each
    return None


def _not_understood(path: Path, message: str) -> InputError:
    return InputError(
        f"{message}, so it cannot be said what it means for the raster beside it",
        hint="correct it, or move it away",
        path=path,
    )


def _root(path: Path) -> Element:
    with path.open("rb") as file:
        root = parse_xml(file.read(_MOST_BYTES + 1))
    if root is None:
        raise _not_understood(path, "not XML, or damaged")
    return root


def _take_values(raster: Raster, pam: Element, path: Path) -> None:
    """Take nodata, scale and alpha of the bands. GDAL prefers them to those of the file."""
    bands = pam.findall("PAMRasterBand")
    nodata: set[float] = set()
    with suppress(AttributeError, ValueError):
        nodata = {_nodata(each) for band in bands if (each := band.find("NoDataValue")) is not None}
    if len(nodata) > 1 or (not nodata and any(band.find("NoDataValue") is not None for band in bands)):
        raise _not_understood(path, "declares nodata values that differ by band, or are no numbers")
    if nodata:
        raster.nodata = nodata.pop()
    for name, unscaled in (("Scale", 1.0), ("Offset", 0.0)):
        for text in (band.findtext(name) for band in bands):
            with suppress(ValueError):
                raster.scaled |= text is not None and float(text) != unscaled
    last = [band for band in bands if band.get("band") == str(raster.bands)]
    if any(band.findtext("ColorInterp") == "Alpha" for band in last):
        if raster.bands == 2:
            raise _not_understood(path, "declares the second of two bands as alpha")
        raster.alpha_last = raster.bands > 1


def _nodata(element: Element) -> float:
    exact = element.get("le_hex_equiv")
    if exact is not None and len(exact) == 16:
        return float(struct.unpack("<d", bytes.fromhex(exact))[0])
    return float((element.text or "").replace(",", "."))


def _georeference(raster: Raster, pam: Element | None, found: dict[str, Path]) -> GeoTags:
    """The raster's own georeference, completed in the order in which GDAL believes its sources."""
    geo = raster.geo or GeoTags({})
    if pam is not None:
        geo = _from_pam(geo, pam, found["pam"])
    of_pam = pam is not None and pam.find("GeoTransform") is not None
    png = raster.path.suffix.lower() == ".png"  # whose world file goes first
    if "world" in found and not (geo.is_placed and not (of_pam and png)):
        return geo.placed(_world_file(found["world"]))
    if "other" in found and not geo.is_placed:
        other = found["other"]
        with other.open("rb") as file:
            known = file.read(len(_ERDAS)) == _ERDAS or other.suffix.lower() == ".tab"
        if known:
            raise _not_understood(other, "a georeference in a format that prn does not read")
    return geo


def _from_pam(geo: GeoTags, pam: Element, path: Path) -> GeoTags:
    where, transform, points = (pam.find(name) for name in ("SRS", "GeoTransform", "GCPList"))
    text = "" if where is None else where.text
    if points is not None:
        where, text = points, points.get("Projection")
    text = (text or "").strip()
    try:
        if points is not None:
            half = 0.5 if geo.pixel_is_point else 0.0
            rows = [
                [float(each.get(name, 0)) - half for name in ("Pixel", "Line")]
                + [0.0, *(float(each.get(name, 0)) for name in "XYZ")]
                for each in points.findall("GCP")
            ]
            geo = GeoTags({**geo.tags, TIEPOINTS: np.array(rows, "<f8").tobytes()})
        if transform is not None:
            c, a, b, f, d, e = map(float, (transform.text or "").split(","))
            geo = geo.placed(_checked(np.array([[a, b, c], [d, e, f]])))
        rational = pam.find("Metadata[@domain='RPC']")
        if rational is not None and RPC_COEFFICIENTS not in geo.tags:
            geo = GeoTags({**geo.tags, RPC_COEFFICIENTS: _rational(rational)})
    except ValueError as error:
        raise _not_understood(path, f"damaged georeference: {error}") from error
    if where is None or not text:
        return geo
    return GeoTags(geo.tags, text, where.get("dataAxisToSRSAxisMapping", ""))


def _rational(metadata: Element) -> bytes:
    items = {item.get("key", ""): item.text or "" for item in metadata.findall("MDI")}
    values = [float(each) for name in _RPC_ORDER for each in items.get(name, "-1" if "ERR" in name else "").split()]
    if len(values) != 92:
        raise ValueError(f"{len(values)} of 92 numbers of rational polynomials")
    return np.array(values, "<f8").tobytes()


def _world_file(path: Path) -> NDArray[np.float64]:
    """The transform of a world file, `(2, 3)` from the corners of pixels.

    Its first six lines that are not blank are the transform of pixel centres: a, d, b, e, c, f of x = a col + b row + c
    and y = d col + e row + f. What follows the number in a line is a comment; a comma may stand for the point.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            lines = [line for line in file.read(_LONGEST_WORLD_FILE).splitlines() if line.strip()]
        a, d, b, e, c, f = islice(_numbers(lines), 6)
        found = np.array([[a, b, c - (a + b) / 2], [d, e, f - (d + e) / 2]])
        return _checked(found)
    except ValueError as error:
        raise _not_understood(path, "expected six lines, each with a number") from error


def _numbers(lines: list[str]) -> Iterator[float]:
    for line in lines:
        number = _NUMBER.match(line)
        if number is None:
            raise ValueError(line)
        yield float(number[1].replace(",", "."))


def _checked(transform: NDArray[np.float64]) -> NDArray[np.float64]:
    if not np.isfinite(transform).all() or not np.linalg.det(transform[:, :2]):
        raise ValueError("pixels without an extent")
    return transform


def _open_mask(raster: Raster, path: Path) -> Raster:
    """The mask that GDAL writes into a file of its own, unless told to keep it inside."""
    from prn_cli.rasters.tiff import MaskRaster

    mask = MaskRaster(path, max_pixels=raster.max_pixels)
    if (mask.height, mask.width) != (raster.height, raster.width):
        mask.close()
        raise mask.error(
            f"a mask of {mask.height}×{mask.width} pixels beside a map of {raster.height}×{raster.width}",
            "write the two again, or move it away",
        )
    return mask
