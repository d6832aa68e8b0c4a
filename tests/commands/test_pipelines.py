"""In a pipeline, in a job array, before a run, and in a shell that completes."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prn_cli.commands import app
from prn_cli.files.manifest import MANIFEST_NAME
from prn_cli.workflows import refine_plan
from prn_cli.workflows.parts import select_part

PRN = [sys.executable, "-m", "prn_cli"]
SHELL_PRN = shlex.join(PRN)


@pytest.fixture
def folder(tmp_path, make_onnx, random_logits, monkeypatch) -> Path:
    """`logits/` with twelve maps, `model.onnx`; the working folder."""
    make_onnx()
    (tmp_path / "logits").mkdir()
    for number in range(12):
        np.save(tmp_path / "logits" / f"map{number}.npy", random_logits(40, 50, seed=number))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prn(capsys, *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = app.run([*arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def masks(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.png")}


def snapshot(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


# --- what a shell hands over


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("logits", "-o", ""), "an argument is empty"),
        (("", "-o", "out"), "an argument is empty"),
        (("logits", "--out="), "--out= has no value"),
        (("logits", "-o", "s3://bucket/out"), "s3://bucket/out: outputs are local"),
        (("logits", "-o", "out", "--bias", "https://host/bias"), "https://host/bias: outputs are local"),
        (("logits", "-o", "out", "--polygons", "gs://bucket/a.gpkg"), "gs://bucket/a.gpkg: outputs are local"),
    ],
)
def test_no_output_goes_where_nobody_meant(folder, capsys, arguments, message):
    before = snapshot(folder)
    code, _, err = prn(capsys, "refine", *arguments, "-w", "model.onnx")
    assert code == 2
    assert message in err
    assert snapshot(folder) == before


def test_a_variable_of_that_name_is_no_option(folder, capsys, monkeypatch):
    monkeypatch.setenv("PRN_VERSION", "1")
    assert prn(capsys, "refine", "logits", "-o", "out", "-w", "model.onnx")[0] == 0
    assert len(masks(folder / "out")) == 12


def test_a_link_to_nothing_fails_by_name(folder, capsys):
    (folder / "logits" / "gone.npy").symlink_to(folder / "nowhere.npy")
    code, _, err = prn(capsys, "refine", "logits", "-o", "out", "-w", "model.onnx", "--input-kind", "logits")
    assert code == 1
    assert "gone.npy" in err
    assert len(masks(folder / "out")) == 12


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_a_closed_stream_does_not_stop_the_work(folder, closed):
    line = f"{SHELL_PRN} refine logits -o out -w model.onnx --json {closed}"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert len(masks(folder / "out")) == 12


@pytest.mark.parametrize(
    "stream",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=["ascii", "C"],
)
def test_a_stream_of_few_characters_gets_others_in_their_place(stream):
    environment = {**os.environ, "COLUMNS": "200", **stream}
    done = subprocess.run([*PRN, "--help"], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "pseudolabel ? train ? refine ? score" in done.stdout


def test_json_says_every_name_in_any_encoding(folder):
    (folder / "logits" / "map0.npy").rename(folder / "logits" / "mapé.npy")
    line = [*PRN, "refine", "logits", "-o", "out", "-w", "model.onnx", "--dry-run", "--json"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(line, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "logits/mapé.npy" in {json.loads(text)["input"] for text in done.stdout.splitlines()}


# --- pipes


@pytest.mark.parametrize(("find", "null"), [("-print", ""), ("-print0", "--null")])
def test_find_to_refine_to_the_next_step(folder, find, null):
    (folder / "logits" / "map0.npy").rename(folder / "logits" / "a map.npy")
    step = "import json,sys; [print(json.loads(l)['mask']) for l in sys.stdin]"
    line = (
        f"find logits -name '*.npy' {find} | {SHELL_PRN} refine - {null} -o out -w model.onnx --json"
        f" | {shlex.quote(sys.executable)} -c {shlex.quote(step)}"
    )
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == sorted(f"out/{name}.png" for name in masks(folder / "out"))
    assert len(masks(folder / "out")) == 12
    # No bar where stderr is no terminal: two lines, and no control character.
    assert len(done.stderr.splitlines()) == 2
    assert "\r" not in done.stderr
    assert "\x1b" not in done.stderr


def test_a_line_comes_as_soon_as_its_file_is_done(folder, held):
    os.link("logits/map1.npy", "long.npy")
    line = ["refine", "-", "-o", "out", "-w", "model.onnx", "-j", "1", "--tta", "--json"]
    with held(r"open .*/\.long\..*\.prn-tmp", *line, stdin=subprocess.PIPE) as run:
        run.process.stdin.write("logits/map0.npy\nlong.npy\n")
        run.process.stdin.close()
        assert json.loads(run.process.stdout.readline())["input"] == "logits/map0.npy"
        run.wait()
        assert (folder / "out" / "map0.png").is_file()
        assert not (folder / "out" / "long.png").exists()


def test_a_reader_that_has_enough_ends_the_run_quietly(folder):
    line = f"find logits -name '*.npy' | {SHELL_PRN} refine - -o out -w model.onnx --json | head -n 1"
    done = subprocess.run(["bash", "-c", line + "; echo ${PIPESTATUS[@]}"], capture_output=True, text=True)
    first, codes = done.stdout.splitlines()
    assert json.loads(first)["status"] == "refined"
    assert codes in ("0 141 0", "0 0 0")  # 0 if all lines fit into the pipe before head left
    assert "Broken pipe" not in done.stderr
    assert "Traceback" not in done.stderr


def on_a_terminal(*arguments: str, stdout: int | None = None) -> tuple[str, str]:
    """What a command shows on a terminal, and what it prints, if `stdout` is a pipe."""
    pty = pytest.importorskip("pty")
    reader, writer = pty.openpty()
    with subprocess.Popen([*PRN, *arguments], stdout=stdout or writer, stderr=writer, text=True) as process:
        os.close(writer)
        shown = b""
        while True:
            try:
                part = os.read(reader, 1 << 16)
            except OSError:  # what a terminal whose other end has gone gives on Linux
                break
            if not part:
                break
            shown += part
        printed = "" if process.stdout is None else process.stdout.read()
    os.close(reader)
    assert process.returncode == 0
    return shown.decode(), printed


def test_a_bar_only_on_a_terminal(folder):
    line = ["refine", "logits", "-o", "out", "-w", "model.onnx", "--json"]
    shown, printed = on_a_terminal(*line, stdout=subprocess.PIPE)
    assert "\x1b[" in shown
    assert "Refining" in shown
    assert len([json.loads(record) for record in printed.splitlines()]) == 12


def test_a_bar_does_not_break_records_in_pieces(folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    shown, _ = on_a_terminal("refine", "logits", "-o", "out", "-w", "model.onnx", "--json")
    assert "Refining" in shown
    records = [json.loads(line[line.index("{") :]) for line in shown.splitlines() if '{"input"' in line]
    assert {record["input"] for record in records} == {f"logits/map{number}.npy" for number in range(12)}


@pytest.mark.parametrize("command", ["score", "pseudolabel"])
def test_what_is_for_the_report_is_refused_before_a_file_is_looked_for(folder, capsys, command):
    code, _, err = prn(capsys, command, "nowhere", "--labels", "nowhere", "--images", "nowhere")
    assert code == 2
    assert "for the report, and there is none; add --report FILE" in err


# --- parts


def part_of(name: str, count: int) -> int:
    return next(number for number in range(count) if select_part([name], count, number)[0])


@given(st.lists(st.text(min_size=1), unique=True), st.integers(1, 50), st.randoms())
def test_parts_are_disjoint_complete_and_do_not_depend_on_the_order(names, count, random):
    def part_of_all(names, number):
        return [names[position] for position in select_part(names, count, number)[0]]

    parts = [part_of_all(names, number) for number in range(count)]
    assert sorted(name for part in parts for name in part) == sorted(names)
    assert parts == [[name for name in names if part_of(name, count) == number] for number in range(count)]
    shuffled = list(names)
    random.shuffle(shuffled)
    for number, part in enumerate(parts):
        assert set(part_of_all(shuffled, number)) == set(part)
        # Nor on what else there is.
        assert part_of_all(part[:1], number) == part[:1]


def test_parts_are_about_equal():
    names = [f"tile_{number:05d}" for number in range(8000)]
    assert all(900 < len(select_part(names, 8, number)[0]) < 1100 for number in range(8))


def test_a_job_array_does_each_map_once(folder):
    """The tasks run side by side, as they do in an array, and write into one folder."""
    tasks = [
        subprocess.Popen(
            [*PRN, "refine", "logits", "-o", "out", "-w", "model.onnx", "--num-parts", "3", "--json"],
            env=os.environ | {"PRN_REFINE_PART_ID": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    records = []
    for task in tasks:
        out, err = task.communicate()
        assert task.returncode == 0, err
        records.append([json.loads(line) for line in out.splitlines()])
    done = [Path(record["input"]).stem for part in records for record in part]
    assert sorted(done) == sorted(f"map{number}" for number in range(12))
    assert all(record["status"] == "refined" for part in records for record in part)
    assert masks(folder / "out") == set(done)
    # All of them are in the manifest: a run over the whole has nothing left to do.
    rest = subprocess.run(
        [*PRN, "refine", "logits", "-o", "out", "-w", "model.onnx", "--json"], capture_output=True, text=True
    )
    assert [json.loads(line)["status"] for line in rest.stdout.splitlines()] == ["kept"] * 12


@pytest.mark.parametrize("number", range(3))
def test_each_task_refuses_two_inputs_with_one_mask(folder, capsys, number):
    np.savez(folder / "logits" / "map0.npz", np.load(folder / "logits" / "map0.npy"))
    line = ["refine", "logits", "-o", "out", "-w", "model.onnx", "--num-parts", "3", "--part-id", str(number)]
    code, _, err = prn(capsys, *line)
    assert code == 2
    assert "would be written for both logits/map0.npy and logits/map0.npz" in err
    assert not (folder / "out").exists()


def test_a_task_resolves_the_files_of_its_part_alone(folder, capsys, monkeypatch):
    resolved = []
    check = refine_plan.check_outputs

    def spy(jobs):
        plans = [(list(inputs), list(outputs)) for inputs, outputs in jobs]
        resolved.extend(path.stem for inputs, _ in plans for path in inputs)
        check(plans)

    monkeypatch.setattr(refine_plan, "check_outputs", spy)
    line = ["refine", "logits", "-o", "out", "-w", "model.onnx", "--num-parts", "4", "--part-id", "1", "--dry-run"]
    assert prn(capsys, *line)[0] == 0
    assert resolved == [f"map{number}" for number in sorted(range(12), key=str) if part_of(f"map{number}", 4) == 1]


def test_a_task_pairs_the_files_of_its_part_alone(folder, capsys):
    (folder / "valid").mkdir()
    for path in (folder / "logits").iterdir():
        np.save(folder / "valid" / path.name, np.ones((40, 50), np.uint8))
    np.savez(folder / "valid" / "map0.npz", np.ones((40, 50), np.uint8))
    (folder / "valid" / "map3.npy").unlink()
    for number in range(4):
        line = ["refine", "logits", "-o", "out", "-w", "model.onnx", "--valid-mask", "valid"]
        code, _, err = prn(capsys, *line, "--num-parts", "4", "--part-id", str(number))
        twice, missing = (part_of(f"map{k}", 4) == number for k in (0, 3))
        assert code == int(twice or missing)
        assert ("map0.npz: has the stem of valid/map0.npy" in err) == twice
        assert ("map3.npy: no validity mask with this stem in valid" in err) == missing
    assert masks(folder / "out") == {f"map{k}" for k in range(12) if part_of(f"map{k}", 4) != 0} - {"map3"}


@given(st.lists(st.sampled_from("abcdefgh"), max_size=12), st.integers(1, 5))
def test_names_that_occur_again_are_known_to_all_parts(names, count):
    again = [position for position, name in enumerate(names) if names.count(name) > 1]
    assert {tuple(select_part(names, count, number)[1]) for number in range(count)} == {tuple(again)}
    assert select_part(names, None, None) == (list(range(len(names))), again)


def test_a_part_without_inputs_is_done(folder, capsys):
    number = 1 - part_of("map0", 2)
    code, out, err = prn(
        capsys,
        *("refine", "logits/map0.npy", "-o", "out", "-w", "model.onnx"),
        *("--json", "--num-parts", "2", "--part-id", str(number)),
    )
    assert (code, out) == (0, "")
    assert f"part {number} of 2: 0 of 1 inputs" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-parts", "3"], "--num-parts without --part-id"),
        (["--part-id", "0"], "--part-id without --num-parts"),
        (["--num-parts", "3", "--part-id", "3"], "expected 0 to 2; parts are counted from 0"),
        (["--num-parts", "0", "--part-id", "0"], "--num-parts"),
    ],
)
def test_parts_that_cannot_be(folder, capsys, arguments, message):
    code, _, err = prn(capsys, "refine", "logits", "-o", "out", "-w", "model.onnx", *arguments)
    assert code == 2
    assert message in err
    assert not (folder / "out").exists()


# --- dry run


def test_a_dry_run_says_what_a_run_would_do_and_why(folder, capsys, random_logits):
    line = ["refine", "logits", "-o", "out", "-w", "model.onnx", "--json"]
    before = snapshot(folder)
    code, out, err = prn(capsys, *line, "--dry-run")
    plan = [json.loads(record) for record in out.splitlines()]
    assert code == 0
    assert len(plan) == 12
    assert {(entry["status"], entry["why"]) for entry in plan} == {("refine", "no mask yet")}
    assert plan[0]["mask"] == "out/map0.png"
    assert "dry run, nothing written: 12 to refine, 0 to keep, 0 to fail" in err
    assert snapshot(folder) == before

    assert prn(capsys, *line)[0] == 0
    (folder / "out" / "map1.png").unlink()
    with (folder / "out" / "map2.png").open("ab") as file:
        file.write(b"x")
    np.save(folder / "logits" / "map3.npy", random_logits(41, 50))
    (folder / "logits" / "map4.npy").write_bytes(b"")
    before = snapshot(folder)
    code, out, _ = prn(capsys, *line, "--dry-run")
    entries = [json.loads(record) for record in out.splitlines()]
    why = {Path(entry["input"]).stem: (entry["status"], entry["why"]) for entry in entries}
    assert code == 1
    assert why["map0"] == ("keep", "made from the same inputs with the same settings")
    assert why["map1"] == ("refine", "the mask is gone")
    assert why["map2"] == ("refine", "the mask is not whole, or was changed")
    assert why["map3"] == ("refine", "other inputs, or changed ones")
    assert why["map4"] == ("fail", "empty file (0 bytes)")
    assert snapshot(folder) == before

    code, out, _ = prn(capsys, *line, "--dry-run", "--threshold", "0.7", "--tta")
    assert "other settings: threshold, tta" in out
    code, out, _ = prn(capsys, *line, "--dry-run", "--overwrite")
    assert json.loads(out.splitlines()[0])["why"] == "--overwrite"
    # The run then does what the plan said.
    code, out, _ = prn(capsys, *line)
    done = {Path(record["input"]).stem for record in map(json.loads, out.splitlines()) if record["status"] == "refined"}
    assert (code, done) == (1, {"map1", "map2", "map3"})


def test_a_dry_run_for_people_and_of_one_file(folder, capsys):
    code, out, _ = prn(capsys, "refine", "logits/map1.npy", "-o", "one.png", "-w", "model.onnx", "--dry-run")
    assert (code, out) == (0, "refine\tlogits/map1.npy\tone.png\tno mask yet\n")
    assert not (folder / MANIFEST_NAME).exists()
    line = ("refine", "logits/map1.npy", "-o", "one.png", "-w", "model.onnx")
    assert prn(capsys, *line)[0] == 0
    for more, action in (((), "keep\t"), (("--tta",), "refine\t"), (("--overwrite",), "refine\t")):
        code, out, _ = prn(capsys, *line, *more, "--dry-run")
        assert (code, out.startswith(action)) == (0, True)
    code, out, err = prn(capsys, *line[:2], "-o", "logits/map2.npy", *line[4:], "--dry-run")
    assert (code, out, "logits/map2.npy: is there already" in err) == (2, "", True)
    code, out, _ = prn(
        capsys,
        *("refine", "logits", "-o", "out", "-w", "model.onnx", "--dry-run"),
        *("--num-parts", "2", "--part-id", "1"),
    )
    listed = {Path(line.split("\t")[1]).stem for line in out.splitlines()}
    assert listed == {f"map{number}" for number in range(12) if part_of(f"map{number}", 2) == 1}
    assert not (folder / "out").exists()


def test_a_dry_run_of_pseudolabel(folder, capsys):
    (folder / "labels").mkdir()
    for path in (folder / "logits").iterdir():
        np.save(folder / "labels" / path.name, (np.load(path) > 0).astype(np.uint8))
    before = snapshot(folder)
    code, out, _ = prn(capsys, "pseudolabel", "--dry-run", "--json")
    assert code == 0
    assert {json.loads(line)["status"] for line in out.splitlines()} == {"search"}
    assert snapshot(folder) == before
    assert prn(capsys, "pseudolabel", "-q", "--json")[0] == 0
    code, out, _ = prn(capsys, "pseudolabel", "--dry-run", "--json")
    assert {json.loads(line)["status"] for line in out.splitlines()} == {"keep"}


# --- completion


def complete(shell: str, words: str) -> str:
    """What `prn` answers when a shell asks it to go on from these words."""
    bash = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    others = {
        "_TYPER_COMPLETE_ARGS": words,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_WORD_TO_COMPLETE": words.split(" ")[-1],  # of PowerShell
    }
    variables = bash if shell == "bash" else others
    done = subprocess.run(
        PRN, capture_output=True, text=True, env=os.environ | variables | {"_PRN_COMPLETE": f"complete_{shell}"}
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_bash_completes_commands_options_and_choices():
    assert complete("bash", "prn re").split() == ["refine"]
    assert complete("bash", "prn refine --num").split() == ["--num-parts"]
    assert complete("bash", "prn refine --device ").split() == ["auto", "cpu", "cuda"]
    assert "fast" in complete("bash", "prn refine --weights ").split()
    assert complete("bash", "prn refine logi").split() == []  # the shell's own file names
    assert complete("bash", "prn refine --settings none.toml --dry").split() == ["--dry-run"]


def test_zsh_completes_with_the_help():
    found = complete("zsh", "prn refine --dry")
    assert found.startswith("_arguments")
    assert '"--dry-run":"List what would be done' in found
    assert complete("zsh", "prn refine logi").strip() == "_files"


@pytest.mark.parametrize(("shell", "between"), [("fish", "\t"), ("powershell", ":::")])
def test_fish_and_powershell_complete_with_the_help(shell, between):
    assert complete(shell, "prn refine --dry").startswith(f"--dry-run{between}List what would be done")
    assert [line.removesuffix(between) for line in complete(shell, "prn refine --device ").split()] == [
        "auto",
        "cpu",
        "cuda",
    ]
    assert complete(shell, "prn refine logi").strip() == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_the_shell_gets_a_script(shell, tmp_path):
    done = subprocess.run(
        [*PRN, "--show-completion", shell],
        capture_output=True,
        text=True,
        env=os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"complete_{shell}" in done.stdout
    if shell == "bash":
        (tmp_path / "script").write_text(done.stdout)
        subprocess.run(["bash", "-n", "script"], cwd=tmp_path, check=True)


def test_completing_is_light(tmp_path):
    report = tmp_path / "modules"
    spy = (
        "import atexit, sys\nfrom prn_cli.commands.app import run\n"
        f"atexit.register(lambda: print('\\n'.join(sys.modules), file=open({str(report)!r}, 'w')))\nrun([])"
    )
    variables = {"_PRN_COMPLETE": "complete_bash", "COMP_WORDS": "prn refine --weights ", "COMP_CWORD": "3"}
    subprocess.run([sys.executable, "-c", spy], env=os.environ | variables, check=True, capture_output=True)
    assert not set(report.read_text().split()) & {"torch", "onnxruntime", "tifffile", "PIL", "numpy", "rasterio"}


def test_the_manifest_is_of_no_part(folder, capsys):
    """Tasks that follow one another keep what the others did."""
    for number in range(2):
        line = ["refine", "logits", "-o", "out", "-w", "model.onnx", "--num-parts", "2", "--part-id", str(number)]
        assert prn(capsys, *line)[0] == 0
    assert len(masks(folder / "out")) == 12
    assert (folder / "out" / MANIFEST_NAME).read_text().count('"finished"') == 12


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("arguments", [("--help",), ("weights", "list", "--json")])
def test_a_full_disk_behind_stdout_is_said_plainly(arguments):
    with Path("/dev/full").open("w") as full:
        line = [sys.executable, "-m", "prn_cli", *arguments]
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "prn: error: no space left on device; check the place and the free space\n"
