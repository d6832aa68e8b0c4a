"""The Typer command of an options class: a short help and a long one, other spellings, names in the environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption


@dataclass(frozen=True, slots=True)
class Spelling:
    """What Typer does not know about the options of a command.

    Attributes:
        common: names of the parameters that `--help` shows; all if empty.
        aliases: by name of the parameter, the flags that are accepted besides, and that no help shows.
    """

    common: frozenset[str]
    aliases: Mapping[str, Sequence[str]]


class Group(TyperGroup):
    """A group of commands. Its options, Typer's own for completion among them, are switches that no variable sets."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The options, without a word for their value."""
        parameters: list[Any] = super().get_params(ctx)
        for parameter in parameters:
            parameter.allow_from_autoenv, parameter.metavar = False, ""
        return parameters


class Command(TyperCommand):
    """A command whose callback has a `spelling`; without one, it is Typer's own."""

    @property
    def spelling(self) -> Spelling:
        """What the callback says of its options."""
        return getattr(self.callback, "spelling", Spelling(frozenset(), {}))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse; each long flag, aliases too, is a variable of the environment: `--tile` is `PRN_REFINE_TILE`."""
        for parameter in self.params:
            if isinstance(parameter, TyperOption) and parameter.allow_from_autoenv:
                parameter.envvar = [variable(ctx, flag) for flag in self.flags(parameter)]
        return super().parse_args(ctx, args)

    def flags(self, parameter: Any) -> list[str]:
        """The long flags of an option, those that the help does not show last."""
        flags = (*parameter.opts, *self.spelling.aliases.get(parameter.name, ()))
        return [flag for flag in flags if flag.startswith("--")]

    def make_parser(self, ctx: Any) -> Any:
        """Typer's parser, which also takes the aliases."""
        parser = super().make_parser(ctx)
        for parameter in self.params:
            for alias in self.spelling.aliases.get(str(parameter.name), ()):
                twin: Any = copy(parameter)
                twin.opts = [alias]
                twin.add_to_parser(parser, ctx)
        return parser

    def get_help_option(self, ctx: Any) -> Any:
        """Typer's, without a word for its value."""
        option: Any = super().get_help_option(ctx)
        if option is not None:
            option.metavar = ""
        return option

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The common options in one panel, or all of them if `--help-all` asked for it."""
        if not self.spelling.common or ctx.meta.get(_ALL):
            super().format_help(ctx, formatter)
            return
        whole = self.params
        self.params = [copy(each) for each in whole if self._is_common(each)]
        for each in self.params:
            each.rich_help_panel = None  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)
        self.params = whole

    def _is_common(self, parameter: Any) -> bool:
        return not isinstance(parameter, TyperOption) or parameter.name in self.spelling.common


_ALL = "prn.help_all"


def _show_all(ctx: typer.Context, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.meta[_ALL] = True
        typer.echo(ctx.get_help())
        raise typer.Exit


HELP_ALL = Annotated[
    bool,
    typer.Option(
        "--help-all",
        is_eager=True,
        callback=_show_all,
        allow_from_autoenv=False,
        metavar="",
        help="Show all options and exit.",
    ),
]


def variable(ctx: Any, flag: str) -> str:
    """The environment's name of an option: `PRN_REFINE_TILE` of `--tile`."""
    return f"{ctx.auto_envvar_prefix}_{flag.lstrip('-').replace('-', '_')}".upper()
