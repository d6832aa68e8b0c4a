"""The commands by name, each imported when it runs, so that `prn --help` and every command start fast."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer

from prn_cli.commands.short_help import Command, Group

# Lines of help by name, which is also that of the module and of the function or application in it.
COMMANDS = {
    "pseudolabel": "Find the best threshold of every patch, and what a set of maps could gain by them.",
    "train": "Learn where a base model's scores run too high or too low, from a few labelled logit maps.",
    "refine": "Refine logit maps into better masks.",
    "score": "Score masks or probability maps against labels.",
    "weights": "List weights, import published checkpoints, export to ONNX, quantize.",
}


class OnDemand(Group):
    """A group whose commands are placeholders until they are loaded."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._loaded: set[str] = set()

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Load the command that the first word names, then resolve it as any group does."""
        self.load(args[0])
        return super().resolve_command(ctx, args)

    def load(self, *names: str) -> None:
        """Replace the placeholders of these commands; other names are ignored."""
        for name in names:
            if name in COMMANDS and name not in self._loaded:
                self.commands[name] = _command(name)
                self._loaded.add(name)


def not_loaded() -> None:
    """The placeholder of a command."""
    raise NotImplementedError("this command was not loaded: resolve it by its group")


def _command(name: str) -> Any:
    found = getattr(import_module(f"prn_cli.commands.{name}"), name)
    if not isinstance(found, typer.Typer):
        alone = typer.Typer(rich_markup_mode="rich", add_completion=False)
        alone.command(name, cls=Command)(found)
        found = alone
    command = typer.main.get_command(found)
    command.name = name
    return command
