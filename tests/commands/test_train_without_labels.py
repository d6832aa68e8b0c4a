"""`prn train --labels none`: the base model's own masks are learned from the images, and both together err less."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import prn_cli as prn
from prn_cli.methods import load_refiner, recipe_of, refiner_of
from prn_cli.methods.image.options import ImageOptions
from prn_cli.methods.recipe import build
from prn_cli.methods.torch_runner import TorchRunner
from prn_cli.methods.weights import find_weights
from prn_cli.refinement.rows import refine_map
from prn_cli.tasks import find_task
from prn_cli.training.augment import TrainingMap
from prn_cli.workflows.training import own_masks
from prn_cli.workflows.training.dataset import Dataset

Command = Callable[..., tuple[int, str, str]]
SMALL = ("--crop", 64, "--batch", 2, "--epochs", 1, "--steps", 4, "--threads", 1)


def scene(seed: int, height: int = 96, width: int = 128) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, an image that shows it, and scores that are wrong in some patches."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    shape = np.sin(y / random.uniform(5, 15)) + np.sin(x / random.uniform(5, 15))
    image = 90 + 60 * (shape > 0) + random.normal(0, 5, (3, height, width))
    patches = np.kron(random.choice([-1.5, 0, 0, 1.5], (height // 32, width // 32)), np.ones((32, 32)))
    return shape > 0, image.clip(0, 255).astype(np.uint8), (2 * shape + patches).astype(np.float32)


def written(made: Path, make: Callable[[int], tuple[np.ndarray, np.ndarray, np.ndarray]], foreground: int) -> Path:
    """Six maps with images and true masks, whose first rows have no scores."""
    for name in ("logits", "images", "truth"):
        (made / name).mkdir()
    for number in range(6):
        truth, image, logits = make(number)
        logits[..., :4, :] = np.nan
        np.save(made / "logits" / f"m{number}.npy", logits)
        Image.fromarray(image.transpose(1, 2, 0)).save(made / "images" / f"m{number}.png")
        Image.fromarray((truth * foreground).astype(np.uint8)).save(made / "truth" / f"m{number}.png")
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("set"), scene, 255)


def train(prn: Command, folder: Path, out: Path, *more: object) -> tuple[int, str, str]:
    line = ("train", folder / "logits", "--labels", "none", "--images", folder / "images", "-o", out)
    return prn(*line, *SMALL, *more)


def test_it_needs_no_label_and_says_what_it_found(prn: Command, folder: Path, tmp_path: Path) -> None:
    code, out, err = train(prn, folder, tmp_path / "run")
    assert code == 0, err
    assert "6 maps to learn from, without labels" in err
    assert "no such folder" not in err
    assert "The images alone give back the base model's masks with an IoU of" in out
    card = json.loads((tmp_path / "run" / "model.json").read_text())
    assert card["hide_scores"] == "1"
    assert card["data"]["learned_from"] == [f"m{number}" for number in range(6)]
    assert card["data"]["held_out"] == []
    assert card["data"]["not_counted"] == {"nan": 6 * 4 * 128}
    assert 0 <= card["transfer"]["agreement"] <= 1
    assert "held_out_figures" not in card


def test_the_threshold_is_that_of_the_set_that_is_refined(prn: Command, folder: Path, tmp_path: Path) -> None:
    assert train(prn, folder, tmp_path / "run")[0] == 0
    options = ("--images", folder / "images", "--weights", tmp_path / "run", "--strength", "1")
    code, _, err = prn("refine", folder / "logits", "-o", tmp_path / "out", *options)
    assert code == 0, err
    code, _, without = prn("refine", folder / "logits", "-o", tmp_path / "first")
    assert code == 0
    (chosen,) = [line for line in without.splitlines() if "prn: cut at" in line]
    assert chosen in err
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == [f"m{number}.png" for number in range(6)]


def test_scores_are_hidden_from_the_network() -> None:
    _, image, logits = scene(0)
    made = build("image", bands=3, seed=0)
    torch.nn.init.constant_(made.decoder.head.bias, 1.0)
    made.hide_scores = True
    seen: list[np.ndarray] = []
    runner = TorchRunner(made)
    run = runner.run
    runner.run = lambda outputs, inputs: (seen.append(inputs["logits"]), run(outputs, inputs))[1]  # type: ignore[method-assign]
    logits[:10] = np.nan
    image = image.astype(np.float32)
    image[1, :, :30] = np.nan
    whole = refine_map(logits, refiner_of(runner), image=image)
    runner.metadata = runner.metadata | {"prn.level": "0.25"}
    refined = refine_map(logits, refiner_of(runner), image=image)
    given, again = seen
    np.testing.assert_array_equal(given, again)
    assert np.isnan(given[0, 0, :10]).all()
    assert (np.nan_to_num(given) == 0).all()
    np.testing.assert_allclose(refined[:, 30:], whole[:, 30:] - 0.25, atol=1e-5)
    assert (np.abs(whole - logits)[10:, 30:] > 5).all()
    np.testing.assert_array_equal(refined[:, :30], logits[:, :30])  # where no image is, it says nothing


def test_masks_keep_their_area(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    scores = random.normal(-1, 2, 40_000).astype(np.float32)
    found = (3 * scores + random.normal(2, 4, scores.size)).astype(np.float32)
    threshold = 0.4
    cut = np.log(threshold / (1 - threshold))
    monkeypatch.setattr(own_masks, "_compared", lambda *_: (scores[np.newaxis].copy(), found[np.newaxis], scores > cut))
    said = own_masks.conclude(None, [], threshold)
    assert said.strength == own_masks.STRENGTH
    before, after = scores > cut, scores + said.strength * (found - said.levels[0]) > cut
    assert abs(int(before.sum()) - int(after.sum())) <= 1
    assert said.changed == pytest.approx((before != after).mean(), abs=1e-4)
    assert own_masks.conclude(None, [], threshold, undertrained=True).strength == own_masks.STRENGTH / 2


def test_a_network_that_does_not_find_the_masks_is_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    planes = random.normal(-1, 2, (2, 1, 40_000)).astype(np.float32)
    monkeypatch.setattr(own_masks, "_compared", lambda *_: (*planes, planes[0, 0] > 0))
    said = own_masks.conclude(None, [], 0.5)
    assert said.strength == 0
    assert said.levels != (0,)  # for those who add it on request
    assert "too little: nothing is added to the scores; train longer" in said.verdict


def test_own_masks_are_cut_where_the_set_would_be(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    maps = []
    for number in range(8):
        logits = (2 * np.sin(y / 7 + number) + 2 * np.sin(x / 9) - 2.5 + random.normal(0, 0.2, (64, 64))).astype("f4")
        logits[0] = np.nan
        blank = np.where(np.isnan(logits), 255, 0).astype(np.uint8)
        maps.append(TrainingMap(f"m{number}", logits, blank, blank))
    threshold = own_masks.choose_cut(Dataset(maps, {}))
    found = own_masks.label(Dataset(maps, {}), find_task("binary"), threshold, tmp_path)
    cut = np.log(threshold / (1 - threshold))
    for m in found.maps:
        assert m.pseudo is m.label
        np.testing.assert_array_equal(m.label[0], 255)
        np.testing.assert_array_equal(m.label[1:] == 1, m.logits[1:] > np.float32(cut))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--folds", 2), "--labels none and --folds exclude each other"),
        (("--shots", 2), "--labels none and --shots exclude each other"),
        (("--groups", "^(m)"), "--labels none and --groups exclude each other"),
        (("--contrast", "fbr"), "--labels none and --contrast exclude each other"),
        (("--task", "saliency"), "--labels none with --task saliency, expected masks"),
        (("--network", "fast"), "--labels none is for --network image; leave --network out"),
    ],
)
def test_what_needs_labels_is_refused(
    prn: Command, folder: Path, tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    code, _, err = train(prn, folder, tmp_path / "run", *options)
    assert code == 2
    assert message in err
    assert not (tmp_path / "run").exists()


def test_it_wants_the_images(prn: Command, folder: Path, tmp_path: Path) -> None:
    code, _, err = prn("train", folder / "logits", "--labels", "none", "-o", tmp_path / "run")
    assert code == 2
    assert "--labels none learns from the images; give --images DIR" in err


def test_who_has_no_labels_hears_of_it(
    prn: Command, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = prn("train", folder / "logits", "--images", folder / "images")
    assert code == 1
    assert "without labels, --labels none --images DIR learns from the images" in err


def test_a_run_is_resumed(prn: Command, folder: Path, tmp_path: Path) -> None:
    for out, parts in (("whole", ((),)), ("parts", (("--time-budget", "0.001s"), ("--resume",)))):
        for more in parts:
            assert train(prn, folder, tmp_path / out, "--epochs", 2, *more)[0] == 0
    whole, parts = ((tmp_path / out / "model.safetensors").read_bytes() for out in ("whole", "parts"))
    assert len(whole) == len(parts)


def test_a_run_of_other_labels_is_not_resumed(prn: Command, folder: Path, tmp_path: Path) -> None:
    assert train(prn, folder, tmp_path / "run", "--time-budget", "0.001s")[0] == 0
    line = ("train", folder / "logits", "--labels", folder / "truth", "--images", folder / "images", "--folds", 1)
    code, _, err = prn(*line, "-o", tmp_path / "run", *SMALL, "--resume")
    assert code == 1
    assert "--labels none, not given" in err


def test_it_says_that_there_was_little_time() -> None:
    conclusion = own_masks.Transfer(0.25, 0.5, (0.0,), 0.8, 0.1, undertrained=True)
    assert "added at strength 0.25 (half, as there was little time to learn)" in conclusion.verdict


def test_labels_of_activations_are_noticed(prn: Command, folder: Path, tmp_path: Path) -> None:
    for name, source in (("scores", "logits"), ("labels", "truth")):
        (tmp_path / name).symlink_to(folder / source)
    (tmp_path / "weak.json").write_text("{}")
    line = ("train", tmp_path / "scores", "--labels", tmp_path / "labels", "--images", folder / "images", *SMALL)
    said = "--hide-scores keeps the network from copying them"
    for out, more, noted in (("run", ("--folds", 1), True), ("hidden", ("--hide-scores",), False)):
        code, _, err = prn(*line, "-o", tmp_path / out, *more)
        assert code == 0, err
        assert (said in err) == noted


def test_a_folder_named_none_holds_labels(prn: Command, folder: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "none").symlink_to(folder / "truth")
    monkeypatch.chdir(tmp_path)
    code, _, err = train(prn, folder, tmp_path / "run", "--folds", 1)
    assert code == 0, err
    assert "held_out_figures" in json.loads((tmp_path / "run" / "model.json").read_text())


def test_callers_of_python_say_none_too(folder: Path, tmp_path: Path) -> None:
    small = {"crop": 64, "batch": 2, "epochs": 1, "steps": 2, "threads": 1}
    made = prn.train(folder / "logits", labels="none", images=folder / "images", out=tmp_path / "run", **small)
    assert made.card["own_masks"]
    assert load_refiner(find_weights(str(tmp_path / "run")), device="cpu").hides


def test_maps_that_were_not_learned_from_are_noted(prn: Command, folder: Path, tmp_path: Path) -> None:
    assert train(prn, folder, tmp_path / "run")[0] == 0
    (tmp_path / "logits").mkdir()
    for old, new in (("m0", "m0"), ("m1", "other")):
        for kind, suffix in (("logits", "npy"), ("images", "png")):
            (tmp_path / kind).mkdir(exist_ok=True)
            (tmp_path / kind / f"{new}.{suffix}").symlink_to(folder / kind / f"{old}.{suffix}")
    options = ("--images", tmp_path / "images", "--weights", tmp_path / "run")
    code, _, err = prn("refine", tmp_path / "logits", "-o", tmp_path / "out", *options)
    assert code == 0, err
    assert f"1 of 2 maps are new to {tmp_path / 'run'}, and may lose: let it learn from them, too" in err
    assert (
        "are new to"
        not in prn("refine", folder / "logits", "-o", tmp_path / "all", *options[2:], *options[:1], folder / "images")[
            2
        ]
    )


def test_an_exported_network_keeps_its_level(prn: Command, folder: Path, tmp_path: Path) -> None:
    assert train(prn, folder, tmp_path / "run")[0] == 0
    assert prn("weights", "export", tmp_path / "run", "-o", tmp_path / "next")[0] == 0
    before, after = (load_refiner(find_weights(str(tmp_path / name)), device="cpu") for name in ("run", "next"))
    assert before.levels == after.levels != (0,)
    assert before.hides == after.hides
    cards = [json.loads((tmp_path / name / "model.json").read_text()) for name in ("run", "next")]
    assert cards[0]["own_masks"] == cards[1]["own_masks"] == True  # noqa: E712
    assert cards[0]["transfer"] == cards[1]["transfer"]


def test_maps_in_memory_need_no_labels_either(tmp_path: Path) -> None:
    _, images, scores = zip(*(scene(number) for number in range(3)), strict=True)
    small = {"crop": 64, "batch": 2, "epochs": 1, "steps": 2, "threads": 1}
    made = prn.train_maps(scores, None, images=images, out=tmp_path / "run", **small)
    assert made.card["own_masks"]
    found = prn.refine_map(scores[0], weights=tmp_path / "run", image=images[0].astype(np.float32), strength=0.5)
    assert not np.array_equal(found.bias, np.zeros_like(found.bias))
    with pytest.raises(ValueError, match="2 images, expected 3, one a map"):
        prn.train_maps(scores, None, images=images[:2], out=tmp_path / "other", **small)


def test_weights_that_are_not_heard_say_so(prn: Command, folder: Path, tmp_path: Path) -> None:
    assert train(prn, folder, tmp_path / "run")[0] == 0
    options = ("--images", folder / "images", "--weights", tmp_path / "run")
    _, _, err = prn("refine", folder / "logits", "-o", tmp_path / "out", *options)
    assert (
        "these weights leave scores as they are: in training, the images gave too little back of what was learned"
        in err
    )


@pytest.mark.parametrize("weights", ["run", "image"])
def test_each_map_may_have_a_threshold_of_its_own(prn: Command, folder: Path, tmp_path: Path, weights: str) -> None:
    if weights == "run":
        assert train(prn, folder, tmp_path / "run")[0] == 0
    options = ("--images", folder / "images", "--weights", tmp_path / "run" if weights == "run" else weights)
    code, _, err = prn("refine", folder / "logits", "-o", tmp_path / "out", *options, "--per-image")
    assert code == 0, err
    assert len(list((tmp_path / "out").glob("*.png"))) == 6


def test_with_labels_the_scores_are_seen_again(prn: Command, folder: Path, tmp_path: Path) -> None:
    assert train(prn, folder, tmp_path / "run")[0] == 0
    line = ("train", folder / "logits", "--labels", folder / "truth", "--images", folder / "images")
    code, _, err = prn(*line, "--from", tmp_path / "run", "-o", tmp_path / "next", *SMALL, "--folds", 1)
    assert code == 0, err
    card = json.loads((tmp_path / "next" / "model.json").read_text())
    assert card["hide_scores"] == "0"
    assert "transfer" not in card


def test_masks_of_one_class_teach_nothing(prn: Command, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "logits").mkdir()
    for number in range(3):
        np.save(tmp_path / "logits" / f"m{number}.npy", np.full((96, 128), -3, np.float32))
    line = ("train", tmp_path / "logits", "--labels", "none", "--images", folder / "images")
    code, _, err = prn(*line, "-o", tmp_path / "run", *SMALL)
    assert code == 1
    assert "no map has both foreground and background: there is nothing to learn" in err
    assert not (tmp_path / "run").exists()


def test_hard_masks_are_cut_as_they_are(prn: Command, folder: Path, tmp_path: Path) -> None:
    assert train(prn, folder, tmp_path / "run")[0] == 0
    options = ("--input-kind", "mask", "--images", folder / "images", "--weights", tmp_path / "run", "--strength", 1)
    code, _, err = prn("refine", folder / "truth", "-o", tmp_path / "out", *options)
    assert code == 0, err
    assert "cut at" not in err


def test_what_two_views_find_is_shifted_by_the_level() -> None:
    _, image, logits = scene(1)
    made = build("image", bands=3, seed=0)
    torch.nn.init.normal_(made.decoder.head.weight, std=0.5)
    made.hide_scores = made.two_views = True
    runner = TorchRunner(made)
    plain = refine_map(logits, refiner_of(runner), image=image.astype(np.float32)) - logits
    runner.metadata = runner.metadata | {"prn.level": "0.5"}
    shifted = refine_map(logits, refiner_of(runner), image=image.astype(np.float32)) - logits
    np.testing.assert_allclose(shifted, np.where(plain == 0, 0, plain - 0.5), atol=1e-4)


def scores_of_classes(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class numbers, an image that shows them, and the logits of a softmax that are wrong in some patches."""
    truth, image, logits = scene(seed)
    other, second, others = scene(seed + 100)
    numbers = np.where(truth, 1, np.where(other, 2, 0)).astype(np.uint8)
    image[2] = second[2]
    image[2][truth] = 20
    return numbers, image, np.stack([np.zeros_like(logits), logits + 1, others]).astype(np.float32)


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("classes"), scores_of_classes, 1)


def test_all_classes_are_found_at_once(prn: Command, classes: Path, tmp_path: Path) -> None:
    assert train(prn, classes, tmp_path / "run", "--task", "multiclass")[0] == 0
    card = json.loads((tmp_path / "run" / "model.json").read_text())
    assert (card["hide_scores"], card["planes"]) == ("1", "3")
    assert len(card["transfer"]["levels"]) == 3
    assert card["data"]["learned_from"] == [f"m{number}" for number in range(6)]
    options = ("--images", classes / "images", "--weights", tmp_path / "run", "--strength", 0.5)
    found = []
    for out, more in (("base", ()), ("out", options)):
        code, _, err = prn("refine", classes / "logits", "-o", tmp_path / out, "--task", "multiclass", *more)
        assert code == 0, err
        masks = [np.asarray(Image.open(tmp_path / out / f"m{number}.png")) for number in range(6)]
        found.append(np.bincount(np.concatenate([mask.ravel() for mask in masks]), minlength=256))
    np.testing.assert_allclose(found[1][:3], found[0][:3], rtol=0.01)  # the sample is the set
    assert found[0][255] == found[1][255] == 6 * 4 * 128


def test_noise_is_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two classes of half the map each, two masks that know nothing of each other have an IoU of a third."""
    random = np.random.default_rng(0)
    scores, found = random.normal(0, 2, (2, 2, 40_000)).astype(np.float32)
    monkeypatch.setattr(own_masks, "_compared", lambda *_: (scores.copy(), found, scores.argmax(axis=0)))
    said = own_masks.conclude(None, [], 0.5)
    assert said.agreement == pytest.approx(1 / 3, abs=0.02)
    assert said.strength == 0


def test_weights_that_see_scores_refine_each_class_by_itself(prn: Command, classes: Path, tmp_path: Path) -> None:
    options = ("--images", classes / "images", "--weights", "image", "--strength", 1, "--task", "multiclass")
    code, _, err = prn("refine", classes / "logits", "-o", tmp_path / "out", *options)
    assert code == 0, err
    assert len(list((tmp_path / "out").glob("*.png"))) == 6


def test_labelled_classes_are_found_at_once_too(prn: Command, classes: Path, tmp_path: Path) -> None:
    line = ("train", classes / "logits", "--labels", classes / "truth", "--images", classes / "images")
    code, _, err = prn(*line, "--task", "multiclass", "--folds", 2, *SMALL, "-o", tmp_path / "run")
    assert code == 0, err
    assert "base model: mIoU 0." in err
    assert "mIoU at strength 1: 0." in err
    assert "all classes are found at once, in the images alone, and added to the scores" in err
    card = json.loads((tmp_path / "run" / "model.json").read_text())
    assert (card["hide_scores"], card["planes"]) == ("1", "3")
    assert len(card["data"]["held_out"]) == 6
    assert "transfer" not in card
    options = ("--images", classes / "images", "--weights", tmp_path / "run", "--strength", 1, "--task", "multiclass")
    code, _, err = prn("refine", classes / "logits", "-o", tmp_path / "out", *options)
    assert code == 0, err
    assert "new to" not in err  # labels say something of other maps
    assert "offsets" not in err
    assert len(list((tmp_path / "out").glob("*.png"))) == 6


def test_the_greatest_score_is_counted(classes: Path, tmp_path: Path) -> None:
    """What training promises of each strength is what `prn score` finds of it."""
    small = {"crop": 64, "batch": 2, "epochs": 1, "steps": 4, "threads": 1, "task": "multiclass", "folds": 1}
    same = {"labels": classes / "truth", "images": classes / "images", "validation_stems": tmp_path / "stems"}
    (tmp_path / "stems").write_text("m1\nm4\n")
    card = prn.train(classes / "logits", out=tmp_path / "run", **same, **small).card
    (tmp_path / "held").mkdir()
    for name in ("m1", "m4"):
        (tmp_path / "held" / f"{name}.npy").symlink_to(classes / "logits" / f"{name}.npy")
    for strength, gain in card["choice"]["strengths"].items():
        prn.refine(
            tmp_path / "held",
            out=tmp_path / "masks",
            images=classes / "images",
            weights=tmp_path / "run",
            strength=float(strength),
            task="multiclass",
            threshold=0.5,
            overwrite=True,
        )
        line = {"labels": classes / "truth", "baseline": tmp_path / "held", "task": "multiclass"}
        document = prn.score(tmp_path / "masks", **line).document()
        found = document["pooled"]["miou"]["difference"]["value"]
        assert gain == pytest.approx(found, abs=1e-6)


@pytest.mark.slow
def test_labelled_classes_are_mended(prn: Command, classes: Path, tmp_path: Path) -> None:
    line = ("train", classes / "logits", "--labels", classes / "truth", "--images", classes / "images")
    options = ("--crop", 96, "--batch", 4, "--epochs", 2, "--steps", 60, "--task", "multiclass", "--folds", 2)
    assert prn(*line, *options, "-o", tmp_path / "run")[0] == 0
    card = json.loads((tmp_path / "run" / "model.json").read_text())
    assert card["choice"]["strength"] > 0
    assert card["held_out_figures"]["pooled_iou"]["difference"][0] > 0.005


def test_labels_of_one_class_teach_nothing(prn: Command, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    for number in range(6):
        Image.fromarray(np.full((96, 128), 255, np.uint8)).save(tmp_path / "labels" / f"m{number}.png")
    line = ("train", folder / "logits", "--labels", tmp_path / "labels", "--images", folder / "images")
    code, _, err = prn(*line, "--hide-scores", *SMALL, "-o", tmp_path / "run")
    assert code == 1
    assert "no map has both foreground and background: there is nothing to learn" in err


def test_each_window_is_run_once_for_all_classes(classes: Path, tmp_path: Path) -> None:
    small = {"crop": 64, "batch": 2, "epochs": 1, "steps": 2, "threads": 1, "task": "multiclass"}
    prn.train(classes / "logits", labels="none", images=classes / "images", out=tmp_path / "run", **small)
    refiner = load_refiner(find_weights(str(tmp_path / "run")), device="cpu")
    calls = []
    run = refiner.runner.run
    refiner.runner.run = lambda *given: (calls.append(given), run(*given))[1]
    _, image, logits = scores_of_classes(0)
    fields = [
        refine_map(plane, refiner, image=image.astype(np.float32), strength=1, plane=number) - plane
        for number, plane in enumerate(logits)
    ]
    assert len(calls) == 1
    assert not np.array_equal(fields[0], fields[1])


def test_weights_of_other_classes_are_refused(prn: Command, folder: Path, classes: Path, tmp_path: Path) -> None:
    assert train(prn, classes, tmp_path / "three", "--task", "multiclass")[0] == 0
    assert train(prn, folder, tmp_path / "one")[0] == 0
    for run, where, task, said in (
        ("three", folder, "binary", "these weights find 3 classes, and the maps have 1"),
        ("one", classes, "multiclass", "these weights find 1 class, and the maps have 3"),
    ):
        options = ("--task", task, "--images", where / "images", "--weights", tmp_path / run)
        code, _, err = prn("refine", where / "logits", "-o", tmp_path / "out", *options)
        assert code == 2
        assert said in err


def test_labels_that_were_made_of_the_scores(prn: Command, classes: Path, tmp_path: Path) -> None:
    line = ("train", classes / "logits", "--labels", classes / "truth", "--images", classes / "images")
    same = ("--task", "multiclass", *SMALL)
    code, _, err = prn(*line, *same, "--hide-scores", "--contrast", "fbr", "-o", tmp_path / "run")
    assert code == 0, err
    assert "6 maps to learn from, scores hidden" in err
    card = json.loads((tmp_path / "run" / "model.json").read_text())
    assert card["data"]["held_out"] == []
    assert len(card["transfer"]["levels"]) == 3
    code, _, err = prn(*line, *same, "--hide-scores", "--folds", 2, "-o", tmp_path / "other")
    assert code == 2
    assert "--hide-scores and --folds exclude each other" in err
    code, _, err = prn(*line[:4], *same, "--hide-scores", "-o", tmp_path / "other")
    assert code == 2
    assert "--hide-scores learns from the images; give --images DIR" in err


def test_every_class_keeps_its_area(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    scores = random.normal(0, 2, (3, 40_000)).astype(np.float32)
    found = (2 * scores + random.normal(1, 2, scores.shape)).astype(np.float32)
    monkeypatch.setattr(own_masks, "_compared", lambda *_: (scores.copy(), found, scores.argmax(axis=0)))
    offsets = (0.5, 0.0, -0.25)
    said = own_masks.conclude(None, [], offsets)
    assert said.strength == own_masks.STRENGTH
    shifted = scores - np.array(offsets, np.float32)[:, None]
    refined = shifted + said.strength * (found - np.array(said.levels, np.float32)[:, None])
    before, after = (np.bincount(one.argmax(axis=0), minlength=3) for one in (shifted, refined))
    assert np.abs(before - after).max() <= 40


def test_a_class_begins_with_what_another_number_of_classes_has_learned() -> None:
    start = build("image", ImageOptions(hide_scores=True, planes=2), bands=3, seed=0)
    torch.nn.init.normal_(start.decoder.head.weight)
    recipe = recipe_of("image")
    for planes in (2, 3, 1):
        made = build("image", ImageOptions(hide_scores=True, planes=planes), bands=3, seed=1)
        made.load_state_dict(recipe.fitting(made, start.state_dict()))
        old, new = (one.decoder.head.weight.unflatten(0, (-1, 4)) for one in (start, made))
        expected = old if planes == 2 else old.mean(0).expand(planes, *old.shape[1:])
        torch.testing.assert_close(new, expected)


@pytest.mark.slow
def test_several_classes_are_mended_too(prn: Command, classes: Path, tmp_path: Path) -> None:
    options = ("--crop", 96, "--batch", 4, "--epochs", 2, "--steps", 60, "--task", "multiclass")
    assert train(prn, classes, tmp_path / "run", *options)[0] == 0
    for out, more in (("base", ()), ("refined", ("--weights", tmp_path / "run", "--images", classes / "images"))):
        line = ("refine", classes / "logits", "-o", tmp_path / out, "--task", "multiclass", *more)
        assert prn(*line)[0] == 0
    line = ("score", tmp_path / "refined", "--labels", classes / "truth", "--baseline", tmp_path / "base", "--json")
    found = json.loads(prn(*line, "--task", "multiclass")[1])
    assert found["pooled"]["miou"]["difference"]["value"] > 0.02


@pytest.mark.slow
def test_what_the_base_model_gets_wrong_by_place_is_mended(prn: Command, folder: Path, tmp_path: Path) -> None:
    options = ("--crop", 96, "--batch", 4, "--epochs", 2, "--steps", 60)
    assert train(prn, folder, tmp_path / "run", *options)[0] == 0
    for out, more in (("base", ()), ("refined", ("--weights", tmp_path / "run", "--images", folder / "images"))):
        assert prn("refine", folder / "logits", "-o", tmp_path / out, *more)[0] == 0
    line = ("score", tmp_path / "refined", "--labels", folder / "truth", "--baseline", tmp_path / "base", "--json")
    found = json.loads(prn(*line)[1])
    assert found["pooled"]["iou"]["difference"]["value"] > 0.02
