"""The one error tree: what went wrong, where, what was expected, and what to do.

Every error that a user can cause is a `PrnError`. `commands/app.py` is the only place that turns one into an exit code.
"""

from __future__ import annotations

import json
import os
import sys
from os import PathLike
from pathlib import Path
from typing import Self

_LONGEST_REASON = 1000  # characters; a damaged file may be quoted in it


class PrnError(Exception):
    """A failure with a plain cause.

    Args:
        message: what was found and what was expected, with the values.
        hint: what to do about it, an imperative.
        path: the file concerned, if there is one.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", path: str | PathLike[str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.path = None if path is None else str(path)  # of a remote file, without its secrets

    def __str__(self) -> str:
        """File, what was found and expected, and what to do, on one line."""
        text = self.message if self.path is None else f"{self.path}: {self.message}"
        return one_line(text if not self.hint else f"{text}; {self.hint}")


def one_line(text: str) -> str:
    """The text on one line, whatever a file name or a library's message holds: logs and pipes stay line by line."""
    return "".join(c if c.isprintable() else ("\\n" if c == "\n" else "?") for c in text)


def percent(share: float) -> str:
    """A share, 0 to 1, in percent of three digits."""
    return f"{100 * share:.3g} %"


def reason(error: BaseException, *, lines: int | None = None) -> str:
    """What went wrong, whole and in one line, without the path that the message names anyway.

    Args:
        error: of a library.
        lines: how many of its lines say what went wrong; all of them if None.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    said = " ".join(" ".join(str(error).strip().splitlines()[:lines]).split())
    if len(said) > _LONGEST_REASON:
        said = said[:_LONGEST_REASON].rpartition(" ")[0] + " …"
    return said.rstrip(".") or type(error).__name__


def install_line(extra: str) -> str:
    """The command that adds an extra to this environment, from the source that prn was installed from."""
    source, pip = _source(), str(Path(sys.prefix, "bin", "pip"))
    if not os.access(pip, os.X_OK):  # Windows, or a Python without scripts
        pip = f"{sys.executable} -m pip"
    return f"{_from_here(pip)} install '{_from_here(source) if source else 'prn-cli'}[{extra}]'"


def _source() -> str:
    """The folder that prn was installed from, or runs in; empty if it came from a package index."""
    from importlib.metadata import PackageNotFoundError, distribution
    from urllib.parse import unquote, urlsplit

    here = Path(__file__).resolve().parent.parent
    if (here / "pyproject.toml").is_file():
        return str(here)
    try:
        recorded = json.loads(distribution("prn-cli").read_text("direct_url.json") or "{}")  # PEP 610
    except (PackageNotFoundError, ValueError):
        return ""
    folder = Path(unquote(urlsplit(recorded.get("url", "")).path))
    return str(folder) if (folder / "pyproject.toml").is_file() else ""


def _from_here(path: str) -> str:
    """A path as short as it can be written in this folder."""
    return os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else path


class InputError(PrnError):
    """A file that cannot be used: missing, broken, ambiguous, or of the wrong shape."""


class OutputError(PrnError):
    """An output that cannot be written."""

    @classmethod
    def because(cls, error: BaseException, path: str | PathLike[str]) -> Self:
        """The failure of writing a file, or into a folder, by what stood in the way."""
        hint = "check the folder, its permissions and the free space"
        return cls(f"cannot be written: {reason(error)}", hint=hint, path=path)


class WeightsError(PrnError):
    """Weights that are missing, damaged, or of another kind than expected."""


class DivergedError(PrnError):
    """Training whose steps were too large, so that nothing came of it."""

    def __init__(self, found: str) -> None:
        super().__init__(f"training diverged: {found}", hint="give a smaller --rate")


class UsageError(PrnError):
    """A command line that asks for something that cannot be."""

    exit_code = 2


class DeviceError(UsageError):
    """A device that was asked for and cannot be had."""


class MissingExtraError(UsageError):
    """An optional dependency that is not installed.

    Args:
        package: the module that is missing.
        extra: the extra of `prn-cli` that installs it.
        purpose: what needs it.
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}, which is not installed", hint=install_line(extra))
        self.args = (package, extra, purpose)  # what a copy in another process is made from
