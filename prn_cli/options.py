"""Options, declared once: the command line, settings files and Python callers all take them from the same class.

An options class is a frozen dataclass whose fields carry an `Option`:

    class RefineOptions(Options):
        tile: Annotated[int | None, Option("Side of a window, px.", panel="Method", least=1)] = None

`parameters` lists its fields with their types. Values are converted and checked when an object is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, fields
from functools import cache
from inspect import get_annotations
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from prn_cli.errors import UsageError
from prn_cli.files.remote import as_path, gdal_name


@dataclass(frozen=True, slots=True)
class Option:
    """How a field of an options class appears to users.

    Args:
        help: one sentence.
        panel: heading of the help.
        flags: short flags, or a long one that replaces the field's name.
        aliases: long flags that are accepted besides, and that no help shows.
        common: whether the short help shows it.
        metavar: what the help calls its value.
        least: lower bound of a number.
        most: upper bound of a number.
        default: how the help describes the default; its value if None, nothing if empty.
        argument: a positional argument, not an option.
        output: names a file or folder to write, which must be local.
        complete: completes a value in a shell.
    """

    help: str
    panel: str = "Options"
    flags: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    common: bool = False
    metavar: str | None = None
    least: float | None = None
    most: float | None = None
    default: str | None = None
    argument: bool = False
    output: bool = False
    complete: Callable[[str], list[str]] | None = None


_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "True or False", Path: "a path"}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A field of an options class.

    Attributes:
        name: of the field.
        annotation: its type, without the option.
        type: `int`, `float`, `str`, `bool` or `Path`.
        choices: allowed values; empty if all are.
        words: values that a number may take besides, such as `auto`.
        optional: whether it may be None.
        several: whether it is a tuple of values.
        default: `dataclasses.MISSING` if it must be given.
        option: how it appears.
    """

    name: str
    annotation: Any
    type: type
    choices: tuple[str, ...]
    words: tuple[str, ...]
    optional: bool
    several: bool
    default: Any
    option: Option

    @property
    def flag(self) -> str:
        """What messages call it: `--tile`, or the name of an argument in capitals."""
        if self.option.argument:
            return self.name.upper()
        return next((flag for flag in self.option.flags if flag.startswith("--")), f"--{self.name.replace('_', '-')}")

    def checked(self, value: Any) -> Any:
        """The value as the field holds it.

        Raises:
            UsageError: it is of another type, out of range, or no choice.
        """
        if value is None and self.optional:
            return None
        if self.several:
            values = [value] if isinstance(value, str | Path) or not isinstance(value, Iterable) else list(value)
            return tuple(self._converted(each) for each in values)
        return self._converted(value)

    def _converted(self, value: Any) -> Any:
        if value in self.words:
            return value
        if self.type is bool and not isinstance(value, bool):
            raise UsageError(f"{self.flag} {value!r}, expected True or False")
        also = "".join(f"{word}, or " for word in self.words)
        try:
            converted: Any = self.type(value)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{self.flag} {value!r}, expected {also}{_NAMES[self.type]}") from error
        if self.choices and converted not in self.choices:
            raise UsageError(f"{self.flag} {value}, expected {' or '.join(self.choices)}")
        least, most = self.option.least, self.option.most
        if (least is not None and not converted >= least) or (most is not None and not converted <= most):
            bounds = f"{least:g} or more" if most is None else f"{least or 0:g} to {most:g}"
            raise UsageError(f"{self.flag} {value}, expected {also}{bounds}")
        if self.option.output and converted == Path("-"):
            raise UsageError(f"{self.flag} -: files are written, not stdout", hint="give a folder or a file")
        if self.option.output and gdal_name(converted) is not None:
            hint = "give a folder or file of this machine, and copy it"
            raise UsageError("outputs are local", hint=hint, path=as_path(converted))
        return converted


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of every options class."""

    def __post_init__(self) -> None:
        """Convert and check every value; see `Parameter.checked`."""
        for parameter in parameters(type(self)):
            object.__setattr__(self, parameter.name, parameter.checked(getattr(self, parameter.name)))

    def given(self) -> dict[str, Any]:
        """By flag, the values that differ from their defaults."""
        values = ((parameter, getattr(self, parameter.name)) for parameter in parameters(type(self)))
        return {parameter.flag: value for parameter, value in values if value != parameter.default}


def parameters(options: type[Options]) -> tuple[Parameter, ...]:
    """The fields of an options class that have an `Option`: its own, and then those of its base classes."""
    hashable: Any = options  # it is, which mypy denies
    return _parameters(hashable)


@cache
def _parameters(options: type[Any]) -> tuple[Parameter, ...]:
    hints = get_type_hints(options, include_extras=True)
    defaults = {field.name: field.default for field in fields(options)}
    found = [name for name in defaults if get_origin(hints[name]) is Annotated]
    own = get_annotations(options)
    return tuple(
        _parameter(name, hints[name], defaults[name]) for name in sorted(found, key=lambda name: name not in own)
    )


def _parameter(name: str, annotated: Any, default: Any) -> Parameter:
    annotation, option = get_args(annotated)[:2]
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    kind = next(part for part in parts if part is not NoneType)
    several = get_origin(kind) is tuple
    if several:
        kind = get_args(kind)[0]
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    words = tuple(word for part in parts if part is not kind and get_origin(part) is Literal for word in get_args(part))
    return Parameter(
        name,
        annotation,
        type=str if choices else kind,
        choices=choices,
        words=words,
        optional=NoneType in parts,
        several=several,
        default=default,
        option=option,
    )


def required(parameter: Parameter) -> bool:
    """Whether a parameter has no default."""
    return parameter.default is MISSING
