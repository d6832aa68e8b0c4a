"""`prn pseudolabel --weak`: from activation maps and tags to masks, confidence and scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import prn_cli as prn
from prn_cli.rasters import Reading, open_map, read_label
from prn_cli.thresholding.weak import (
    account_for,
    choose_background,
    class_scores,
    decide_labels,
    evidence,
    mean_evidence,
)
from prn_cli.workflows import weak_maps

Prn = Callable[..., tuple[int, str, str]]
CLASSES = ("--task", "multiclass", "--classes", "none,maize,soy")


# The arithmetic.


@given(st.integers(0, 1000), st.floats(0.05, 0.9), st.floats(1, 3))
def test_masks_are_those_of_the_formulas(seed: int, background: float, ratio: float) -> None:
    random = np.random.default_rng(seed)
    maps = random.normal(size=(3, 4, 5)).astype(np.float32)
    maps[:, 0, 0] = np.nan
    possible, peaks = random.random(3) < 0.7, maps[:, 1:].max(axis=(1, 2)).astype(np.float64)
    scores = class_scores(evidence(maps, peaks), background, possible=possible)
    made = decide_labels(scores, ratio)
    assert made.labels[0, 0] == 255
    assert np.isnan(made.confidence[0, 0])
    for y, x in np.argwhere(~np.isnan(maps[0])):
        each = np.array([background, *(np.clip(maps[:, y, x] / peaks, 1e-4, 1) * possible)])
        parts = each**3 / (each**3).sum()
        np.testing.assert_allclose(scores[:, y, x], parts, rtol=1e-4, atol=1e-6)
        first, second = np.sort(each)[:-3:-1]
        if first - second > 1e-5:
            assert made.classes[y, x] == parts.argmax()
        assert made.confidence[y, x] == pytest.approx(parts.max(), rel=1e-4)
        if abs(first / max(second, 1e-9) - ratio) > 1e-3:
            assert (made.labels[y, x] != 255) == (first >= ratio * second)


@given(st.integers(0, 1000))
def test_the_background_is_lower_where_tags_account_for_more(seed: int) -> None:
    random = np.random.default_rng(seed)
    means, tagged = random.random((9, 3)), random.random((9, 3)) < 0.5
    part = 0.0
    for of_class, there in zip(means.T, tagged.T, strict=True):
        if there.any():
            part += there.sum() / 9 * (of_class[there].mean() - (of_class[~there].mean() if not there.all() else 0))
    assert account_for(means, tagged) == pytest.approx(min(max(part, 0), 1))
    assert choose_background(means, tagged) == pytest.approx(0.44 - 0.32 * min(max(part, 0), 1))


@pytest.mark.parametrize(("covered", "score"), [(0.0, 0.44), (0.4, 0.312), (1.0, 0.12)])
def test_what_tags_account_for_is_what_classes_cover(covered: float, score: float) -> None:
    """Two classes in turn, with evidence of 1 where they are, on top of noise that is everywhere."""
    tagged = np.array([[True, False], [False, True]] * 3)
    assert choose_background(0.1 * (1 - covered) + covered * tagged, tagged) == pytest.approx(score, abs=1e-9)


def test_what_is_missing_has_no_evidence_of_anything() -> None:
    found = np.random.default_rng(0).random((2, 8, 10)).astype(np.float32)
    holed = found.copy()
    holed[:, :, 6:] = np.nan
    np.testing.assert_allclose(mean_evidence(holed), found[:, :, :6].mean(axis=(1, 2)), rtol=1e-6)
    holed[1] = np.nan
    assert mean_evidence(holed)[1] == 0


# The command.


def activation(height: int, width: int, seed: int) -> np.ndarray:
    """Two classes, a half of the map each, in coarse cells."""
    random = np.random.default_rng(seed)
    maps = np.zeros((2, height, width), np.float32)
    maps[0, :, : width // 2], maps[1, :, width // 2 :] = 4, 2
    return maps - 0.5 + 0.2 * random.standard_normal(maps.shape).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`maps/` of 8×12 cells, `images/` and `truth/` of 64×96 px; the left half is maize, the right soy."""
    monkeypatch.chdir(tmp_path)
    for name in ("maps", "images", "truth"):
        Path(name).mkdir()
    truth = np.repeat([[1, 2]], 48, axis=1).repeat(64, axis=0).astype(np.uint8)
    for seed, name in enumerate("abc"):
        np.save(f"maps/{name}.npy", activation(8, 12, seed))
        Image.fromarray(np.stack([90 * truth, 50 + 20 * truth, truth], axis=-1)).save(f"images/{name}.png")
        Image.fromarray(truth).save(f"truth/{name}.png")
    Path("tags.csv").write_text("stem,classes\na,maize;soy\nb,soy\nc.png,maize,soy\n")
    return tmp_path


@pytest.fixture
def run(folder: Path, prn: Prn) -> Prn:
    return partial(prn, "pseudolabel")


def label(name: str, out: str = "pseudolabels") -> np.ndarray:
    return read_label(f"{out}/labels/{name}.png", Reading(), "class label")


def test_tags_images_and_true_masks(run: Prn) -> None:
    code, text, error = run(
        "--weak", "maps", "--tags", "tags.csv", "--images", "images", "-l", "truth", *CLASSES, "--json"
    )
    assert code == 0, error
    found = json.loads(text)
    assert found["classes"] == ["none", "maize", "soy"]
    assert (found["maps"], found["true_masks"], found["decided"]) == (3, 3, 1)
    assert found["miou"]["after"] == found["miou"]["decided"] > 0.5
    assert label("a").shape == (64, 96)
    assert set(np.unique(label("b"))) == {0, 2}  # maize is impossible
    np.testing.assert_array_equal(label("a"), read_label("truth/a.png", Reading(), "class label"))
    confidence = np.load("pseudolabels/confidence/a.npy")
    assert 0.4 < confidence.min() <= confidence.max() < 1
    with open_map("class scores", "pseudolabels/scores/b.npy", Reading(kind="probabilities")) as scores:
        values = scores.probabilities()
    assert values.shape == (3, 64, 96)
    np.testing.assert_allclose(values.sum(axis=0), 1, atol=2e-3)
    assert (values.argmax(axis=0) == 1).mean() > 0.4  # scores know no tags


def test_masks_without_anything_else_have_the_size_of_their_maps(run: Prn) -> None:
    assert run("--weak", "maps", *CLASSES, "--background", "0.1", "--normalise", "peak")[0] == 0
    maps = np.maximum(np.load("maps/a.npy"), 0)
    expected = np.concatenate((np.full((1, 8, 12), 0.1), maps / maps.max(axis=(1, 2), keepdims=True))).argmax(axis=0)
    np.testing.assert_array_equal(label("a"), expected)


def test_one_class_is_a_binary_mask_that_prn_reads(run: Prn, folder: Path) -> None:
    Path("flood").mkdir()
    for name in "abc":
        np.save(f"flood/{name}.npy", np.load(f"maps/{name}.npy")[0])
    Path("tags.csv").write_text("a,has flood\nb,\nc,1\n")
    result = prn.pseudolabel(weak="flood", tags="tags.csv", undecided=2, out="masks", background=0.3, normalise="set")
    assert result.classes == ("background", "foreground")
    found = {name: read_label(f"masks/labels/{name}.png") for name in "abc"}
    assert set(np.unique(found["b"])) == {0}
    assert {0, 1} <= set(np.unique(found["a"])) <= {0, 1, 255}
    with open_map("scores", "masks/scores/a.npy") as scores:
        assert scores.kind == "probabilities"
        assert scores.probabilities().shape == (8, 12)


def test_a_folder_a_class_is_as_one_file_of_all(run: Prn) -> None:
    for number, name in enumerate(("maize", "soy")):
        Path("parts", name).mkdir(parents=True)
        for stem in "abc":
            if (name, stem) != ("maize", "b"):  # impossible there, so not needed
                np.save(f"parts/{name}/{stem}.npy", np.load(f"maps/{stem}.npy")[number])
    assert run("--weak", "maps", "--tags", "tags.csv", *CLASSES, "-o", "one")[0] == 0
    assert run("--weak", "parts", "--tags", "tags.csv", "--task", "multiclass", "-o", "two")[0] == 0
    for stem in "abc":
        np.testing.assert_array_equal(label(stem, "one"), label(stem, "two"))
    code, _, error = run("--weak", "parts", "--task", "multiclass", "-o", "three")
    assert code == 1
    assert "b.npy: has no activation map in parts/maize" in error
    assert "1 of 3 failed; the rest is done" in error


def test_scales_are_averaged(run: Prn) -> None:
    Path("second").mkdir()
    for name in "abc":
        np.save(f"second/{name}.npy", -np.load(f"maps/{name}.npy")[::-1])  # other signs, other places
    assert (
        run("--weak", "maps", "--weak", "second", *CLASSES, "--normalise", "none", "-o", "both", "--background", "0.3")[
            0
        ]
        == 0
    )
    found = np.load("both/scores/a.npy").astype(np.float64)
    maps = np.maximum(np.load("maps/a.npy"), 0)
    other = np.maximum(-np.load("maps/a.npy")[::-1], 0)
    mean = np.clip((maps + other) / 2, 1e-4, 1)
    expected = np.concatenate((np.full((1, 8, 12), 0.3), mean)) ** 3
    np.testing.assert_allclose(found, expected / expected.sum(axis=0), atol=2e-3)


def test_strips_give_what_the_whole_map_gives(run: Prn, monkeypatch: pytest.MonkeyPatch) -> None:
    line = ("--weak", "maps", "--images", "images", *CLASSES)
    assert run(*line, "-o", "whole")[0] == 0
    monkeypatch.setattr(weak_maps, "_STRIP_PIXELS", 96 * 12)
    assert run(*line, "-o", "strips")[0] == 0
    for stem in "abc":
        np.testing.assert_array_equal(label(stem, "whole"), label(stem, "strips"))
        np.testing.assert_allclose(*(np.load(f"{out}/confidence/{stem}.npy") for out in ("whole", "strips")), atol=1e-5)


def test_what_stands_out_and_what_does_not(run: Prn) -> None:
    Path("saliency").mkdir()
    saliency = np.zeros((64, 96), np.uint8)
    saliency[:32] = 255
    weak = activation(8, 12, 0)
    weak[:, :, 8:] = -1
    for name in "abc":
        Image.fromarray(saliency).save(f"saliency/{name}.png")
        np.save(f"maps/{name}.npy", weak)
    assert run("--weak", "maps", "--saliency", "saliency", *CLASSES, "--background", "0.3")[0] == 0
    found = label("a")
    assert (found[36:] == 0).all()
    assert (found[:28, :40] == 1).all()
    assert (found[:28, 72:] == 255).all()  # it stands out, and no class claims it


def test_bad_input_costs_a_line_each_and_the_rest_is_done(run: Prn) -> None:
    Path("tags.csv").write_text("a,maize;wheat\nb,soy\nd,soy\ne,soy\n")
    np.save("maps/b.npy", np.zeros((3, 8, 12), np.float32))
    code, _, error = run("--weak", "maps", "--tags", "tags.csv", *CLASSES)
    lines = [line for line in error.splitlines() if line.strip()]
    for expected in (
        "1 maps have no tags in tags.csv, left out: c.npy",
        "2 images of tags.csv have no activation map: d, e",
        "tags.csv: no map has the class 'wheat', a tag of 1 images",
        "maps/b.npy: 3 bands, expected 2",
    ):
        assert sum(expected in line for line in lines) == 1, (expected, lines)
    assert code == 1
    assert [path.stem for path in Path("pseudolabels/labels").iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("maps", "--weak", "maps"), "LOGITS and --weak exclude each other"),
        (("--tags", "tags.csv"), "--tags is for --weak"),
        (("--weak", "maps", "--patch", "32"), "--patch with --weak"),
        (("--weak", "maps", "--figures-only"), "--figures-only with --weak"),
        (("--weak", "maps", "-r"), "--recursive with --weak"),
        (("--weak", "maps"), "activation maps of 2 classes; add --task multiclass"),
        (("--weak", "nowhere"), "no such folder"),
        (("--weak", "maps", "--saliency", "images", "--background", "none"), "--saliency with --background none"),
        (("--weak", "maps", "--tags", "images"), "cannot be read"),
        (("--weak", "maps", *CLASSES, "--background", "high"), "--background"),
        (("--weak", "maps", "-o", ".", "-l", "labels", *CLASSES), "choose another -o"),
    ],
)
def test_what_is_refused(run: Prn, arguments: tuple[str, ...], message: str) -> None:
    Path("labels").mkdir()
    code, _, error = run(*arguments)
    assert code in (1, 2)
    assert message in error


def test_tags_that_name_no_map_are_refused(run: Prn) -> None:
    Path("tags.csv").write_text("x,maize\n")
    code, _, error = run("--weak", "maps", "--tags", "tags.csv", *CLASSES)
    assert code == 1
    assert "names none of the activation maps" in error
    Path("tags.csv").write_text("stem,classes\n")
    assert "no tags in it" in run("--weak", "maps", "--tags", "tags.csv", *CLASSES)[2]


def test_masks_that_are_current_are_kept(run: Prn) -> None:
    line = ("--weak", "maps", "--tags", "tags.csv", "-l", "truth", "--normalise", "none", *CLASSES)
    line += ("--images", "images", "--background", "0.3")
    first = json.loads(run(*line, "--json")[1])
    _, text, error = run(*line, "--json")
    assert "0 written, 3 kept" in error
    assert json.loads(text) == first
    Path("tags.csv").write_text("a,maize\nb,soy\nc,maize;soy\n")
    plan = run(*line, "--dry-run")[1]
    assert "1 to label, 2 to keep" in plan + run(*line, "--dry-run")[2]
    assert "1 written, 2 kept" in run(*line)[2]


def test_invalid_cells_stay_invalid(run: Prn) -> None:
    maps = np.load("maps/a.npy")
    maps[0, :4, :4] = np.nan
    np.save("maps/a.npy", maps)
    np.save("maps/b.npy", np.full_like(maps, np.nan))
    code, _, error = run("--weak", "maps", *CLASSES)
    assert code == 1
    assert "maps/b.npy: no valid pixel" in error
    np.testing.assert_array_equal(label("a") == 255, np.isnan(maps[0]))


def test_georeferenced_images_give_georeferenced_masks(run: Prn) -> None:
    rasterio = pytest.importorskip("rasterio")
    from rasterio.transform import from_origin

    Path("tiffs").mkdir()
    shape = {"driver": "GTiff", "height": 64, "width": 96, "count": 3, "dtype": "uint8"}
    for name in "abc":
        pixels = np.asarray(Image.open(f"images/{name}.png")).transpose(2, 0, 1)
        with rasterio.open(
            f"tiffs/{name}.tif", "w", **shape, crs="EPSG:32633", transform=from_origin(4e5, 5e6, 10, 10)
        ) as raster:
            raster.write(pixels)
    assert run("--weak", "maps", "--images", "tiffs", *CLASSES)[0] == 0
    with rasterio.open("pseudolabels/labels/a.tif") as made:
        assert made.crs.to_epsg() == 32633
        assert made.transform == from_origin(4e5, 5e6, 10, 10)
        assert made.nodata == 255


def test_labels_and_saliency_lie_where_their_georeference_says(run: Prn) -> None:
    """Upside down in the file, they are turned; elsewhere, they are refused, of one size as they are."""
    rasterio = pytest.importorskip("rasterio")
    from rasterio.transform import Affine

    truth = np.asarray(Image.open("truth/a.png")).copy()
    truth[:16] = 0
    upright, south_up = Affine(10, 0, 4e5, 0, -10, 5e6), Affine(10, 0, 4e5, 0, 10, 5e6 - 640)
    places = {"image": upright, "there": upright, "turned": south_up, "elsewhere": Affine.translation(2e3, 0) @ upright}
    for folder, place in places.items():
        pixels = np.asarray(Image.open("images/a.png")).transpose(2, 0, 1) if folder == "image" else truth[np.newaxis]
        pixels = pixels[:, ::-1] if folder == "turned" else pixels
        for name, values in ((folder, pixels), (f"saliency-{folder}", np.where(pixels[:1] > 0, np.uint8(255), 0))):
            Path(name).mkdir()
            shape = {"height": 64, "width": 96, "count": len(values), "dtype": "uint8", "crs": "EPSG:32633"}
            with rasterio.open(f"{name}/a.tif", "w", driver="GTiff", transform=place, **shape) as raster:
                raster.write(values)
    Path("tags.csv").write_text("a,maize;soy\n")
    line = ("--weak", "maps", "--tags", "tags.csv", "--images", "image", *CLASSES, "--label-nodata", "nan", "--json")

    def found(folder: str) -> tuple[int, str, str]:
        return run(*line, "-l", folder, "--saliency", f"saliency-{folder}", "-o", f"of-{folder}")

    code, expected, error = found("there")
    assert code == 0, error
    assert json.loads(found("turned")[1])["miou"] == json.loads(expected)["miou"]
    made = [np.load(f"of-{folder}/scores/a.npy") for folder in ("there", "turned")]
    np.testing.assert_array_equal(*made)
    for more in (("-l", "elsewhere"), ("--saliency", "saliency-elsewhere")):
        code, _, error = run(*line, *more, "-o", "refused")
        assert code == 1
        assert "a.tif: " in error
        assert "elsewhere" in error


def test_the_background_is_chosen_by_tags_if_there_are_some(run: Prn) -> None:
    def score(*more: str) -> tuple[float, str]:
        code, text, error = run("--weak", "maps", *CLASSES, "--json", *more)
        assert code == 0, error
        return json.loads(text)["background"], error

    chosen, said = score("--tags", "tags.csv", "-o", "by-tags")
    peaks = np.array([np.load(f"maps/{name}.npy").max(axis=(1, 2)) for name in "abc"])
    tagged = np.array([[1, 1], [0, 1], [1, 1]], bool)
    usual = [np.quantile(of_class[there], 0.75) for of_class, there in zip(peaks.T, tagged.T, strict=True)]
    found = [evidence(np.maximum(np.load(f"maps/{name}.npy"), 0), np.array(usual)).mean(axis=(1, 2)) for name in "abc"]
    assert chosen == pytest.approx(choose_background(np.array(found), tagged), abs=1e-6)
    assert f"background score {chosen:.2f}, by the tags" in said
    assert score("-o", "without")[0] == 0.3
    assert score("--scale-of", "by-tags", "-o", "later")[0] == chosen

    for name in "abc":  # half of what is twice as wide is missing: it counts for nothing
        maps = np.load(f"maps/{name}.npy").astype(np.float32)
        np.save(f"maps/{name}.npy", np.concatenate([maps, np.full_like(maps, np.nan)], axis=2))
    holed, said = score("--tags", "tags.csv", "-o", "holed")
    assert holed == pytest.approx(chosen, abs=1e-6)


def test_a_peak_counts_where_tags_say_that_its_class_is_there(run: Prn) -> None:
    def labels(*more: str) -> list[bytes]:
        assert run("--weak", "maps", *CLASSES, "--overwrite", "--background", "0.4", "-o", "out", *more)[0] == 0
        return [label(name, "out").tobytes() for name in "ab"]

    faint = np.load("maps/b.npy")
    np.save("maps/b.npy", np.concatenate((faint[:1] / 4, faint[1:])))  # without tags, it is no maize
    assert labels() == labels("--normalise", "set")
    assert labels() != labels("--normalise", "peak")
    Path("tags.csv").write_text("a,maize;soy\nb,maize;soy\nc,maize;soy\n")
    assert labels("--tags", "tags.csv") != labels("--tags", "tags.csv", "--normalise", "set")


def test_scores_of_new_images_mean_what_those_of_the_first_did(run: Prn) -> None:
    line = ("--weak", "maps", *CLASSES)
    assert run(*line, "-o", "first")[0] == 0
    Path("new").mkdir()
    for name in "ab":
        np.save(f"new/{name}.npy", np.load(f"maps/{name}.npy") / (1 if name == "a" else 10))
    assert run("--weak", "new", *CLASSES, "--scale-of", "first", "-o", "second")[0] == 0
    first, same, faint = (np.load(f"{name}.npy") for name in ("first/scores/a", "second/scores/a", "second/scores/b"))
    np.testing.assert_array_equal(first, same)
    assert (faint.argmax(axis=0) == 0).mean() > 0.5
    assert run("--weak", "maps", "--task", "multiclass", "--background", "none", "-o", "all")[0] == 0
    assert run("--weak", "new", "--task", "multiclass", "--scale-of", "all", "-o", "fourth")[0] == 0
    assert np.load("fourth/scores/a.npy").shape == (2, 8, 12)
    for more, message in (
        (("--scale-of", "maps"), "not of a run with --weak"),
        (("--scale-of", "first", "--background", "0.2"), "leave them out"),
    ):
        code, _, error = run("--weak", "new", *CLASSES, *more)
        assert code in (1, 2)
        assert message in error
