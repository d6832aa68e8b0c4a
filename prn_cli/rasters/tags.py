"""Tags: which classes each image has, from a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from prn_cli.errors import InputError, reason

_HEADS = frozenset({"stem", "name", "image", "file", "filename", "id"})


def read_tags(path: Path, stems: Iterable[str]) -> dict[str, set[str]]:
    """The tags of each image, by stem; `stems` are those of the images that there are.

    A line is `STEM,CLASS,CLASS` or `STEM,CLASS;CLASS`; a file's name may stand for its stem. A stem without classes has
    none; of one with several lines, all count. A first line such as `stem,classes` is a heading.
    """
    known = set(stems)
    try:
        rows = [row for row in csv.reader(path.read_text("utf-8-sig").splitlines()) if row and row[0].strip()]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot be read: {reason(error)}", hint="check the file", path=path) from error
    if rows and rows[0][0].strip().lower() in _HEADS - known:
        rows = rows[1:]
    if not rows:
        raise InputError("no tags in it", hint="a line an image: STEM,CLASS;CLASS", path=path)
    found: dict[str, set[str]] = {}
    for name, *cells in rows:
        stem = name.strip()
        if stem not in known and Path(stem).stem in known:
            stem = Path(stem).stem
        tags = (tag.strip() for cell in cells for tag in cell.split(";"))
        found.setdefault(stem, set()).update(tag for tag in tags if tag)
    return found
