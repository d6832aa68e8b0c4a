"""Remote files: their addresses, their names in GDAL, and how changes are noticed."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from prn_cli.files.gdal import network_headers

if TYPE_CHECKING:
    from collections.abc import Mapping

_ADDRESS = re.compile(r"((?:/+vsi\w+)+/)?(https?|s3|gs|az):/+(.*)", re.DOTALL)
_GDAL = {"http": "/vsicurl/http://", "https": "/vsicurl/https://", "s3": "/vsis3/", "gs": "/vsigs/", "az": "/vsiaz/"}
_CURL = "/vsicurl/"
_ARCHIVES = ("/vsizip/", "/vsitar/", "/vsigzip/", "/vsi7z/", "/vsirar/")
_NESTED = re.compile(r"\A(/vsi\w+)/+(?=vsi\w+/)")
_HELD = re.compile(r"/vsi\w+//(vsi\w+/.+?\.(?:zip|tar|tgz|gz|7z|rar))(?:/.*)?", re.DOTALL | re.IGNORECASE)
_TIMEOUT = 30  # seconds
_WHOLE = 200  # HTTP status of a whole file, although a part was requested
_USER = re.compile(r"(?<=://)[^/\s]*@")
_QUERY = re.compile(r"\?[^\s'\"]+")

_LocalPath = type(Path())


class RemotePath(_LocalPath):  # type: ignore[misc, valid-type]
    """An address such as `https://host/a.tif` or `/vsis3/bucket/a.tif`, with the interface of a path.

    Its `str` is `without_secrets`, for messages and records. Its `os.fspath` is complete.
    """

    def __str__(self) -> str:
        return without_secrets(self)

    def __fspath__(self) -> str:
        return _unfolded(super().__str__())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and os.fspath(self) == os.fspath(other)

    def __hash__(self) -> int:
        return hash(os.fspath(self))

    def absolute(self) -> RemotePath:
        """Itself."""
        return self

    def resolve(self, strict: bool = False) -> RemotePath:  # noqa: ARG002
        """Itself."""
        return self

    @property
    def name(self) -> str:
        """The last part, without a query."""
        return str(self).rpartition("/")[2]


def gdal_name(path: str | Path) -> str | None:
    """The name by which GDAL opens a remote file; None for a local file."""
    text = os.fspath(path)
    if ":" not in text and not text.startswith("/vsi"):  # most paths, and this is called several times for each
        return None
    text = _unfolded(text)
    if text.startswith(_ARCHIVES):
        # `/vsizip//data/a.zip/b.tif` holds an absolute path, of whose two slashes a path keeps one.
        archive, (_, folder, inside) = _archive(text), text.split("/", 2)
        return text if archive is None or not archive.is_absolute() else f"/{folder}//{inside.lstrip('/')}"
    if text.startswith("/vsi"):
        return text
    scheme, separator, rest = text.partition("://")
    return _GDAL[scheme] + rest if separator and scheme in _GDAL else None


def as_path(name: str | os.PathLike[str]) -> Path:
    """A path, local or remote."""
    if gdal_name(os.fspath(name)) is not None:
        return RemotePath(name)
    return name if isinstance(name, Path) else Path(name)


def without_secrets(path: str | Path) -> str:
    """An address without its user and its query, which may be a signature. Local paths stay as they are."""
    if gdal_name(path) is None:
        return os.fspath(path)
    return _USER.sub("", _unfolded(os.fspath(path)).partition("?")[0], count=1)


def text_without_secrets(text: str, path: Path) -> str:
    """A library's message about a remote file, without the secrets of its address and of others in it."""
    address = _unfolded(os.fspath(path))
    return _USER.sub("", _QUERY.sub("", text.replace(address, without_secrets(path))))


class State(NamedTuple):
    """By what a change of a file is noticed: size in bytes, modification time in ns, tag in a bucket."""

    size: int = 0
    mtime_ns: int = 0
    tag: str = ""


def state_of(path: Path) -> State:
    """The state of a remote file, or of the archive that holds it, as far as it is known.

    Only buckets give a tag, since the servers of a site may differ in theirs.
    """
    archive = _archive(os.fspath(path))
    if archive is not None:
        found = archive.stat()
        return State(found.st_size, found.st_mtime_ns)
    name = gdal_name(path) or ""
    held = _HELD.fullmatch(name)
    if held is not None:
        name = f"/{held[1]}"
    if not name.startswith(_CURL):
        headers = network_headers(name)
        return State(*_size_and_time(headers), headers.get("etag", ""))
    answer = _answer(name, "HEAD")
    return State() if answer is None else State(*_size_and_time(answer[1]))


def _size_and_time(headers: Mapping[str, str]) -> tuple[int, int]:
    """Size in bytes and modification time in ns, from HTTP headers; 0 if unknown."""
    from email.utils import parsedate_to_datetime

    # The content length of a part is that of the part.
    part, size = headers.get("content-range"), headers.get("content-length", "")
    size = size if part is None else part.rpartition("/")[2]
    try:
        time = int(parsedate_to_datetime(headers["last-modified"]).timestamp() * 1e9)
    except (KeyError, ValueError):
        time = 0
    return int(size) if size.isdecimal() else 0, time


def _archive(text: str) -> Path | None:
    """The local archive that holds a file, by a relative or an absolute path; None for others."""
    if not text.startswith(_ARCHIVES):
        return None
    inside = text.split("/", 2)[2].lstrip("/")
    for start in ("", "/"):
        path = Path(start + inside)
        for place in (path, *path.parents):
            if place.is_file():
                return place
    return None


def sends_parts(path: Path) -> bool:
    """Whether a server sends parts of a file, as GDAL requests; True if unknown."""
    name = gdal_name(path) or ""
    answer = _answer(name, "GET", Range="bytes=0-0") if name.startswith(_CURL) else None
    return answer is None or answer[0] != _WHOLE


def _answer(name: str, method: str, **headers: str) -> tuple[int, dict[str, str]] | None:
    """Status and headers, with names in lower case, of a file on a server; None if it does not give them.

    The user of the address is sent as a header, as by GDAL.
    """
    from base64 import b64encode
    from http.client import HTTPException
    from urllib.parse import unquote_to_bytes
    from urllib.request import Request, urlopen

    address = name.removeprefix(_CURL)
    user = _USER.search(address)
    try:
        request = Request(_USER.sub("", address, count=1), method=method, headers=headers)
        if user is not None:
            known = b64encode(unquote_to_bytes(user[0].removesuffix("@"))).decode()
            request.add_unredirected_header("Authorization", f"Basic {known}")
        with urlopen(request, timeout=_TIMEOUT) as answer:
            return answer.status, {key.lower(): value for key, value in answer.headers.items()}
    except (OSError, ValueError, HTTPException):  # reported when the file is opened
        return None


def _unfolded(text: str) -> str:
    """With the two slashes of an address, and of a GDAL name within another, of which a path keeps one."""
    text = _NESTED.sub(r"\1//", text)
    found = _ADDRESS.fullmatch(text)
    return f"{found[1] or ''}{found[2]}://{found[3]}" if found else text
