"""The `prn` application: its commands, and the one funnel from errors to exit codes.

Exit codes: 0 all done; 1 some file failed; 2 usage; 130 interrupted; 141 the reader of stdout has gone.
Commands are imported on demand, and heavy modules inside them, so that `prn --help` stays fast.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer

from prn_cli import __version__
from prn_cli.commands import console
from prn_cli.commands.on_demand import COMMANDS, OnDemand, not_loaded
from prn_cli.commands.settings import source_of
from prn_cli.errors import PrnError, UsageError
from prn_cli.execution import interrupts
from prn_cli.execution.cores import spare_threads

# Typer has carried its own click since 0.26 and exports no more of it than this.
_UsageError = typer.BadParameter.__mro__[1]

_INTERRUPTED = 130
_OUTPUT = ("--output", "--out", "-o")

app = typer.Typer(
    name="prn",
    cls=OnDemand,
    help="Make the masks of an existing segmentation model better: pseudolabel → train → refine → score.",
    epilog="Exit codes: 0 all done, 1 some file failed, 2 usage, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"auto_envvar_prefix": "PRN", "help_option_names": ["--help", "-h"]},
)
for _name, _summary in COMMANDS.items():
    app.command(_name, help=_summary)(not_loaded)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"prn {__version__}")
        raise typer.Exit


@app.callback()
def _application(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            allow_from_autoenv=False,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    """Run before every command; its only option ends the run."""


def run(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Args:
        arguments: the words after `prn`; those of the process if None.
    """
    words = sys.argv[1:] if arguments is None else arguments
    try:
        for word in words:
            if not word or (word.startswith("--") and word.endswith("=")):
                what = f"{word} has no value" if word else "an argument is empty"
                raise UsageError(what, hint="is a variable of the shell not set?")
        code = int(app(arguments, prog_name="prn", standalone_mode=False) or 0)
        if code == _INTERRUPTED:  # what Typer makes of an interrupt
            raise KeyboardInterrupt
        return code
    except PrnError as error:
        if interrupts.came:  # that came while a module was imported, and was taken for a fault of it
            return _interrupted()
        console.error(str(error))
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except BrokenPipeError:
        return _reader_gone()
    except SystemExit as stop:
        # click and rich each end the process themselves when the reader of stdout has gone.
        if isinstance(stop.__context__, BrokenPipeError):
            return _reader_gone()
        raise
    except Exception as error:
        if isinstance(error, _UsageError):
            return _usage(error, words)
        if interrupts.came:
            return _interrupted()
        if console.Terminal.verbose:
            raise
        if isinstance(error, OSError) and error.strerror:  # no defect: a full disk behind stdout, for one
            where = f"{error.filename}: " if error.filename else ""
            console.error(f"{where}{error.strerror.lower()}; check the place and the free space")
            return 1
        message = f"unexpected {type(error).__name__}: {error}; run again with -v for the traceback, and report it"
        console.error(message)
        return 1


def _interrupted() -> int:
    console.Terminal().failure("interrupted; what was finished is kept")
    return _INTERRUPTED


def _reader_gone() -> int:
    """End quietly (`prn … | head`), with the code of a process that SIGPIPE ended, since not all may be done."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def _usage(error: Any, arguments: Sequence[str]) -> int:
    named = [word for word in arguments[:1] if word in COMMANDS]
    command = error.ctx.command_path if error.ctx else " ".join(["prn", *named])
    message = error.format_message().strip().rstrip(".")
    near = getattr(error, "possibilities", None)  # of an option that there is not
    if hasattr(error, "possibilities") and error.option_name in _OUTPUT:  # of a command that prints
        near = [each.opts[0] for each in error.ctx.command.params if _names_a_file(each)]
    if near:
        message = f"no such option: {error.option_name}; did you mean {' or '.join(near)}?"
    if message and error.ctx and getattr(error, "param", None):
        message += source_of(error.ctx, error.param.name)
    if message:  # empty where the help was shown instead
        console.error(f"{message}; see '{command} --help'")
    return 2


def _names_a_file(parameter: Any) -> bool:
    """Whether an option takes a file to write, beside what a command prints."""
    return getattr(parameter, "rich_help_panel", "") == "Output" and parameter.metavar == "FILE"


def main() -> None:
    """Entry point of the `prn` command."""
    spare_threads()
    interrupts.stop_cleanly()
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed before prn began
            setattr(sys, name, Path(os.devnull).open("r" if name == "stdin" else "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and (
            stream.errors == "strict" or (stream.errors == "surrogateescape" and not console.holds_all(stream))
        ):
            stream.reconfigure(errors="replace")  # such as "→" where the encoding has none
    code = run()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = _reader_gone()
    interrupts.finish_undisturbed()
    parallel = sys.modules.get("prn_cli.training.parallel")
    if parallel is not None and parallel.launched():
        # The threads that spoke to other processes outlive the group. While the interpreter is taken down, now and then
        # one of them aborts a process that has done its work.
        atexit._run_exitfuncs()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
