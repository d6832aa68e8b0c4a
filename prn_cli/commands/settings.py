"""`--settings FILE.toml`: options kept in a file, for all commands by one mechanism.

The values become the context's default map: they are parsed like those of the command line, which override them, as
does the environment.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import typer

from prn_cli.commands.on_demand import COMMANDS
from prn_cli.commands.short_help import variable
from prn_cli.errors import UsageError

_NOT_IN_A_FILE = {"help", "help-all", "settings"}


def use_settings(context: typer.Context, file: Path | None) -> Path | None:
    """Option callback: use the values of the file for options that are not given."""
    if file is None or context.resilient_parsing:
        return file
    root: Any = context.find_root().command
    root.load(*COMMANDS)
    parameters = {name: _parameters(command) for name, command in root.commands.items() if _takes_settings(command)}
    values = read_settings(file, str(context.info_name), parameters)
    context.default_map = {**(context.default_map or {}), **values}
    return file


def source_of(context: Any, name: str) -> str:
    """Where a parameter's value comes from, for messages; empty if from the command line or a default."""
    source = getattr(context.get_parameter_source(name), "name", None)
    parameter = next(each for each in context.command.params if each.name == name)
    names = [*(parameter.envvar or ()), variable(context, name)]
    found = next((each for each in names if each in os.environ), names[0])
    return {"DEFAULT_MAP": " (from --settings)", "ENVIRONMENT": f" (from {found})"}.get(source or "", "")


def read_settings(file: Path, command: str, parameters: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Read the values that a settings file holds for one command.

    Top-level keys are for all commands that know them; a table such as `[refine]` is for one, and comes first. The
    whole file is checked, so that a mistake shows whichever command runs.

    Args:
        file: the TOML file.
        command: the command that runs.
        parameters: of each command, its parameters by key, as `--tile` has the key `tile`.

    Returns:
        By the parameter's name: text, or a list of text, as the command line would give it.

    Raises:
        UsageError: not a readable TOML file, or an unknown table, key or type.
    """
    import tomllib

    try:
        document = tomllib.loads(file.read_text("utf-8-sig"))
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", hint="check the path", path=file) from error
    except UnicodeDecodeError as error:
        raise UsageError("is not UTF-8 text, expected TOML", hint="save it as UTF-8", path=file) from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"is not TOML: {error}", hint='write lines such as device = "cpu"', path=file) from error
    found: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, dict):
            if name not in parameters:
                raise _unknown(f"table [{name}]", name, parameters, file)
        elif name in parameters:
            raise UsageError(f"'{name}' has a value, expected a table [{name}]", path=file)
        elif not any(_key(name) in known for known in parameters.values()):
            raise _unknown(f"key '{name}'", _key(name), {key for known in parameters.values() for key in known}, file)
    shared = {name: value for name, value in document.items() if not isinstance(value, dict)}
    for other, known in parameters.items():
        own = document.get(other, {})
        for name in own:
            if _key(name) not in known:
                raise _unknown(f"key '{name}' in [{other}]", _key(name), known, file)
        for name, value in [*shared.items(), *own.items()]:  # what is for one command comes first
            parameter = known.get(_key(name))
            if parameter is not None:
                text = _as_given(_key(name), value, parameter, file)
                if other == command:
                    found[parameter.name] = text
    return found


def _key(name: str) -> str:
    return name.replace("_", "-")


def _takes_settings(command: Any) -> bool:
    return any("--settings" in parameter.opts for parameter in command.params)


def _parameters(command: Any) -> dict[str, Any]:
    """The command's parameters by key: the long name of an option, the name of an argument."""
    found = {}
    for parameter in command.params:
        for key in [flag.removeprefix("--") for flag in command.flags(parameter)] or [parameter.name]:
            if key not in _NOT_IN_A_FILE:
                found[key] = parameter
    return found


def _as_given(key: str, value: Any, parameter: Any, file: Path) -> str | list[str]:
    several = parameter.nargs == -1 or bool(getattr(parameter, "multiple", False))
    values = value if isinstance(value, list) else [value]
    for one in values:
        if not isinstance(one, str | int | float):  # bool is an int
            raise UsageError(f"'{key}' is a {type(one).__name__}, expected text, a number or true or false", path=file)
        if one == "":
            raise UsageError(f"'{key}' is empty", hint="leave it out", path=file)
    if isinstance(value, list) and not several:
        raise UsageError(f"'{key}' is a list of {len(value)}, expected one value", path=file)
    text = [str(one).lower() if isinstance(one, bool) else str(one) for one in values]
    return text if several else text[0]


def _unknown(what: str, name: str, known: Iterable[str], file: Path) -> UsageError:
    import difflib  # seldom needed

    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else "keys are long options, such as tile for --tile"
    return UsageError(f"unknown {what}", hint=hint, path=file)
