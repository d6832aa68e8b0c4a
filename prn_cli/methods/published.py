"""Checkpoints of other programs, read without running code, and told apart by the methods that know them."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Sequence
from importlib import import_module, util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prn_cli.errors import InputError, reason
from prn_cli.methods import METHODS

Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
"""Patterns of published names, and what stands in their place in ours; applied in order."""

_WRAPPERS = ("state_dict", "model", "model_state_dict")


def import_published(path: Path, *, patch: int | None = None) -> Any:
    """The network of a published checkpoint, in eval mode.

    Each method that knows published checkpoints has a module `published.py` with `knows(state)`, whether the names of
    tensors are those of its network, and `from_published(state, patch=None)`, which makes the network.

    Args:
        path: a `.th`, `.pth` or `.pt` file.
        patch: side of a patch, px, for methods that have patches; as published if None.

    Raises:
        InputError: it is not a checkpoint of tensors alone, or no method knows it.
    """
    state = load_published(path)
    packages = [folder.package for folder in METHODS.values()]
    modules = [import_module(f"{p}.published") for p in packages if util.find_spec(f"{p}.published")]
    module = next((module for module in modules if module.knows(state)), modules[0])
    try:
        return module.from_published(state, patch=patch)
    except InputError as error:
        raise InputError(error.message, hint=error.hint, path=path) from error


def our_name(name: str, rules: Rules) -> str:
    """Our name of a published tensor."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def load_published(path: Path) -> dict[str, Tensor]:
    """Tensors of a published checkpoint by name, read without running any code that it may hold.

    Raises:
        InputError: it is not a checkpoint of tensors alone.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError("no such file", path=path) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        cause = reason(error, lines=1)  # those that follow advise to run its code
        raise _not_tensors(f"not a checkpoint of tensors alone ({cause})", path) from error
    while isinstance(content, dict) and len(content) < 20:
        inner = [content[key] for key in _WRAPPERS if isinstance(content.get(key), dict)]
        if not inner:
            break
        content = inner[0]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise _not_tensors(f"holds {type(content).__name__}, not a dictionary of tensors", path)
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def _not_tensors(message: str, path: Path) -> InputError:
    return InputError(message, hint="give a published state dictionary, saved by torch.save", path=path)
