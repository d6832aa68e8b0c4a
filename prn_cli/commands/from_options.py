"""Commands made from options classes: one declaration serves the command line, settings files and Python."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Annotated, Any, TypeVar

import typer

from prn_cli.commands import console
from prn_cli.commands.settings import use_settings
from prn_cli.commands.short_help import HELP_ALL, Spelling
from prn_cli.errors import UsageError
from prn_cli.options import Options, Parameter, parameters, required

OptionsT = TypeVar("OptionsT", bound=Options)

_PANELS = ("Input", "Output", "Method", "Objects", "Held-out images", "Loss", "Schedule", "Report", "Cluster", "Run")
"""The order of the help; other panels come before the last."""

_CHOICES_WIDTH = 20  # of 80 columns

_run_option = partial(typer.Option, rich_help_panel="Run", show_envvar=False)
_level = partial(_run_option, callback=console.set_level)
_SETTINGS = _run_option(
    "--settings",
    metavar="FILE",
    is_eager=True,
    callback=use_settings,
    help="TOML file of options; the command line and the environment come first.",
    show_default=False,
)
_COMMON: dict[str, tuple[Any, Any]] = {
    "settings_file": (Annotated[Path | None, _SETTINGS], None),
    "quiet": (Annotated[bool, _level("--quiet", "-q", metavar="", help="Errors only.")], False),
    "verbose": (Annotated[bool, _level("--verbose", "-v", metavar="", help="Say more, tracebacks too.")], False),
    "help_all": (HELP_ALL, False),
}
_JSON = Annotated[
    bool,
    typer.Option(
        "--json",
        metavar="",
        help="JSON on stdout instead of a table.",
        rich_help_panel="Output",
        show_envvar=False,
    ),
]


def command(
    options: type[OptionsT], run: Callable[..., None], *, json: bool = True, settings: bool = True
) -> Callable[..., None]:
    """A function that Typer makes a command of: its signature is that of an options class.

    Args:
        options: the class.
        run: called with an object of it and, if the command has `--json`, with `json`. Its docstring is the help.
        json: whether the command has `--json`.
        settings: whether it has `--settings`.
    """
    spelling = _spelling(options)
    wanted = {"settings_file": settings, "help_all": bool(spelling.common)}
    common = {name: found for name, found in _COMMON.items() if wanted.get(name, True)}

    def callback(**values: Any) -> None:
        for name in common:
            values.pop(name)
        more = {"json": values.pop("json")} if json else {}
        run(options(**values), **more)

    found = {parameter.name: (_annotation(parameter), _default(parameter)) for parameter in _ordered(options)}
    if json:
        found["json"] = (_JSON, False)
    signature = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in (found | common).items()
    ]
    callback.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
    callback.__annotations__ = {parameter.name: parameter.annotation for parameter in signature}
    paragraphs = inspect.cleandoc(run.__doc__ or "").split("\n\n")
    callback.__doc__ = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    callback.__name__ = run.__name__
    callback.spelling = spelling  # type: ignore[attr-defined]
    return callback


def _spelling(options: type[Options]) -> Spelling:
    found = parameters(options)
    common = {parameter.name for parameter in found if parameter.option.common}
    aliases = {parameter.name: parameter.option.aliases for parameter in found if parameter.option.aliases}
    return Spelling(frozenset(common | {"json", "help_all"} if common else ()), aliases)


def _ordered(options: type[Options]) -> list[Parameter]:
    def place(parameter: Parameter) -> float:
        if parameter.option.argument:
            return -1
        panel = parameter.option.panel
        return _PANELS.index(panel) if panel in _PANELS else len(_PANELS) - 1.5

    return sorted(parameters(options), key=place)


def _default(parameter: Parameter) -> Any:
    if required(parameter):
        return inspect.Parameter.empty
    return list(parameter.default) if parameter.several and parameter.default else parameter.default


def _annotation(parameter: Parameter) -> Any:
    option = parameter.option
    kind = int if parameter.type is int else float
    more: dict[str, Any] = {
        "help": option.help,
        "show_envvar": False,  # docs/commands.md says how they are named
        "metavar": option.metavar or _metavar(parameter),
        "min": None if option.least is None else kind(option.least),
        "max": None if option.most is None else kind(option.most),
    }
    if parameter.words:
        more |= {"parser": partial(_parsed, parameter), "min": None, "max": None}
    if option.default is not None:
        more["show_default"] = option.default or False
    elif parameter.default is None or required(parameter):
        more["show_default"] = False
    if option.complete is not None:
        more["autocompletion"] = option.complete
    if option.argument:
        found: Any = typer.Argument(**more)
    else:
        flags = dict.fromkeys((parameter.flag, *option.flags))
        found = typer.Option(*flags, rich_help_panel=option.panel, **more)
    annotation = (str | None) if parameter.words else parameter.annotation
    if parameter.several:
        annotation = list[parameter.type] | None if parameter.optional else list[parameter.type]  # type: ignore[name-defined]
    return Annotated[annotation, found]


def _metavar(parameter: Parameter) -> str:
    """What the help calls a value that has no name: nothing of a switch, or of a number whose range is shown anyway."""
    option = parameter.option
    if option.argument:
        return parameter.flag
    if parameter.type is bool or (parameter.type in (int, float) and (option.least, option.most) != (None, None)):
        return ""
    choices = fill(" | ".join(parameter.choices), _CHOICES_WIDTH)
    return choices or {int: "N", float: "NUMBER", Path: "PATH"}.get(parameter.type, "TEXT")


def _parsed(parameter: Parameter, text: Any) -> Any:
    """A number, or one of the words that may stand for it."""
    try:
        return parameter.checked(text)
    except UsageError as error:
        raise typer.BadParameter(error.message) from error
