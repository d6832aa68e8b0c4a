"""The options of all methods and objectives in one class, and those of one method picked from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import field, fields, make_dataclass, replace
from typing import Annotated, Any, Literal, TypeVar

from prn_cli.errors import UsageError
from prn_cli.methods import METHODS, OBJECTIVES, options_of
from prn_cli.options import Option, Options, Parameter, parameters

OptionsT = TypeVar("OptionsT", bound=Options)

_CONTRAST = Option("Add this objective, of the network's features, to the method's own.", panel="Method")


def composed(base: type[OptionsT]) -> type[OptionsT]:
    """A class with the options of `base` and of all registered methods and objectives; the latter default to None."""
    own = {parameter.name for parameter in parameters(base)}
    found: dict[str, list[tuple[str, Parameter]]] = {}
    for owner in (*METHODS, *OBJECTIVES):
        for parameter in parameters(options_of(owner)):
            if parameter.name not in own:
                found.setdefault(parameter.name, []).append((owner, parameter))
    added = [(name, *_merged(same)) for name, same in found.items()]
    network = next(parameter for parameter in parameters(base) if parameter.name == "network")
    added.append(("network", Annotated[Literal[tuple(METHODS)] | None, network.option], field(default=network.default)))
    if OBJECTIVES:
        names: Any = Literal[tuple(OBJECTIVES)]
        added.append(("contrast", Annotated[tuple[names, ...], _CONTRAST], field(default=())))
    return make_dataclass(base.__name__, added, bases=(base,), frozen=True, kw_only=True)


def _merged(same: Sequence[tuple[str, Parameter]]) -> tuple[Any, Any]:
    """Annotation and default of an option that methods may share; None stands for their own defaults."""
    option, owners = same[0][1].option, [owner for owner, _ in same]
    if not set(METHODS) <= set(owners):
        option = replace(option, help=f"{option.help} Only with {_named(owners)}.")
    defaults = {owner: str(parameter.default) for owner, parameter in same if parameter.type is not bool}
    described = set(defaults.values())
    if len(described) > 1:
        described = {", ".join(f"{default} for {owner}" for owner, default in defaults.items())}
    return Annotated[same[0][1].annotation | None, replace(option, default="".join(described))], field(default=None)


def given_for(owner: str, options: Options) -> dict[str, Any]:
    """The options of a method or objective that were given, by name."""
    theirs = {parameter.name for parameter in parameters(options_of(owner))}
    return {
        parameter.name: getattr(options, parameter.name)
        for parameter in parameters(type(options))
        if parameter.name in theirs and getattr(options, parameter.name) != parameter.default
    }


def options_for(owner: str, options: Options, **more: Any) -> Options:
    """The options of a method or objective, as its own class."""
    kind = options_of(owner)
    values = {parameter.name: getattr(options, parameter.name, None) for parameter in parameters(kind)}
    return kind(**({name: value for name, value in values.items() if value is not None} | more))


def refuse_strangers(base: type[Options], options: Options, chosen: Iterable[str]) -> None:
    """Refuse options of methods and objectives that are not in use."""
    own = {each.name for each in fields(base)}
    users = {parameter.name for owner in chosen for parameter in parameters(options_of(owner))}
    for parameter in parameters(type(options)):
        name = parameter.name
        if name not in own | users and getattr(options, name) != parameter.default:
            owners = [o for o in (*METHODS, *OBJECTIVES) if name in {p.name for p in parameters(options_of(o))}]
            raise UsageError(f"{parameter.flag} is for {_named(owners)}", hint=f"leave {parameter.flag} out")


def _named(owners: Sequence[str]) -> str:
    kinds = (("--network", METHODS), ("--contrast", OBJECTIVES))
    names = [(flag, [owner for owner in owners if owner in known]) for flag, known in kinds]
    return " or ".join(f"{flag} {' or '.join(found)}" for flag, found in names if found)
