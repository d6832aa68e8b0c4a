from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prn_cli.errors import UsageError
from prn_cli.training.augment import TrainingMap
from prn_cli.training.validation import groups_by_distance, groups_by_pattern, make_folds, quarters


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
