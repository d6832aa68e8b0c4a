from __future__ import annotations

import json
import os
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prn_cli.errors import InputError, OutputError, UsageError
from prn_cli.files import manifest as manifest_module
from prn_cli.files.manifest import MANIFEST_NAME, Manifest, check_outputs, check_unchanged, unchanged

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


@pytest.mark.parametrize("name", ["a.npy", "b.npy"])
def test_an_output_that_is_a_link_is_what_it_leads_to(tmp_path, source, name):
    out = tmp_path / "out" / name
    out.parent.mkdir()
    out.symlink_to(source)
    with pytest.raises(UsageError, match="over the input"):
        check_outputs([([source], [tmp_path / "in" / ".." / "out" / name])])


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


def others(count: int) -> str:
    """What runs on other maps have left in the manifest that they share."""
    entry = {"inputs": {}, "settings": {"note": "x" * 400}, "outputs": {"mask": {"path": "", "size": 4}}, "figures": {}}
    names = [f"other_{number}.png" for number in range(count)]
    lines = [({"begun": [name]}, entry | {"outputs": {"mask": {"path": name, "size": 4}}}) for name in names]
    return "".join(json.dumps(line) + "\n" for pair in lines for line in pair)


def test_memory_does_not_grow_with_the_outputs_of_others(folder, source):
    folder.mkdir()
    lines = others(20_000)
    (folder / MANIFEST_NAME).write_text(lines)
    finish(folder, source)
    tracemalloc.start()
    manifest = Manifest(folder, [folder / "a.png"])
    assert manifest.finished(job_of(manifest, source)) is not None
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < len(lines) / 4


def test_what_others_have_appended_is_read_without_the_rest(folder, source, monkeypatch):
    folder.mkdir()
    (folder / MANIFEST_NAME).write_text(others(1000))
    outputs = [folder / "a.png", folder / "b.png"]
    manifest = Manifest(folder, outputs)
    finish(folder, source)
    read, names_in = [], manifest_module._names_in
    monkeypatch.setattr(manifest_module, "_names_in", lambda lines: read.append(len(lines)) or names_in(lines))
    manifest.refuse_strangers(outputs)
    assert 0 < sum(read) < 2000
    (folder / "b.png").write_bytes(b"a label")
    with pytest.raises(UsageError, match=r"b\.png: is there already"):
        manifest.refuse_strangers(outputs)


def test_a_manifest_that_was_put_in_place_of_another_is_read_whole(folder, source):
    finish(folder, source)
    manifest = Manifest(folder, [folder / "a.png", folder / "b.png"])
    (folder / "b.png").write_bytes(b"mask")
    (folder / "other").write_text(others(10) + '{"begun": ["b.png"]}\n')
    (folder / "other").replace(folder / MANIFEST_NAME)
    manifest.refuse_strangers([folder / "b.png"])
    assert manifest.finished(job_of(manifest, source)) is None
    (folder / MANIFEST_NAME).write_text("")
    (folder / "c.png").write_bytes(b"a label")
    with pytest.raises(UsageError, match="already"):
        manifest.refuse_strangers([folder / "c.png"])


@pytest.mark.parametrize("torn", ['{"begun": ["x', '{"outputs": {"mask": {"path": "x', '{"outputs": {"mask": {"path":'])
def test_a_name_that_is_torn_hides_none_of_the_next_line(folder, source, torn):
    folder.mkdir()
    (folder / "a.png").write_bytes(b"mask")
    (folder / MANIFEST_NAME).write_text(torn + '\n{"begun": ["a.png"]}\n')
    Manifest(folder).refuse_strangers([folder / "a.png"])
    finish(folder, source)
    line = (folder / MANIFEST_NAME).read_text().splitlines()[-1]
    (folder / MANIFEST_NAME).write_text(torn + "\n" + line)
    assert is_finished(folder, source)


def test_a_line_that_is_only_half_there_is_read_again(folder, source):
    finish(folder, source)
    whole = (folder / MANIFEST_NAME).read_bytes()
    for cut in range(0, len(whole), 7):
        (folder / MANIFEST_NAME).write_bytes(whole[:cut])
        manifest = Manifest(folder, [folder / "a.png"])
        with (folder / MANIFEST_NAME).open("ab") as file:
            file.write(whole[cut:])
        manifest.refuse_strangers([folder / "a.png"])
        assert manifest.finished(job_of(manifest, source)) is not None


NAMES = ["a.png", "é.png", "\U0001f30d.png", 'q"q.png', "back\\slash.png", "new\nline.png", "\udcff.png", "\x7f.png"]
NAMES += ["sub/a.png", '{"begun": ["a.png"]}', '"path": "a.png"', "path", "begun", "outputs"]
TEXTS = st.sampled_from([*NAMES, '\\"path', '\\"begun', '"path": "', '["', "\\"]) | st.text(max_size=3)


@st.composite
def manifest_lines(draw) -> bytes:
    """A line as prn, another program or a kill may leave it."""
    names = draw(st.lists(TEXTS, min_size=1, max_size=3))
    output = st.sampled_from([{}, {"size": 4}, {"path": 3}, 7]) | TEXTS.map(lambda name: {"path": name, "size": 4})
    entry = {
        "inputs": {draw(TEXTS): {"path": draw(TEXTS)}},
        draw(TEXTS): draw(TEXTS),
        "outputs": dict.fromkeys(names, draw(output)) | {"mask": {"path": draw(TEXTS), "size": 4}},
        "figures": draw(st.sampled_from([{}, {"valid": 3}, {"drift": "far"}, None])),
        "seconds": draw(st.integers(0, 9)),
    }
    begun = {"begun": names}
    whole = draw(st.sampled_from([begun, entry, entry, {"begun": names[0]}, entry | begun, names]))
    if draw(st.booleans()) and isinstance(whole, dict):
        whole = dict(reversed(whole.items()))
    text = json.dumps(
        whole, ensure_ascii=draw(st.booleans()), separators=draw(st.sampled_from([None, (",", ":"), (" ,\t", "\t:\r")]))
    )
    line = text.encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 3)) == 0:
        line = line[: draw(st.integers(0, len(line)))]
    return line + draw(st.sampled_from([b"\n", b"\n", b"\n", b"\r\n", b""]))


def read_plainly(content: bytes) -> tuple[set[str], dict[str, dict]]:
    """The names that are known, and the last entry of each that has one: each line parsed and kept."""
    known, entries = set(), {}
    for line in content.split(b"\n"):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if not isinstance(entry, dict):
            continue
        outputs = entry.get("outputs")
        if isinstance(entry.get("begun"), list):
            known.update(entry["begun"])
        elif isinstance(outputs, dict) and entry.get("figures") in ({}, {"valid": 3}):
            paths = [output.get("path") if isinstance(output, dict) else None for output in outputs.values()]
            if all(isinstance(path, str) for path in paths):
                entries.update(dict.fromkeys(paths, entry))
    return known | set(entries), entries


@given(st.lists(manifest_lines(), max_size=8), st.lists(manifest_lines(), max_size=4), st.integers(1, 200))
def test_lines_that_are_passed_over_say_nothing_of_what_is_asked(first, then, block):
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_module, "_BLOCK", block)
        folder = Path(name)
        before, after = b"".join(first), b"".join(then)
        if before and not before.endswith(b"\n"):
            after = b"\n" + after
        (folder / MANIFEST_NAME).write_bytes(before)
        manifest = Manifest(folder, [folder / name for name in NAMES[:-4]])
        with (folder / MANIFEST_NAME).open("ab") as file:
            file.write(after)
        manifest._read_on(manifest._wanted)
        known, entries = read_plainly(before + after)
        for number, name in enumerate(NAMES):
            if number == len(NAMES) - 4:
                manifest._want(NAMES[-4:])  # they were not announced
            assert manifest._knows(folder / name) == (name in known)
            line = manifest._entries.get(name)
            assert (None if line is None else json.loads(line)) == entries.get(name)


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
