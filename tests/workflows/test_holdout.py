from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from prn_cli.errors import InputError, UsageError
from prn_cli.training.augment import TrainingMap, by_image
from prn_cli.workflows.train import TrainOptions
from prn_cli.workflows.training.dataset import Dataset
from prn_cli.workflows.training.holdout import (
    Holdout,
    hold_out,
    make_folds,
    quarters,
)
from prn_cli.workflows.training.own_cut import OwnCuts
from prn_cli.workflows.training.scenes import groups_by_distance, groups_by_pattern, scenes_by_name


@given(
    groups=st.dictionaries(st.integers(0, 60).map(str), st.sampled_from("abcdefg"), min_size=2),
    count=st.integers(2, 6),
    seed=st.integers(0, 9),
)
def test_folds_hold_every_map_out_once_and_never_divide_a_group(groups: dict[str, str], count: int, seed: int) -> None:
    if len(set(groups.values())) < 2:
        with pytest.raises(UsageError, match="one group"):
            make_folds(groups, count, seed=seed)
        return
    folds = make_folds(groups, count, seed=seed)
    assert sorted(name for fold in folds for name in fold.held_out) == sorted(groups)
    assert len(folds) == min(count, len(set(groups.values())))
    for fold in folds:
        inside = {groups[name] for name in fold.held_out}
        outside = {group for name, group in groups.items() if name not in fold.held_out}
        assert not inside & outside
        assert outside
    assert make_folds(groups, count, seed=seed) == folds


def test_folds_of_single_maps_are_of_about_one_size() -> None:
    folds = make_folds({str(i): str(i) for i in range(30)}, 4)
    assert sorted(len(fold.held_out) for fold in folds) == [7, 7, 8, 8]
    assert [fold.name for fold in folds] == ["1 of 4", "2 of 4", "3 of 4", "4 of 4"]


def test_few_scenes_are_left_out_one_by_one() -> None:
    folds = make_folds({"t1_a": "t1", "t1_b": "t1", "t2_a": "t2", "t7_a": "t7"}, 8)
    assert sorted(fold.name for fold in folds) == ["t1", "t2", "t7"]


def test_a_pattern_names_the_groups() -> None:
    names = ["tile1_part001", "tile1_part002", "tile22_part001"]
    assert set(groups_by_pattern(names, r"^(tile\d+)").values()) == {"tile1", "tile22"}
    assert groups_by_pattern(names, r"tile\d+")["tile22_part001"] == "tile22"


@pytest.mark.parametrize(("pattern", "message"), [("(", "not a regular expression"), ("^scene", "does not match 2")])
def test_a_pattern_that_does_not_fit_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        groups_by_pattern(["tile1", "tile2"], pattern)


def test_neighbours_and_their_neighbours_are_one_group() -> None:
    boxes = {f"m{x}": (float(x), 0.0, x + 1.0, 1.0) for x in (0, 4, 1, 2, 9)}
    groups = groups_by_distance(boxes, 0)
    assert groups["m0"] == groups["m1"] == groups["m2"] != groups["m4"]
    assert len(set(groups.values())) == 3
    assert len(set(groups_by_distance(boxes, 1).values())) == 2
    assert len(set(groups_by_distance(boxes, 5).values())) == 1


@given(
    corners=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=2, max_size=12),
    distance=st.floats(0, 4),
)
def test_groups_by_distance_are_the_connected_components(corners: list[tuple[int, int]], distance: float) -> None:
    boxes = {str(i): (float(x), float(y), x + 1.0, y + 1.0) for i, (x, y) in enumerate(corners)}
    groups = groups_by_distance(boxes, distance)

    def near(a: str, b: str) -> bool:
        (aw, as_, ae, an), (bw, bs, be, bn) = boxes[a], boxes[b]
        return max(bw - ae, aw - be, 0) ** 2 + max(bs - an, as_ - bn, 0) ** 2 <= distance**2

    parts = {name: {name} for name in boxes}
    for a in boxes:
        for b in boxes:
            if near(a, b) and parts[a] is not parts[b]:
                both = parts[a] | parts[b]
                for name in both:
                    parts[name] = both
    assert all((groups[a] == groups[b]) == (b in parts[a]) for a in boxes for b in boxes)


def make_map(shape: tuple[int, int], *, image: bool = False) -> TrainingMap:
    random = np.random.default_rng(0)
    label = random.integers(0, 2, shape).astype(np.uint8)
    bands = random.normal(size=(3, *shape)).astype(np.float32) if image else None
    return TrainingMap("map", random.normal(size=shape).astype(np.float32), label, label[::-1], bands)


def test_quarters_cover_a_map_once() -> None:
    whole = make_map((257, 301), image=True)
    parts = quarters(whole)
    assert list(parts) == ["north-west", "north-east", "south-west", "south-east"]
    for name in ("logits", "label", "pseudo", "image"):
        tiles = [getattr(part, name) for part in parts.values()]
        joined = np.concatenate([np.concatenate(tiles[:2], -1), np.concatenate(tiles[2:], -1)], -2)
        np.testing.assert_array_equal(joined, getattr(whole, name))
    assert len({part.name for part in parts.values()} | {whole.name}) == 5


def test_quarters_hold_labels_and_are_not_too_small() -> None:
    whole = make_map((256, 256))
    whole.label[128:, :128] = 255
    assert list(quarters(whole)) == ["north-west", "north-east", "south-east"]
    assert not quarters(make_map((255, 900)))


def dataset(*names: str, side: int = 8, classes: int = 1) -> Dataset:
    """Maps of a set, those of several classes under one name."""
    label = np.zeros((side, side), np.uint8)
    logits = label.astype(np.float32)
    maps = [TrainingMap(name, logits, label, label, plane=plane) for name in names for plane in range(classes)]
    return Dataset(maps, {name: Path(f"/maps/{name}.npy") for name in names}, [str(c) for c in range(classes)])


def held_names(holdout: Holdout) -> list[str]:
    return [m.name for m in holdout.hold]


def test_few_maps_are_each_held_out_once_and_many_in_one_part() -> None:
    few = hold_out(dataset(*"abcdef"), TrainOptions())
    assert [len(fold.held_out) for fold in few.folds] == [2, 2, 2]
    assert (len(few.learn), held_names(few)) == (6, [])
    learn, hold = few.of_fold(few.folds[0])
    assert {m.name for m in hold} == few.folds[0].held_out
    assert len(learn) + len(hold) == 6
    many = hold_out(dataset(*map(str, range(60))), TrainOptions())
    assert (len(many.learn), len(many.hold), many.folds) == (48, 12, ())
    assert many.how == "20 % of the images, drawn with seed 0"
    slow = hold_out(dataset(*"abcdef"), TrainOptions(), cross_validate=False)
    assert (len(slow.learn), len(slow.hold), slow.folds) == (5, 1, ())


def test_classes_of_an_image_are_held_out_together() -> None:
    found = hold_out(dataset(*"abcdef", classes=3), TrainOptions(folds=1))
    assert (len(found.learn), len(found.hold)) == (15, 3)
    assert len(set(held_names(found))) == 1


def test_scenes_are_held_out_one_by_one_or_in_one_part() -> None:
    maps = dataset("a_1", "a_2", "b_1", "b_2", "c_1")
    found = hold_out(maps, TrainOptions(groups="^(.)_"))
    assert {fold.name for fold in found.folds} == {"a", "b", "c"}
    assert found.how == "each of 3 scenes in turn; then all maps are learned from"
    assert found.scenes == {"a_1": "a", "a_2": "a", "b_1": "b", "b_2": "b", "c_1": "c"}
    one = hold_out(maps, TrainOptions(groups="^(.)_", folds=1))
    assert len({name[0] for name in held_names(one)}) == 1 + (one.how.count(",") > 0)
    assert not {m.name[0] for m in one.learn} & {name[0] for name in held_names(one)}


def test_a_slow_method_is_not_trained_for_every_scene_that_nobody_asked_for() -> None:
    maps = dataset(*(f"{scene}_{number}" for scene in "abc" for number in range(4)))
    quick = hold_out(maps, TrainOptions())
    assert {fold.name for fold in quick.folds} == {"a", "b", "c"}
    slow = hold_out(maps, TrainOptions(), cross_validate=False)
    assert (slow.folds, len({name[0] for name in held_names(slow)})) == ((), 1)
    assert not {m.name[0] for m in slow.learn} & {name[0] for name in held_names(slow)}
    asked = hold_out(maps, TrainOptions(groups="^(.)_"), cross_validate=False)
    assert len(asked.folds) == 3


def test_stems_and_given_maps_are_held_out(tmp_path: Path) -> None:
    (tmp_path / "stems.txt").write_text("a\n\nc\n")
    options = TrainOptions(validation_stems=tmp_path / "stems.txt")
    assert held_names(hold_out(dataset(*"abc"), options)) == ["a", "c"]
    with pytest.raises(UsageError, match="1 stems name no map, such as 'c'"):
        hold_out(dataset(*"ab"), options)
    options = TrainOptions(validation_logits=tmp_path)
    found = hold_out(dataset("a"), options, given=dataset("x"))
    assert ([m.name for m in found.learn], held_names(found)) == (["a"], ["x"])
    with pytest.raises(UsageError, match="1 of the held-out maps are among those to learn from, such as a"):
        hold_out(dataset("a"), options, given=dataset("a", "b"))
    with pytest.raises(InputError, match="2 classes, expected 1"):
        hold_out(dataset("a"), options, given=dataset("b", classes=2))


def test_quarters_are_held_out_where_maps_are_few_and_large() -> None:
    found = hold_out(dataset("a", "b", side=256), TrainOptions())
    assert (len(found.parts), len(found.folds)) == (8, 4)
    learn, hold = found.of_fold(found.folds[0])
    assert (len(learn), len(hold)) == (6, 2)
    several = hold_out(dataset("a", "b", side=256, classes=3), TrainOptions())
    assert [[part.plane for part in planes] for planes in by_image(several.parts)] == [[0, 1, 2]] * 8
    assert [len({part.name for part in planes}) for planes in by_image(several.parts)] == [1] * 8
    assert not hold_out(dataset(*"abcd", side=256), TrainOptions()).parts
    assert not hold_out(dataset("a", "b", side=256), TrainOptions(folds=1)).parts
    with pytest.raises(InputError, match="1 labelled map, expected at least 2"):
        hold_out(dataset("a"), TrainOptions())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": "(.)", "group_distance": 5}, "--groups and --group-distance exclude each other"),
        ({"validation_stems": "a", "folds": 3}, "--folds 3 and --validation-stems exclude each other"),
        ({"validation_stems": "a", "shots": 3}, "--shots and --validation-stems exclude each other"),
        ({"groups": "("}, "is not a regular expression"),
        ({"validation_fraction": 1}, "expected 0.01 to 0.9"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainOptions(**options)


@pytest.mark.parametrize(
    ("names", "scenes"),
    [
        ([f"tile{t}_part00{n}" for t in (1, 2, 7) for n in range(3)], {"tile1", "tile2", "tile7"}),
        ([f"austin{n}" for n in range(5)] + [f"chicago{n}" for n in range(5)], {"austin", "chicago"}),
        ([f"city-{c}-scene-{s}-{n}" for c in "ab" for s in "cd" for n in range(3)], {"city-a", "city-b"}),
        (
            [f"{part}_00{drive}_{n}" for part in ("train", "test") for drive in "789" for n in range(2)],
            {"007", "008", "009"},
        ),
        ([f"satImage_{n:03}" for n in range(30)], set()),
        ([f"{n:04}" for n in range(30)], set()),
        (["a_1", "a_2", "b_1", "b_2"], set()),  # two maps a scene: as likely a name of another kind
        ([f"a_{n}" for n in range(9)] + ["b_1"], set()),  # one scene has nearly all
        (["one", "two", "three"], set()),
    ],
)
def test_names_show_scenes(names: list[str], scenes: set[str]) -> None:
    found = scenes_by_name(names)
    assert set(found.values()) == scenes
    assert all(scene in name for name, scene in found.items())


@given(st.lists(st.text("ab1_-. ", max_size=9), max_size=30, unique=True))
def test_scenes_by_name_are_few_and_of_several_maps_each(names: list[str]) -> None:
    found = scenes_by_name(names)
    sizes = [list(found.values()).count(scene) for scene in set(found.values())]
    assert not found or (set(found) == set(names) and 2 <= len(sizes) <= len(names) / 3 and max(sizes) < len(names))


def test_scenes_are_held_out_without_being_asked_for_unless_unwanted() -> None:
    names = [f"tile{t}_{n}" for t in (1, 2, 7) for n in range(3)]
    found = hold_out(dataset(*names), TrainOptions())
    assert {fold.name for fold in found.folds} == {"tile1", "tile2", "tile7"}
    assert found.note == "3 scenes by name: tile1, tile2, tile7; --groups none for maps of their own"
    free = hold_out(dataset(*names), TrainOptions(groups="none"))
    assert (free.scenes, free.note, len(free.folds)) == ({}, "", 3)
    assert "3 parts in turn" in free.how
    assert not hold_out(dataset(*names), TrainOptions(groups="^tile(.)")).note


def test_fewer_folds_than_were_asked_for_are_said() -> None:
    names = [f"tile{t}_{n}" for t in (1, 2) for n in range(3)]
    said = "--folds 3 makes 2: there are only 2 scenes"
    assert hold_out(dataset(*names), TrainOptions(folds=3)).note.endswith(f"; {said}")
    assert hold_out(dataset(*names), TrainOptions(folds=3, groups="^tile(.)")).note == said
    assert said not in hold_out(dataset(*names), TrainOptions(folds=2)).note
    assert hold_out(dataset(*"ab"), TrainOptions(folds=3)).note == "--folds 3 makes 2: there are only 2 maps"
    large = dataset("a", side=256)
    assert hold_out(large, TrainOptions(folds=9)).note == "--folds 9 makes 4: there are only 4 quarters of a map"


def test_a_map_is_measured_once_for_its_own_threshold_and_no_other_stands_in_for_it() -> None:
    random, cuts = np.random.default_rng(0), OwnCuts()

    def drawn(label: int) -> TrainingMap:
        logits = random.normal(size=(16, 16)).astype(np.float32)
        return TrainingMap("map", logits, *np.full((2, 16, 16), label, np.uint8))

    first = drawn(1)
    assert cuts.measured(first) is cuts.measured(first)
    for label in (0, 1) * 50:  # maps that are gone leave their place in memory to others
        background, foreground = cuts.measured(drawn(label)).counts.sum(axis=1)
        assert (foreground > 0) == label == (background == 0)


def placed(folder: Path, corners: list[tuple[float, float]]) -> Dataset:
    """Maps of 8 × 8 px of 1 m whose upper left corners lie there."""
    found = dataset(*(f"{number:02}" for number in range(len(corners))))
    for name, (x, y) in zip(found.paths, corners, strict=True):
        path = folder / f"{name}.tif"
        tags = [(33550, "d", 3, (1.0, 1.0, 0.0), True), (33922, "d", 6, (0.0, 0.0, 0.0, x, y, 0.0), True)]
        tags.append((34735, "H", 8, (1, 1, 0, 1, 3072, 0, 1, 32632), True))
        tifffile.imwrite(path, np.zeros((8, 8), np.float32), extratags=tags)
        found.paths[name] = path
    return found


def test_maps_that_adjoin_are_of_one_scene_and_those_of_one_place_are_blocks(tmp_path: Path) -> None:
    apart = hold_out(placed(tmp_path, [(x + 500 * far, 0) for far in range(3) for x in (0, 8, 16)]), TrainOptions())
    assert set(apart.scenes.values()) == {"00", "03", "06"}
    assert apart.note.startswith("3 scenes by place: 00, 03, 06;")
    mosaic = hold_out(placed(tmp_path, [(8 * (n % 3), 8 * (n // 3)) for n in range(12)]), TrainOptions())
    assert mosaic.note == "3 scenes in one place: block 1, block 2, block 3; --groups none for maps of their own"
    rows = [{name for name, block in mosaic.scenes.items() if block == f"block {k}"} for k in (1, 2, 3)]
    assert [len(row) for row in rows] == [4, 4, 4]
    single = hold_out(placed(tmp_path, [(100 * n, 0) for n in range(6)]), TrainOptions())
    assert not single.scenes
