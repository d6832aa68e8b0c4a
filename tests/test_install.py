"""What is installed, and the line that installs more: it must work as it stands, from a clone too."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from prn_cli import errors

ROOT = Path(__file__).resolve().parent.parent


def test_the_hint_names_the_clone(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    pip, install, what = shlex.split(errors.install_line("train"))[-3:]
    assert (install, what) == ("install", f"{ROOT}[train]")
    assert Path(pip).name in ("pip", "-m")
    monkeypatch.chdir(ROOT)
    assert errors.install_line("geo").endswith(" install '.[geo]'")


def test_the_hint_of_an_installed_copy_names_where_it_came_from(tmp_path):
    """As `pip install .` leaves it: the package elsewhere, and a note of the folder."""
    site, clone = tmp_path / "site", tmp_path / "a clone"
    (site / "prn_cli").mkdir(parents=True)
    clone.mkdir()
    (clone / "pyproject.toml").touch()
    for name in ("__init__.py", "errors.py"):
        (site / "prn_cli" / name).write_text((ROOT / "prn_cli" / name).read_text())
    record = site / "prn_cli-0.1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: prn-cli\nVersion: 0.1.0\n")
    show = "from prn_cli.errors import install_line; print(install_line('train'))"
    code = f"import sys; sys.path.insert(0, {str(site)!r}); {show}"

    def hint():
        line = [sys.executable, "-I", "-c", code]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    assert hint().endswith(" install 'prn-cli[train]'")
    (record / "direct_url.json").write_text(f'{{"dir_info": {{}}, "url": "{clone.as_uri()}"}}')
    assert hint().endswith(" install 'a clone[train]'")
    (clone / "pyproject.toml").unlink()
    assert hint().endswith(" install 'prn-cli[train]'")


def test_the_gpu_runtime_is_an_extra_that_takes_the_place_of_the_base_install():
    """It is nine tenths of the download, and of use on few machines. Both fill one folder: docs have a second line."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert any(each.startswith("onnxruntime>=") for each in project["dependencies"])
    assert not any("onnxruntime-gpu" in each for each in project["dependencies"])
    assert project["optional-dependencies"]["cuda"] == ["onnxruntime-gpu[cuda,cudnn]>=1.20"]
    assert "onnxruntime-gpu==" in (ROOT / "constraints.txt").read_text("utf-8")
    guide = (ROOT / "docs" / "gpu.md").read_text("utf-8")
    assert "install -c constraints.txt '.[cuda]'\n" in guide
    assert "install --force-reinstall --no-deps -c constraints.txt onnxruntime-gpu\n" in guide


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.sh")), ids=lambda path: path.name)
def test_examples_write_where_the_user_finds_it(script):
    text = script.read_text("utf-8")
    assert "out=${1:-prn-demo" in text
    assert "mktemp" not in text
