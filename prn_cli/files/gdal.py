"""GDAL, from the extra `geo`: the module rasterio, and the HTTP headers of remote files."""

from __future__ import annotations

import os
from functools import cache
from itertools import count, takewhile
from typing import Any

from prn_cli.errors import MissingExtraError

_CACHE = "64"  # MB of decoded blocks; GDAL's default is a twentieth of the memory
_SETTINGS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no requests for files beside it
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_RETRY_DELAY": "1",
    "GDAL_HTTP_TIMEOUT": "60",
    "GDAL_HTTP_CONNECTTIMEOUT": "20",
}


def import_rasterio(purpose: str) -> Any:
    """Import rasterio and its submodules, for a purpose that an error names."""
    os.environ.setdefault("GDAL_CACHEMAX", _CACHE)  # read once, as it is loaded
    try:
        import rasterio
        import rasterio.enums
        import rasterio.errors
        import rasterio.features
        import rasterio.session
        import rasterio.shutil
        import rasterio.warp
        import rasterio.windows
    except ImportError as error:
        raise MissingExtraError("rasterio", "geo", purpose) from error
    return rasterio


def network_env(rasterio: Any) -> Any:
    """A context with settings for remote files. GDAL finds the credentials of buckets itself."""
    return rasterio.Env(session=rasterio.session.DummySession(), **_SETTINGS)


def network_headers(name: str) -> dict[str, str]:
    """The HTTP headers of a file in a network file system of GDAL, with names in lower case; empty if unknown."""
    try:
        rasterio = import_rasterio("reading remote files")
    except MissingExtraError:  # reported when the file is opened
        return {}
    library = _library()
    if library is None:
        return {}
    with network_env(rasterio):
        found = library.VSIGetFileMetadata(os.fsencode(name), b"HEADERS", None)
        library.CPLErrorReset()  # else rasterio would raise the error at its next call
        if not found:
            library.VSICurlPartialClearCache(os.fsencode(name))  # so that opening the file tells the cause
            return {}
    lines = list(takewhile(lambda line: line is not None, (found[number] for number in count())))
    library.CSLDestroy(found)
    return {key.lower(): value for key, _, value in (line.decode("latin-1").partition("=") for line in lines)}


@cache
def _library() -> Any:
    """GDAL's C library, for functions that rasterio lacks; None if it cannot be reached.

    Except on Windows, a handle of rasterio's own module also finds the symbols of the libraries behind it.
    """
    import ctypes

    import rasterio._env

    strings = ctypes.POINTER(ctypes.c_char_p)
    try:
        library = ctypes.CDLL(rasterio._env.__file__)
        library.VSIGetFileMetadata.argtypes = [ctypes.c_char_p, ctypes.c_char_p, strings]
        library.VSIGetFileMetadata.restype = strings
        library.CSLDestroy.argtypes = [strings]
        library.CSLDestroy.restype = None
        library.CPLErrorReset.restype = None
        library.VSICurlPartialClearCache.argtypes = [ctypes.c_char_p]
        library.VSICurlPartialClearCache.restype = None
    except (OSError, AttributeError):
        return None
    return library
