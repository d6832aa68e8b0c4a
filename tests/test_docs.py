"""The guides: what they say must run, exist and be linked."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from prn_cli.commands.on_demand import OnDemand

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "examples" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = ["pseudolabel", "train", "refine", "score", "weights"]
EVERYWHERE = {"--help", "--help-all", "--version"}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), flags=re.DOTALL)


@cache
def options_of(command: str) -> set[str]:
    names = (
        [command] if command != "weights" else ["weights list", "weights import", "weights export", "weights quantize"]
    )
    text = ""
    for name in names:
        line = [
            sys.executable,
            "-m",
            "prn_cli",
            *name.split(),
            "--help" if name.startswith("weights") else "--help-all",
        ]
        text += subprocess.run(
            line, capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "200"}
        ).stdout
    group = OnDemand(name="prn")
    group.load(command)
    spelling = getattr(group.commands[command], "spelling", None)  # what works, and no help shows
    aliases = [alias for found in spelling.aliases.values() for alias in found] if spelling else []
    return set(re.findall(r"(?<![\w-])--?[a-z0-9][a-z0-9-]*", text)) | set(aliases)


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    text = re.sub(r"[^\w\- ]", "", heading.lower())
    return text.strip().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = page if not name else (page.parent / name).resolve()
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), flags=re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_options_in_command_lines_exist(page):
    for block in blocks(page, "sh"):
        text = re.sub(r"\\\n", " ", re.sub(r"#.*", "", block))
        for command, arguments in re.findall(r"\bprn ([a-z]+)\b([^|&;\n]*)", text):
            assert command in COMMANDS
            used = set(re.findall(r"(?<=\s)--?[a-z][a-z-]*", arguments))
            assert used <= options_of(command) | EVERYWHERE, (command, used - options_of(command))


def test_options_in_the_guide_exist():
    """Each section of the guide names options of its own command only."""
    sections = re.split(r"^## ", (ROOT / "docs" / "commands.md").read_text("utf-8"), flags=re.MULTILINE)
    everything = set().union(*map(options_of, COMMANDS)) | EVERYWHERE
    for section in sections[1:]:
        title = section.splitlines()[0]
        named = re.match(r"`prn ([a-z]+)`", title)
        known = options_of(named[1]) if named else everything
        used = {option for code in re.findall(r"`([^`]+)`", section) for option in re.findall(r"--[a-z][a-z-]*", code)}
        # Other commands and tools are named in passing, and then whole: `prn weights list`, `find -print0`.
        assert used <= known | EVERYWHERE, (title, used - known)


def test_python_guide_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = "\n".join(blocks(ROOT / "docs" / "python.md", "python"))
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"IoU 0\.\d{4}, F1 0\.\d{4}", done.stdout)


def test_snippets_are_python():
    found = blocks(ROOT / "docs" / "from-your-model.md", "python")
    assert len(found) >= 6
    for block in found:
        ast.parse(block)


def test_geotiff_snippet_keeps_grid_and_nodata(tmp_path, monkeypatch):
    rasterio = pytest.importorskip("rasterio")
    import numpy as np

    snippet = next(b for b in blocks(ROOT / "docs" / "from-your-model.md", "python") if "rasterio" in b)
    monkeypatch.chdir(tmp_path)
    for name in ("images", "logits"):
        (tmp_path / name).mkdir()
    transform = rasterio.Affine(0.5, 0, 400_000, 0, -0.5, 5_000_000)
    pixels = np.full((3, 300, 280), 90, np.uint8)
    pixels[:, :40] = 0
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "height": 300, "width": 280, "nodata": 0}
    jpeg = {"compress": "jpeg", "photometric": "ycbcr", "tiled": True, "blockxsize": 128, "blockysize": 128}
    with rasterio.open("images/north.tif", "w", crs="EPSG:32633", transform=transform, **profile, **jpeg) as target:
        target.write(pixels)
    exec(snippet, {"logits": np.linspace(-3, 3, 300 * 280).reshape(300, 280)})
    with rasterio.open("logits/north.tif") as result:
        assert (result.crs.to_epsg(), result.transform, result.dtypes) == (32633, transform, ("float32",))
        assert result.count == 1
        values = result.read(1)
    assert np.isnan(values[:30]).all()
    assert np.isfinite(values[50:]).all()


@pytest.mark.parametrize("name", ["try", "develop"])
def test_readme_has_the_two_commands(name):
    text = (ROOT / "README.md").read_text("utf-8")
    found = re.search(rf"^<!-- setup:{name} -->\n```sh\n(.+)\n```$", text, flags=re.MULTILINE)
    assert found
    assert "constraints.txt" in found[1]


def test_scripts_for_slurm_are_whole():
    scripts = [block for page in PAGES for block in blocks(page, "sh") if "#SBATCH" in block]
    assert len(scripts) == 2
    for script in scripts:
        assert script.startswith("#!/")  # sbatch refuses others
        if "SLURM_CPUS_PER_TASK" in script:  # not set otherwise
            assert re.search(r"^#SBATCH (-c |--cpus-per-task=)\d", script, flags=re.MULTILINE)
