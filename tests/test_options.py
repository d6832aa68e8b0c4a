"""Options declared once: checked for Python callers, and made into commands."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer
from typer.testing import CliRunner

from prn_cli.commands.from_options import command
from prn_cli.errors import UsageError
from prn_cli.options import Option, Options, parameters


@dataclass(frozen=True, kw_only=True)
class Shared(Options):
    threads: Annotated[int, Option("Threads to use.", flags=("--threads", "-j"), panel="Run", least=0)] = 0


@dataclass(frozen=True, kw_only=True)
class Toy(Shared):
    logits: Annotated[tuple[str, ...], Option("Files.", argument=True)] = field(kw_only=False)
    out: Annotated[Path, Option("Folder of the masks.", flags=("--out", "-o"), panel="Output", output=True)]
    grid: Annotated[Literal["paper", "exact"], Option("Thresholds.", panel="Method")] = "paper"
    strength: Annotated[float | None, Option("How much.", panel="Method", least=0, most=1, default="1")] = None
    co: Annotated[tuple[str, ...] | None, Option("KEY=VALUE", panel="Output")] = None


def test_values_are_converted():
    toy = Toy("logits", out="masks", strength=1, co=["A=1"])
    assert toy.logits == ("logits",)
    assert toy.out == Path("masks")
    assert isinstance(toy.strength, float)
    assert toy.co == ("A=1",)
    assert Toy(Path("logits"), out="m").logits == ("logits",)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"grid": "finer"}, "--grid finer, expected paper or exact"),
        ({"strength": 2}, "--strength 2, expected 0 to 1"),
        ({"threads": -1}, "--threads -1, expected 0 or more"),
        ({"threads": "many"}, "--threads 'many', expected a whole number"),
        ({"out": "s3://bucket/masks"}, "outputs are local"),
    ],
)
def test_wrong_values_are_refused(values, message):
    with pytest.raises(UsageError, match=message):
        Toy("logits", **{"out": "masks", **values})


def test_only_what_differs_from_its_default_is_given():
    assert Toy("logits", out="masks", threads=2).given() == {
        "LOGITS": ("logits",),
        "--out": Path("masks"),
        "--threads": 2,
    }


def test_a_command_takes_the_options_of_its_class():
    seen = []

    def toy(options: Toy, *, json: bool) -> None:
        """Do nothing much."""
        seen.append((options, json))

    app = typer.Typer()
    app.command()(command(Toy, toy))
    runner = CliRunner()
    done = runner.invoke(app, ["a", "b", "-o", "masks", "--strength", "0.5", "--co", "A=1", "--co", "B=2", "-j", "3"])
    assert done.exit_code == 0, done.output
    expected = Toy(("a", "b"), out=Path("masks"), strength=0.5, co=("A=1", "B=2"), threads=3)
    assert seen == [(expected, False)]
    assert runner.invoke(app, ["a", "-o", "masks", "--strength", "2"]).exit_code == 2
    assert runner.invoke(app, ["a", "-o", "masks", "--grid", "finer"]).exit_code == 2
    text = runner.invoke(app, ["--help"]).output
    assert "Do nothing much." in text
    assert [panel for panel in ("Output", "Method", "Run") if f" {panel} " in text] == ["Output", "Method", "Run"]


def test_fields_of_base_classes_come_too():
    assert {parameter.name for parameter in parameters(Toy)} == {"logits", "out", "grid", "strength", "co", "threads"}
