"""What must stay true of the whole: who imports what, and how fast the command line starts."""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer

from prn_cli import __version__
from prn_cli.commands import on_demand
from prn_cli.commands.app import app
from prn_cli.methods import METHODS

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ["pseudolabel", "train", "refine", "score", "weights", "weights list", "weights import", "weights export"]

# Runs a command line in this interpreter, then tells which modules it has loaded.
SPY = """
import sys
from prn_cli.commands.app import run
code = run(sys.argv[1:])
print("\\n".join(sys.modules), file=open({report!r}, "w"))
sys.exit(code)
"""


def spawn(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "prn_cli", *map(str, arguments)], capture_output=True, text=True, timeout=600
    )


def modules_after(report: Path, *arguments: str | Path) -> set[str]:
    """Modules that a process has loaded once it has run this command line."""
    script = SPY.format(report=str(report))
    done = subprocess.run([sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(report.read_text().split())


def test_import_contracts(capsys):
    cli = pytest.importorskip("importlinter.cli")
    code = cli.lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True, no_logo=True)
    assert code == 0, capsys.readouterr().out


def test_a_method_knows_no_other():
    packages = {folder.package for folder in METHODS.values()}
    for package in packages:
        for path in (ROOT / package.replace(".", "/")).glob("*.py"):
            text = path.read_text("utf-8")
            assert not [other for other in packages - {package} if other in text], path


@pytest.mark.parametrize("arguments", [["--help"], *([*name.split(), "--help"] for name in COMMANDS)])
def test_help_is_light(arguments, tmp_path):
    loaded = modules_after(tmp_path / "modules", *arguments)
    assert not loaded & {"torch", "onnxruntime", "tifffile", "PIL", "numpy"}


def test_refining_leaves_torch_out(tmp_path):
    rows, columns = np.mgrid[:96, :80]
    (tmp_path / "logits").mkdir()
    np.save(tmp_path / "logits" / "map.npy", (8 * np.sin(rows / 9) * np.cos(columns / 7)).astype(np.float32))
    loaded = modules_after(tmp_path / "modules", "refine", tmp_path / "logits", "-o", tmp_path / "masks", "-q")
    assert "onnxruntime" in loaded
    assert "torch" not in loaded
    assert (tmp_path / "masks" / "map.png").is_file()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command(name):
    done = spawn(*name.split(), "--help")
    assert done.returncode == 0
    assert f"prn {name}" in done.stdout
    assert done.stderr == ""


def test_help_of_the_application_names_every_command():
    done = spawn("--help")
    assert done.returncode == 0
    for name in {name.split()[0] for name in COMMANDS}:
        assert name in done.stdout


def test_commands_are_imported_on_demand(tmp_path):
    commands = {f"prn_cli.commands.{name}" for name in on_demand.COMMANDS}
    assert not modules_after(tmp_path / "modules", "--help") & commands
    assert modules_after(tmp_path / "modules", "score", "--help") & commands == {"prn_cli.commands.score"}


@pytest.mark.parametrize("name", on_demand.COMMANDS)
def test_the_line_of_help_is_the_first_line_of_the_command(name):
    group = on_demand.OnDemand(name="prn")
    group.load(name)
    assert group.commands[name].name == name
    assert group.commands[name].help.partition("\n")[0] == on_demand.COMMANDS[name]


def test_a_command_that_was_not_loaded_does_not_pass_for_done():
    with pytest.raises(NotImplementedError):
        typer.main.get_command(app).commands["refine"].callback()


def test_help_imports_little(tmp_path):
    """How long it takes follows from that; `bench/startup.py` judges it."""
    loaded = modules_after(tmp_path / "modules", "--help")
    assert len(loaded) < 380
    assert len({name for name in loaded if name.startswith("prn_cli")}) < 16


@pytest.mark.parametrize("path", sorted((ROOT / "bench").glob("*.py")), ids=lambda path: path.name)
def test_benches_import_what_is_there(path):
    pytest.importorskip("torch")
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("prn_cli"):
            exec(f"from {node.module} import {', '.join(name.name for name in node.names)}", {})


def test_version():
    done = spawn("--version")
    assert (done.returncode, done.stdout) == (0, f"prn {__version__}\n")
    assert importlib.metadata.version("prn-cli") == __version__
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert f"## [{__version__}]" in changes
