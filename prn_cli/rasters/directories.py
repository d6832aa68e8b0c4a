"""The directories of a TIFF, checked before a library loads what they point to."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

from prn_cli.errors import InputError

MOST_PAGES = 4096

_MOST_TAGS = 4096
_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


def check_directories(path: Path) -> list[set[int]]:
    """Check a TIFF: the chain of directories ends, and their tags claim no more bytes than the file has.

    Values of valid tags do not overlap. Ten thousand tags that all name the same ten megabytes would keep a reader busy
    for an hour. Returns the codes of the tags of each page.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(16)
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        if order is None or len(head) < 8:
            raise _damaged("not a TIFF", path)
        (version,) = struct.unpack_from(order + "H", head, 2)
        if version == 42:
            formats, inline = (order + "H", order + "HHI4x", order + "I"), 4
            (at,) = struct.unpack_from(formats[2], head, 4)
        elif version == 43 and len(head) == 16:
            formats, inline = (order + "Q", order + "HHQ8x", order + "Q"), 8
            (at,) = struct.unpack_from(formats[2], head, 8)
        else:
            raise _damaged(f"not a TIFF: version {version}, expected 42 or 43", path)
        seen: set[int] = set()
        codes = []
        claimed = 0
        while at:
            if at in seen:
                raise _damaged("damaged: its pages form a loop", path)
            if len(seen) == MOST_PAGES:
                raise InputError(
                    f"more than {MOST_PAGES} pages, expected one map", hint="save one map a file", path=path
                )
            seen.add(at)
            entries, at = _directory(file, at, formats, path)
            codes.append({code for code, _ in entries})
            claimed += sum(length for _, length in entries if length > inline)
            if claimed > size:
                raise _damaged(f"damaged: its tags claim {claimed} bytes of a file of {size}", path)
    return codes


def _directory(file: BinaryIO, at: int, formats: tuple[str, str, str], path: Path) -> tuple[list[tuple[int, int]], int]:
    """Code and number of bytes of each tag of a directory, and the offset of the next directory."""
    number, entry, offset = formats
    try:
        file.seek(at)
        (count,) = struct.unpack(number, file.read(struct.calcsize(number)))
        if count > _MOST_TAGS:
            raise _damaged(f"damaged: a page of {count} tags", path)
        tags = list(struct.iter_unpack(entry, file.read(count * struct.calcsize(entry))))
        (following,) = struct.unpack(offset, file.read(struct.calcsize(offset)))
    except (struct.error, ValueError, OverflowError) as error:
        raise _damaged("damaged: a page is missing", path) from error
    return [(code, length * _TYPE_SIZES.get(kind, 1)) for code, kind, length in tags], following


def _damaged(message: str, path: Path) -> InputError:
    return InputError(message, hint="write or copy it again", path=path)
