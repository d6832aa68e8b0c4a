"""A short help and a long one; the spellings that people guess; names in the environment and in settings."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest

from prn_cli.commands.app import run


def shown(capsys, *arguments):
    assert run([*arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", ["train", "refine", "score", "pseudolabel"])
def test_the_short_help_is_short_and_the_long_one_whole(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    short, whole = shown(capsys, name, "--help"), shown(capsys, name, "--help-all")
    few, all_of_them = (re.findall(r"^│ [ *]? *(--[a-z-]+)", text, flags=re.MULTILINE) for text in (short, whole))
    assert 10 <= len(few) <= 17
    assert len(short.splitlines()) < 70
    assert set(few) < set(all_of_them)
    assert len(all_of_them) > 1.5 * len(few)
    assert "PRN_" not in short
    assert "env var" not in whole
    assert shown(capsys, name, "--help") == short  # the long one leaves no traces


def test_the_long_help_has_every_option(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    from prn_cli.options import parameters
    from prn_cli.workflows.refine import RefineOptions

    text = shown(capsys, "refine", "--help-all")
    assert all(each.flag in text for each in parameters(RefineOptions))


@pytest.fixture
def maps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logits").mkdir()
    rows, columns = np.mgrid[:40, :48]
    both = np.stack((np.sin(rows / 9) * 5, np.cos(columns / 7) * 5)).astype(np.float32)
    np.save("logits/two.npy", np.concatenate((both, both[:1] - 1)))  # three classes
    return tmp_path


def test_what_people_guess_is_taken(maps, capsys):
    line = ["refine", "logits", "--output", "masks", "--model", "fast", "-q"]
    assert run([*line, "--band", "2"]) == 0, capsys.readouterr().err
    assert run(["refine", "logits", "--out=same", "--weights=fast", "--bidx=2", "-q"]) == 0
    assert (maps / "masks" / "two.png").read_bytes() == (maps / "same" / "two.png").read_bytes()
    assert "--output" not in shown(capsys, "refine", "--help-all")


def test_what_is_nearly_right_is_suggested(maps, capsys):
    assert run(["refine", "logits", "-o", "masks", "--wieghts", "fast"]) == 2
    assert "no such option: --wieghts; did you mean --weights" in capsys.readouterr().err
    assert run(["train", "logits", "--lr", "-1"]) == 2
    assert "--rate" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--output", "--out", "-o"])
def test_a_command_that_prints_names_the_files_that_it_can_write(capsys, flag):
    assert run(["score", "masks", "--labels", "labels", flag, "scores"]) == 2
    assert f"no such option: {flag}; did you mean --csv or --report?; see" in capsys.readouterr().err
    assert run(["refine", "logits", flag]) == 2
    assert "requires an argument" in capsys.readouterr().err


@pytest.mark.parametrize("variable", ["PRN_REFINE_BIDX", "PRN_REFINE_BAND"])
def test_the_environment_takes_every_spelling(maps, capsys, monkeypatch, variable):
    monkeypatch.setenv(variable, "9")
    assert run(["refine", "logits", "-o", "masks"]) == 1
    assert "band 9 of 3" in capsys.readouterr().err
    monkeypatch.setenv(variable, "none")
    assert run(["refine", "logits", "-o", "masks"]) == 2
    assert f"(from {variable})" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["palette", "palette_file"])
def test_flags_and_fields_both_name_a_variable(maps, capsys, monkeypatch, flag):
    monkeypatch.setenv(f"PRN_REFINE_{flag.upper()}", "none.txt")
    assert run(["refine", "logits", "-o", "masks", "--task", "multiclass"]) != 0
    assert "none.txt" in capsys.readouterr().err


def test_settings_take_every_spelling(maps, capsys):
    (maps / "prn.toml").write_text('[refine]\noutput = "masks"\nband = 9\n')
    assert run(["refine", "logits", "--settings", "prn.toml"]) == 1
    assert "band 9 of 3" in capsys.readouterr().err


def test_a_shell_completes_weights_and_hidden_options():
    def complete(words):
        variables = {
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
            "_PRN_COMPLETE": "complete_bash",
        }
        line = [sys.executable, "-m", "prn_cli"]
        return subprocess.run(line, capture_output=True, text=True, env=os.environ | variables).stdout.split()

    assert complete("prn train --from fast-") == ["fast-int8"]
    assert complete("prn train --jitter-sc") == ["--jitter-scale"]  # not in the short help


def test_the_help_leaves_room_for_words(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = shown(capsys, "refine", "--help").splitlines()
    assert len(lines) < 75
    assert not any("<" in line.replace("<=", "") for line in lines if "--" in line)  # no types of Python
    assert any("auto | logits |" in line for line in lines)
    assert any("[0.0<=x<=1.0]" in line for line in lines)


@pytest.mark.parametrize("line", [(), ("weights",), ("weights", "list"), ("refine",)])
def test_a_switch_has_no_word_for_a_value(line, capsys):
    run([*line, "--help"])
    assert "<bool>" not in capsys.readouterr().out


def test_the_first_help_names_no_variable(capsys):
    assert run(["--help"]) == 0
    assert "env var" not in capsys.readouterr().out


def test_a_flag_without_its_value_points_to_the_help_of_its_command(capsys):
    assert run(["refine", "maps", "-o", "masks", "-w"]) == 2
    assert capsys.readouterr().err.strip().endswith("see 'prn refine --help'")
