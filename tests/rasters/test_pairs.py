from __future__ import annotations

import io
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prn_cli.errors import InputError, UsageError
from prn_cli.rasters import find_inputs, find_valid_masks, pair_by_stem
from prn_cli.rasters.pairs import Paths


def touch(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")
    return [folder / name for name in names]


def test_folders_are_listed_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "b.tif", "a.npy", "c.TIFF", "d.png", "e.npz", "x.txt", ".hidden.npy", "~lock.tif", ".a.12.tmp.tif")
    touch(tmp_path / "sub.npy", "deep.npy")
    assert [path.name for path in find_inputs([str(tmp_path)])] == ["a.npy", "b.tif", "c.TIFF", "d.png", "e.npz"]


def test_files_stay_in_order_and_come_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = touch(tmp_path, "a.npy", "b.npy")
    assert list(find_inputs([str(b), str(tmp_path), str(a)])) == [b, a]
    monkeypatch.chdir(tmp_path)
    assert list(find_inputs(["a.npy", "./a.npy", str(a)])) == [Path("a.npy")]


def test_inputs_are_paths_at_any_position(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "in", "a.npy", "b.npy", "c.npy")
    monkeypatch.chdir(tmp_path)
    found = find_inputs(["./in/"])
    assert (len(found), found[0], found[-1]) == (3, Path("in/a.npy"), Path("in/c.npy"))
    assert found[1:] == [Path("in/b.npy"), Path("in/c.npy")]
    assert str(find_inputs(["https://host/a.tif"])[0]) == "https://host/a.tif"


ODD = ["https://host/a.b.tif?x=/c.d", "/vsis3/bucket/a.tif", "s3:/b/a", "..npy", "a.", ".."]


@given(st.text("ab./:?\\~", min_size=1) | st.sampled_from(ODD))
def test_stems_are_those_of_the_paths(name: str) -> None:
    paths = Paths([name, f"in/{name}.npy"])
    assert list(paths.stems()) == [path.stem for path in paths]


def test_links_to_nothing_are_listed_and_links_to_folders_are_not(tmp_path: Path) -> None:
    (target,) = touch(tmp_path / "elsewhere", "a.npy")
    folder = tmp_path / "in"
    folder.mkdir()
    for name, place in (("file", target), ("folder", target.parent), ("nothing", "gone"), ("loop", "loop.npy")):
        (folder / f"{name}.npy").symlink_to(place)
    assert [path.stem for path in find_inputs([str(folder)])] == ["file", "loop", "nothing"]


def test_globs(tmp_path: Path) -> None:
    touch(tmp_path / "one", "a.npy", "b.txt")
    touch(tmp_path / "two", "c.npy", ".d.npy")
    touch(tmp_path, "odd[1].npy")
    assert [path.name for path in find_inputs([str(tmp_path / "*" / "*")])] == ["a.npy", "c.npy"]
    assert [path.name for path in find_inputs([str(tmp_path / "o*e")])] == ["a.npy"]
    assert [path.name for path in find_inputs([str(tmp_path / "**" / "*.npy")])] == ["odd[1].npy", "a.npy", "c.npy"]
    assert [path.name for path in find_inputs([str(tmp_path / "odd[1].npy")])] == ["odd[1].npy"]
    with pytest.raises(InputError, match="no raster file matches"):
        find_inputs([str(tmp_path / "*.jpg")])


def test_stdin(tmp_path: Path) -> None:
    assert list(find_inputs(["-"], stdin=io.StringIO("a b.npy\r\n\nc.tif\n"))) == [Path("a b.npy"), Path("c.tif")]
    assert list(find_inputs(["-"], stdin=io.StringIO("a\nb.npy\0c.tif\0"), null=True)) == [
        Path("a\nb.npy"),
        Path("c.tif"),
    ]
    with pytest.raises(UsageError, match="--null"):
        find_inputs(["-"], stdin=io.StringIO("a.npy\0c.tif\0"))
    with pytest.raises(InputError, match="JSON on stdin"):
        find_inputs(["-"], stdin=io.StringIO('{"input": "a.npy", "mask": "masks/a.npy"}\n'))
    with pytest.raises(UsageError, match="twice"):
        find_inputs(["-", "-"], stdin=io.StringIO(""))
    with pytest.raises(UsageError, match="stdin"):
        find_inputs(["-"])
    with pytest.raises(InputError, match="no input files"):
        find_inputs(["-"], stdin=io.StringIO("\n"))


def test_missing(tmp_path: Path) -> None:
    # A missing file fails on its own, later; a missing folder is a slip of the pen.
    assert list(find_inputs([str(tmp_path / "missing.npy")])) == [tmp_path / "missing.npy"]
    with pytest.raises(InputError, match="no such file or folder"):
        find_inputs([str(tmp_path / "missing")])
    with pytest.raises(InputError, match="holds no raster files"):
        find_inputs([str(tmp_path)])
    with pytest.raises(InputError, match="no input files"):
        find_inputs([])


def test_pairs(tmp_path: Path) -> None:
    inputs = touch(tmp_path / "logits", "tile.1.npy", "tile.2.tif", "alone.npy")
    labels = touch(tmp_path / "labels", "tile.1.png", "tile.2.tif", "other.png", "other.tif", "note.txt")
    pairs = pair_by_stem(inputs, tmp_path / "labels")
    assert pairs.matched == ((inputs[0], labels[0]), (inputs[1], labels[1]))
    assert pairs.unmatched_inputs == (inputs[2],)
    assert list(pairs.unmatched_partners) == [labels[2], labels[3]]


def test_duplicates_are_refused_by_name(tmp_path: Path) -> None:
    inputs = touch(tmp_path / "logits", "a.npy", "a.tif")
    touch(tmp_path / "labels", "a.png", "a.tif")
    with pytest.raises(InputError, match=r"a\.tif: has the stem of .*a\.npy"):
        pair_by_stem(inputs, tmp_path / "labels")
    with pytest.raises(InputError, match=r"labels/a\.tif: has the stem of .*labels/a\.png"):
        pair_by_stem(inputs[:1], tmp_path / "labels")


def test_nothing_pairs(tmp_path: Path) -> None:
    inputs = touch(tmp_path / "logits", *[f"tile_{i}.npy" for i in range(5)])
    touch(tmp_path / "labels", "tile_0_truth.png")
    message = r"inputs 'tile_0', 'tile_1', 'tile_2', … \(5\); folder 'tile_0_truth'"
    with pytest.raises(InputError, match=message):
        pair_by_stem(inputs, tmp_path / "labels")
    touch(tmp_path / "empty")
    with pytest.raises(InputError, match="folder holds no raster files"):
        pair_by_stem(inputs, tmp_path / "empty")
    with pytest.raises(InputError, match="no such folder"):
        pair_by_stem(inputs, tmp_path / "missing")
    with pytest.raises(InputError, match="is a file, expected a folder"):
        pair_by_stem(inputs, inputs[0])
    with pytest.raises(InputError, match="pairs with itself"):
        pair_by_stem(inputs, tmp_path / "logits")


def test_a_part_pairs_alone(tmp_path: Path) -> None:
    inputs = touch(tmp_path / "logits", "a.npy", "b.npy", "c.npy", "a.tif")
    labels = touch(tmp_path / "labels", "a.png", "b.png", "b.tif")
    assert pair_by_stem(inputs, tmp_path / "labels", part=[0]).matched == ((inputs[0], labels[0]),)
    with pytest.raises(InputError, match=r"labels/b\.tif: has the stem of .*labels/b\.png"):
        pair_by_stem(inputs, tmp_path / "labels", part=[0, 1])
    with pytest.raises(InputError, match=r"a\.tif: has the stem of .*a\.npy"):
        pair_by_stem(inputs, tmp_path / "labels", part=[0, 3])
    # That nothing pairs is said of the whole set, and not where a part happens to have no partner.
    for part in ([], [2]):
        pairs = pair_by_stem(inputs, tmp_path / "labels", part=part)
        assert (pairs.matched, pairs.unmatched_inputs) == ((), tuple(inputs[2:3] if part else ()))
        touch(tmp_path / "others", "d.png")
        with pytest.raises(InputError, match=r"inputs 'a', 'b', 'c', … \(4\); folder 'd'"):
            pair_by_stem(inputs, tmp_path / "others", part=part)
    with pytest.raises(InputError, match="is a file, expected a folder"):
        pair_by_stem(inputs, labels[0], part=[0])
    assert pair_by_stem(inputs[:1], labels[0], part=[]).matched == ()


def test_one_input_and_its_partner(tmp_path: Path) -> None:
    logits, label = touch(tmp_path, "logits.npy", "label.png")
    assert pair_by_stem([logits], label).matched == ((logits, label),)


def test_valid_masks(tmp_path):
    maps, masks = tmp_path / "maps", tmp_path / "masks"
    for folder, names in ((maps, ("a.npy", "b.tif")), (masks, ("a.png",))):
        folder.mkdir()
        for name in names:
            (folder / name).touch()
    paths = [maps / "a.npy", maps / "b.tif"]
    found = find_valid_masks(paths, masks)
    assert found.of(paths[0]) == masks / "a.png"
    assert found.role(paths[0]) == {"valid_mask": masks / "a.png"}
    assert found.role(paths[1]) == {}
    with pytest.raises(InputError, match="no validity mask with this stem") as caught:
        found.of(paths[1])
    assert caught.value.path == str(paths[1])
    nothing = find_valid_masks(paths, None)
    assert nothing.of(paths[1]) is None
    assert nothing.role(paths[1]) == {}


NAMES = ["Köln", "São_Paulo", "Ångström", "plain"]


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_composed_and_decomposed_names_are_the_same(tmp_path: Path, forms: tuple[str, str]) -> None:
    inputs = touch(tmp_path / "in", *(f"{unicodedata.normalize(forms[0], name)}.npy" for name in NAMES))
    partners = touch(tmp_path / "to", *(f"{unicodedata.normalize(forms[1], name)}.png" for name in NAMES))
    pairs = pair_by_stem(inputs, tmp_path / "to")
    assert pairs.matched == tuple(zip(inputs, partners, strict=True))
    assert not [*pairs.unmatched_inputs, *pairs.unmatched_partners]


def test_case_may_differ_where_one_partner_is_left(tmp_path: Path) -> None:
    inputs = touch(tmp_path / "in", "Tile_1.npy", "tile_2.npy", "B.npy")
    one, two, *rest = touch(tmp_path / "to", "tile_1.png", "tile_2.png", "TILE_2.png", "b.png")
    pairs = pair_by_stem(inputs, tmp_path / "to")
    assert pairs.matched == ((inputs[0], one), (inputs[1], two), (inputs[2], rest[1]))
    assert [path.name for path in pairs.unmatched_partners] == ["TILE_2.png"]
    # Another part of the inputs owns a partner whose stem is its own.
    inputs = touch(tmp_path / "in", "Tile_1.npy", "tile_1.npy")
    assert pair_by_stem(inputs, tmp_path / "to", part=[0]).matched == ()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_byte_order_mark_and_windows_lines_on_stdin_are_taken(tmp_path: Path, end: str) -> None:
    files = touch(tmp_path, "a.npy", "b.npy")
    text = "\ufeff" + end.join(map(str, files)) + end
    assert list(find_inputs(["-"], stdin=io.StringIO(text, newline=""))) == files
