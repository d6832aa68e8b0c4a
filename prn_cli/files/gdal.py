"""GDAL, by the extra `geo`: its module rasterio, and what its network file systems tell of a file."""

from __future__ import annotations

import os
from functools import cache
from itertools import count, takewhile
from typing import Any

from prn_cli.errors import MissingExtraError

_CACHE = "64"  # MB of decoded blocks; GDAL would take a twentieth of the memory
_SETTINGS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no requests for files beside it
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_RETRY_DELAY": "1",
    "GDAL_HTTP_TIMEOUT": "60",
    "GDAL_HTTP_CONNECTTIMEOUT": "20",
}


def import_rasterio(purpose: str) -> Any:
    """The module rasterio, with its errors.

    Raises:
        MissingExtraError: it is not installed.
    """
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
    """The settings for remote files, as a context; GDAL finds the credentials of buckets itself."""
    return rasterio.Env(session=rasterio.session.DummySession(), **_SETTINGS)


def network_headers(name: str) -> dict[str, str]:
    """The head of what a server answers on a file of one of GDAL's network file systems, by names in lower case.

    Empty if GDAL does not tell.
    """
    try:
        rasterio = import_rasterio("reading remote files")
    except MissingExtraError:  # whoever opens the file will say so
        return {}
    library = _library()
    if library is None:
        return {}
    with network_env(rasterio):
        found = library.VSIGetFileMetadata(os.fsencode(name), b"HEADERS", None)
        library.CPLErrorReset()  # which rasterio would take for an error of its next call
        if not found:
            library.VSICurlPartialClearCache(os.fsencode(name))  # so that whoever opens the file hears the cause
            return {}
    lines = list(takewhile(lambda line: line is not None, (found[number] for number in count())))
    library.CSLDestroy(found)
    return {key.lower(): value for key, _, value in (line.decode("latin-1").partition("=") for line in lines)}


@cache
def _library() -> Any:
    """GDAL itself, for what rasterio has no function for; None where it cannot be reached.

    A handle of rasterio's module also finds what the libraries behind it export, whatever they are called and wherever
    they lie, but for Windows.
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
