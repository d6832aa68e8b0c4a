from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from prn_cli.errors import InputError, OutputError, UsageError
from prn_cli.manifest import MANIFEST_NAME, Manifest, check_outputs, check_unchanged, unchanged

SETTINGS = {"threshold": 0.5, "values": [0, 255]}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "a.npy"
    path.parent.mkdir()
    path.write_bytes(b"scores")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "out"


def job_of(manifest: Manifest, source: Path, settings: dict | None = None, **outputs: Path):
    outputs = outputs or {"mask": manifest.folder / "a.png"}
    return manifest.job(inputs={"logits": source}, settings=settings or SETTINGS, outputs=outputs)


def finish(folder: Path, source: Path, content: bytes = b"mask") -> None:
    manifest = Manifest(folder)
    manifest.start()
    job = job_of(manifest, source)
    (folder / "a.png").write_bytes(content)
    manifest.record(job, seconds=0.1, figures={"foreground": 3})


def is_finished(folder: Path, source: Path, settings: dict | None = None) -> bool:
    manifest = Manifest(folder)
    return manifest.finished(job_of(manifest, source, settings)) is not None


def test_what_is_whole_and_unchanged_is_finished(folder, source):
    finish(folder, source)
    assert is_finished(folder, source)
    entry = json.loads((folder / MANIFEST_NAME).read_text())
    assert entry["outputs"] == {"mask": {"path": "a.png", "size": 4}}
    assert entry["inputs"]["logits"]["size"] == 6
    assert entry["figures"] == {"foreground": 3}


def test_other_settings_are_other_work(folder, source):
    finish(folder, source)
    assert not is_finished(folder, source, {**SETTINGS, "threshold": 0.4})


def test_a_changed_input_is_done_again(folder, source):
    finish(folder, source)
    source.write_bytes(b"other!")
    os.utime(source, ns=(1, 1))
    assert not is_finished(folder, source)


def test_a_missing_or_cut_output_is_done_again(folder, source):
    finish(folder, source)
    (folder / "a.png").write_bytes(b"mas")
    assert not is_finished(folder, source)
    (folder / "a.png").unlink()
    assert not is_finished(folder, source)


def test_an_input_that_changes_during_the_work_is_done_again(folder, source):
    manifest = Manifest(folder)
    manifest.start()
    job = job_of(manifest, source)
    source.write_bytes(b"changed while it was read")
    (folder / "a.png").write_bytes(b"mask")
    manifest.record(job, seconds=0.1)
    assert not is_finished(folder, source)


def test_an_output_more_than_before_is_other_work(folder, source):
    finish(folder, source)
    manifest = Manifest(folder)
    more = job_of(manifest, source, mask=folder / "a.png", bias=folder / "bias" / "a.npy")
    assert manifest.finished(more) is None


def test_the_last_line_on_an_output_counts(folder, source):
    finish(folder, source)
    finish(folder, source, b"longer mask")
    assert len((folder / MANIFEST_NAME).read_text().splitlines()) == 2
    assert is_finished(folder, source)


def test_a_torn_line_is_none_and_does_not_swallow_the_next(folder, source):
    finish(folder, source)
    path = folder / MANIFEST_NAME
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        # A line that lacks its newline alone is whole.
        assert is_finished(folder, source) == (cut == len(whole) - 1)
    path.write_bytes(whole[:-20])
    finish(folder, source)
    assert is_finished(folder, source)


@pytest.mark.parametrize(
    "line",
    ["[]", "7", "{}", '{"begun": 3}', '{"begun": [{}]}', '{"outputs": 3}', '{"outputs": {"mask": 3}}', "\0\0\0", '"x"'],
)
def test_foreign_lines_are_passed_over(folder, source, line):
    finish(folder, source)
    with (folder / MANIFEST_NAME).open("a") as file:
        file.write(line + "\n")
    assert is_finished(folder, source)


def test_names_with_newlines_and_odd_bytes_stay_one_line(folder, source):
    strange = source.parent / os.fsdecode(b"a\nb\xff.npy")
    source.rename(strange)
    finish(folder, strange)
    assert len((folder / MANIFEST_NAME).read_bytes().splitlines()) == 1
    assert is_finished(folder, strange)


def test_outputs_may_move_as_a_whole(folder, source, tmp_path):
    finish(folder, source)
    moved = folder.rename(tmp_path / "elsewhere")
    assert is_finished(moved, source)


def test_a_folder_that_prn_did_not_write_is_not_written_over(folder, source):
    folder.mkdir()
    label = folder / "a.png"
    label.write_bytes(b"a label")
    with pytest.raises(UsageError, match="already"):
        Manifest(folder).refuse_strangers([label])


def test_one_harmless_run_makes_no_other_file_its_own(folder, source):
    finish(folder, source)
    (folder / "b.png").write_bytes(b"a label")
    manifest = Manifest(folder)
    manifest.refuse_strangers([folder / "a.png", folder / "c.png"])
    with pytest.raises(UsageError, match=r"b\.png: is there already"):
        manifest.refuse_strangers([folder / "a.png", folder / "b.png"])


def test_what_was_begun_is_ours_but_not_finished(folder, source):
    manifest = Manifest(folder)
    manifest.start()
    manifest.begin(job_of(manifest, source))
    (folder / "a.png").write_bytes(b"mask")
    Manifest(folder).refuse_strangers([folder / "a.png"])
    assert not is_finished(folder, source)


def test_a_torn_begun_line_is_none(folder, source):
    manifest = Manifest(folder)
    manifest.start()
    manifest.begin(job_of(manifest, source))
    whole = manifest.path.read_bytes()
    (folder / "a.png").write_bytes(b"a label")
    for cut in range(len(whole) - 1):
        manifest.path.write_bytes(whole[:cut])
        with pytest.raises(UsageError, match="already"):
            Manifest(folder).refuse_strangers([folder / "a.png"])


def test_a_missing_input_is_named(folder, tmp_path):
    with pytest.raises(InputError, match=r"gone\.npy"):
        job_of(Manifest(folder), tmp_path / "gone.npy")


def test_a_folder_that_cannot_be_made_is_one_plain_error(source):
    with pytest.raises(OutputError, match="cannot be written"):
        Manifest(source / "under-a-file").start()


def test_no_output_may_be_an_input_by_whatever_link(tmp_path, source):
    link = tmp_path / "link"
    link.symlink_to(source.parent)
    with pytest.raises(UsageError, match="over the input"):
        check_outputs([([source], [link / "a.npy"])])


def test_two_inputs_may_not_share_an_output(tmp_path):
    with pytest.raises(UsageError, match=r"both .*x/a\.npy and .*y/a\.npy"):
        check_outputs([([tmp_path / d / "a.npy"], [tmp_path / "out" / "a.png"]) for d in "xy"])


def test_one_input_may_not_write_two_outputs_to_one_file(tmp_path):
    mask = tmp_path / "out" / "a.tif"
    with pytest.raises(UsageError, match=r"would be written twice for .*a\.tif.*own folder"):
        check_outputs([([tmp_path / "in" / "a.tif"], [mask, mask])])


@pytest.mark.parametrize(
    "line",
    [
        '{"outputs": {"mask": {"path": ["a.png"]}}, "figures": {}}',
        '{"outputs": {"mask": {"path": {}}}, "figures": {}}',
        '{"outputs": {"mask": {"path": "a.png"}}}',
        '{"outputs": {"mask": {"path": "a.png"}}, "figures": []}',
        '{"outputs": [], "figures": {}}',
        '{"outputs": {"mask": {"path": "a.png"}}, "figures": {"drift": "far"}}',
        '{"outputs": {"mask": {"path": "a.png"}}, "figures": {"valid": 1e999}}',
        '{"outputs": {"mask": {"path": "a.png"}}, "figures": {"classes": {"road": [1]}}}',
        '{"begun": "a.png"}',
        "[" * 100_000,
        '{"a":' * 100_000,
        "9" * 10_000,
        "NaN",
        '"' + "x" * (3 << 20) + '"',
        "\ud800",
    ],
)
def test_hostile_lines_neither_stop_a_run_nor_pass_for_entries(folder, source, line):
    folder.mkdir()
    (folder / MANIFEST_NAME).write_bytes(line.encode("utf-8", "surrogatepass") + b"\n")
    (folder / "a.png").write_bytes(b"mask")
    assert not is_finished(folder, source)
    with pytest.raises(UsageError, match="already"):
        Manifest(folder).refuse_strangers([folder / "a.png"])
    finish(folder, source)
    assert is_finished(folder, source)


def test_what_another_run_has_begun_since_is_no_stranger(folder, source):
    manifest = Manifest(folder)
    finish(folder, source)
    manifest.refuse_strangers([folder / "a.png"])


@pytest.mark.parametrize(("change", "cause"), [("touch", "changed"), ("replace", "changed"), ("remove", "vanished")])
def test_an_input_that_changes_before_its_outputs_are_there_is_an_error(folder, source, change, cause):
    manifest = Manifest(folder)
    manifest.start()
    job = job_of(manifest, source)
    check_unchanged(job.stamps)
    if change == "touch":
        os.utime(source, ns=(1, 1))
    elif change == "replace":
        status = source.stat()
        source.with_name("other").write_bytes(b"wrongs")
        source.with_name("other").replace(source)
        os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    else:
        source.unlink()
    with pytest.raises(InputError, match=f"{cause} while it was read"):
        manifest.begin(job)
    assert (folder / MANIFEST_NAME).read_bytes() == b""


def test_reading_a_file_that_changes_is_an_error(source):
    with unchanged(source, None):
        source.read_bytes()
    with pytest.raises(InputError, match="changed while it was read"), unchanged(source, None):
        source.write_bytes(b"longer than before")
    with pytest.raises(InputError, match="vanished while it was read"), unchanged(source, None):
        source.unlink()
    with pytest.raises(InputError, match="cannot be read"), unchanged(source, None):
        pass
