"""Arrays by name in an `.npz` file that prn keeps between two steps of its work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from prn_cli.errors import InputError, reason
from prn_cli.files.temporaries import write_whole

T = TypeVar("T")


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays by name."""
    content = BytesIO()
    np.savez_compressed(content, **arrays)
    write_whole(path, content.getvalue())


def load_arrays(path: Path, make: Callable[[Mapping[str, Any]], T]) -> T:
    """What is made of the arrays that `save_arrays` wrote."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return make(arrays)
    except Exception as error:
        raise InputError(f"cannot be read: {reason(error)}", hint="remove it and run again", path=path) from error
