"""The method `image`: its network, its refiner, and the brake that a set is given."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import prn_cli as prn
from prn_cli.commands import app
from prn_cli.errors import UsageError, WeightsError
from prn_cli.files.manifest import MANIFEST_NAME
from prn_cli.maps.bands import band_range
from prn_cli.methods import load_refiner, options_of, refiner_of
from prn_cli.methods.image.brake import FEATURES, Agreement, Brake, consensus, fields_of_views
from prn_cli.methods.image.network import REACH, ImageNetwork
from prn_cli.methods.image.refiner import ImageRefiner
from prn_cli.methods.recipe import build
from prn_cli.methods.refiner import Windows
from prn_cli.methods.torch_runner import TorchRunner, load_network
from prn_cli.methods.weights import find_tensors, find_weights
from prn_cli.rasters import Reading, open_map
from prn_cli.refinement.rows import refine_map
from prn_cli.training.export import export

LEAVE, GO = ([0.0] * len(FEATURES) + [gain] for gain in (-1.0, 1.0))


def brake(*weights: list[float]) -> Brake:
    return Brake([0.5] * len(FEATURES), [0.2] * len(FEATURES), weights, [0.5, 1.0][-len(weights) :], 0.1)


def network(seed: int = 0) -> ImageNetwork:
    """One whose bias map is no longer 0."""
    made = build("image", bands=3, seed=seed)
    torch.nn.init.normal_(made.decoder.head.weight, std=0.5)
    return made.eval()


def scene(height: int = 96, width: int = 128, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and an image of blobs."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    shape = np.sin(y / random.uniform(5, 15)) + np.sin(x / random.uniform(5, 15))
    image = 90 + 40 * (shape > 0) + random.normal(0, 5, (3, height, width))
    return (2 * shape + random.normal(0, 0.5, shape.shape)).astype(np.float32), image.astype(np.float32)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of many sets, whose brake leaves masks as they are."""
    folder = tmp_path_factory.mktemp("weights")
    card = {"learned_from_other_sets": True}
    export(network(), folder, card=card, metadata={"prn.brake": brake(LEAVE).to_json()})
    return folder


# The network.


def test_an_untrained_network_leaves_logits_as_they_are() -> None:
    logits, image = (torch.from_numpy(plane)[None] for plane in scene())
    made = build("image", bands=3, seed=0).eval()
    assert torch.equal(made(logits[None], image / 128 - 1), logits[None])


def test_it_has_no_more_weights_than_it_may() -> None:
    assert sum(tensor.numel() for tensor in build("image", bands=3).parameters()) <= 5e6


def test_the_bias_is_bounded_and_less_where_the_base_model_is_sure() -> None:
    made = network()
    torch.nn.init.constant_(made.decoder.head.bias, 50.0)  # as far as it goes
    sides = []
    for logit in (0.0, 3.0, 8.0, 20.0):
        bias = made.bias(torch.full((1, 1, 32, 32), logit), torch.zeros(1, 3, 32, 32))
        sides.append(bias.abs().max().item())
    assert sides == sorted(sides, reverse=True)
    assert sides[0] <= REACH
    assert sides[2] < 8


def test_invalid_pixels_have_no_bias_and_harm_no_others() -> None:
    logits, image = (torch.from_numpy(plane)[None] for plane in scene())
    logits[:, :20] = torch.nan
    image[:, :, :10] = torch.nan
    bias = network().bias(logits[None], image / 128 - 1)
    assert torch.isfinite(bias).all()
    assert (bias[..., :20, :] == 0).all()


def test_onnx_and_tensors_hold_the_same_weights_in_half_the_bytes(weights: Path) -> None:
    logits, image = scene()
    inputs = {"logits": logits[None, None], "image": image[None] / 128 - 1}
    made, _ = load_network(weights / "model.safetensors")
    with torch.no_grad():
        expected = made.eval().bias(*map(torch.from_numpy, inputs.values()))
    found = onnxruntime.InferenceSession(weights / "model.onnx").run(["bias"], inputs)[0]
    assert np.abs(found - expected.numpy()).max() < 5e-3
    assert sum((weights / f"model.{suffix}").stat().st_size for suffix in ("onnx", "safetensors")) < 8e6


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.floats(1e-3, 1e4))
@settings(max_examples=30, deadline=None)
def test_the_range_of_bands_is_that_of_their_percentiles(seed: int, bands: int, scale: float) -> None:
    images = scale * np.random.default_rng(seed).normal(size=(3, bands, 12, 9)).astype(np.float32)
    low, high = band_range(images)
    pixels = images.transpose(1, 0, 2, 3).reshape(bands, -1)
    np.testing.assert_allclose([low, high], np.percentile(pixels, [1, 99], axis=1), rtol=1e-4)


@pytest.mark.parametrize("value", [7, 0, -2, 3e7, -1e30])
def test_a_band_of_one_value_has_a_range(value: float) -> None:
    low, high = band_range([np.full((2, 8, 8), value, np.float32)])
    assert all(end > start for start, end in zip(low, high, strict=True))


# The refiner.


def foreign(*weights: list[float]) -> ImageRefiner:
    """The refiner of weights that have not learned from the set."""
    runner = TorchRunner(network())
    runner.metadata = {**runner.metadata, "prn.brake": brake(*weights).to_json()}
    return refiner_of(runner)


class Counting:
    """A runner that counts the pixels it is given, and adds 1 to each."""

    path, device, library, runs = None, "cpu", "", 1
    inputs, outputs = ["logits", "image"], ["bias"]

    def __init__(self) -> None:
        self.pixels = 0
        self.metadata = TorchRunner(build("image", bands=3)).metadata

    def run(self, outputs: object, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.pixels += inputs["logits"].size
        return [np.ones_like(inputs["logits"])]


def test_what_the_base_model_is_sure_of_is_skipped() -> None:
    runner = Counting()
    refiner = refiner_of(runner)
    _, image = scene(512, 512)
    logits = np.full((512, 512), -9, np.float32)
    assert (refine_map(logits, refiner, image=image) == logits).all()
    assert runner.pixels == 0
    logits[250:254, 300:310] = 0.5
    refined = refine_map(logits, refiner, image=image)
    assert (refined[250:254, 300:310] == 1.5).all()
    assert 0 < runner.pixels < 512 * 512 / 4


@given(st.integers(0, 2**32 - 1))
def test_views_agree_on_what_all_of_them_add_at_the_least(seed: int) -> None:
    fields = np.random.default_rng(seed).normal(size=(4, 1, 6, 5)).astype(np.float32)
    found = consensus(fields)
    assert (np.abs(found) <= np.abs(fields)).all()
    assert ((found == 0) | (np.sign(found) == np.sign(fields)).all(axis=0)).all()
    np.testing.assert_array_equal(consensus([fields[0]] * 4), fields[0])
    np.testing.assert_array_equal(consensus([*fields[:3], -fields[0]]), np.zeros_like(found))


def test_weights_of_other_sets_add_what_a_turned_and_a_reduced_view_agree_on() -> None:
    refiner = foreign(GO)
    logits, image = scene(64, 96)
    windows = Windows(logits[None], image[None], overview=band_range([image]))
    field = refiner.field(windows)
    turned, reduced = fields_of_views(windows, refiner.biases)[2:]
    np.testing.assert_array_equal(turned, np.rot90(refiner.biases(windows.turned(False, 1)), -1, axes=(-2, -1)))
    np.testing.assert_array_equal(reduced[..., ::2, ::2], reduced[..., 1::2, 1::2])
    for view in (turned, reduced):
        assert (np.abs(field) <= np.abs(view[:, 0])).all()
    assert field.any()


def test_weights_that_learned_from_scenes_add_what_two_views_agree_on() -> None:
    logits, image = scene(64, 96)
    windows = Windows(logits[None], image[None], overview=band_range([image]))
    plain, agreeing = network(), network()
    agreeing.two_views = True
    careful = refiner_of(TorchRunner(agreeing))
    expected = consensus(fields_of_views(windows, refiner_of(TorchRunner(plain)).biases)[2:])
    np.testing.assert_array_equal(careful.field(windows), expected[:, 0])
    assert careful.needs.multiple == 2 * plain.multiple
    assert careful.cut_at(0.3) is careful


def test_a_place_is_looked_at_no_more_than_one_and_a_quarter_times() -> None:
    runner = Counting()
    runner.metadata = {**runner.metadata, "prn.brake": brake(GO).to_json()}
    logits, image = scene(128, 256)
    refine_map(logits, refiner_of(runner), image=image)
    assert runner.pixels == 1.25 * logits.size


@given(st.floats(0.02, 0.98))
@settings(max_examples=10, deadline=None)
def test_it_sees_scores_about_the_threshold_that_they_are_cut_at(threshold: float) -> None:
    refiner = foreign(GO)
    logits, image = scene(64, 64)
    shifted = logits + np.float32(np.log(threshold / (1 - threshold)))
    around = refiner.cut_at(threshold)
    expected, found = (
        made.field(Windows(scores[None], image[None], overview=band_range([image])))
        for made, scores in ((refiner, logits), (around, shifted))
    )
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_weights_that_learned_from_the_set_see_scores_as_they_learned_them() -> None:
    refiner = refiner_of(TorchRunner(network()))
    assert refiner.cut_at(0.3) is refiner


def test_a_map_and_its_tiles_agree() -> None:
    logits, image = scene(400, 560)
    for refiner in (refiner_of(TorchRunner(network())), foreign(GO)):
        whole, tiles = (refine_map(logits, refiner, image=image, tile=tile) > 0 for tile in (1024, 320))
        assert (whole != tiles).mean() < 1e-3


def test_a_pickled_refiner_knows_the_range_of_its_set(weights: Path) -> None:
    refiner = load_refiner(find_weights(str(weights)), device="cpu")
    known = refiner.survey([Windows(logits[None], image[None]) for logits, image in (scene(), scene(seed=1))]).refiner
    again = pickle.loads(pickle.dumps(known.cut_at(0.3)))
    assert again.limits == known.limits
    assert again.centre == pytest.approx(np.log(0.3 / 0.7))
    assert (again.needs.survey, again.needs.overview) == (0, 0)
    assert refiner.needs.survey > 0


def test_a_single_map_has_a_range_of_its_own(weights: Path) -> None:
    """Without a survey, as in `prn.refine_map`; the numbers of the image may be of any scale."""
    refiner = load_refiner(find_weights(str(weights)), device="cpu")
    logits, image = scene()
    first, second = (refine_map(logits, refiner, image=factor * image) for factor in (1, 257))
    np.testing.assert_allclose(first, second, atol=1e-2)


def test_arrays_are_braked_too(weights: Path) -> None:
    logits, image = scene()
    assert not prn.refine_map(logits, weights, image=image).bias.any()
    assert prn.refine_map(logits, weights, image=image, strength=1).bias.any()


# The brake.


def agreement_of(field_of: object, *scenes: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    agreement = Agreement()
    for logits, image in scenes:
        agreement.add(logits[None], fields_of_views(Windows(logits[None], image[None]), field_of))
    return agreement.features()


def test_a_method_that_changes_nothing_agrees_with_itself_and_the_base_model() -> None:
    features = dict(
        zip(FEATURES, agreement_of(lambda windows: np.zeros_like(windows.logits), scene(), scene(seed=1)), strict=True)
    )
    assert list(features.values()) == [1.0, 0.0, 0.0]


def test_a_method_that_knows_left_from_right_does_not_agree_with_its_mirror_image() -> None:
    def field_of(windows: Windows) -> np.ndarray:
        return np.broadcast_to(np.linspace(-5, 5, windows.logits.shape[2], dtype=np.float32), windows.logits.shape)

    assert agreement_of(field_of, scene())[0] < 0.85


def test_the_scale_is_compared_on_any_size() -> None:
    assert agreement_of(lambda windows: np.ones_like(windows.logits), scene(48, 80))[0] == 1.0


@given(
    st.lists(st.floats(-50, 50), min_size=2 * len(FEATURES) + 2, max_size=2 * len(FEATURES) + 2),
    st.lists(st.floats(0, 1), min_size=len(FEATURES), max_size=len(FEATURES)),
)
def test_a_brake_is_what_is_read_again(numbers: list[float], features: list[float]) -> None:
    half = len(FEATURES) + 1
    made = brake(numbers[:half], numbers[half:])
    again = Brake.from_json(made.to_json())
    assert again.strength(np.array(features)) == made.strength(np.array(features))
    assert again.strength(np.array(features)) in (0, 0.5, 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        brake(LEAVE).to_json().replace("0.2", "0", 1),
        brake(LEAVE).to_json().replace("0.1}", "NaN}"),
        brake(LEAVE[1:]).to_json(),
        brake(LEAVE, GO).to_json().replace("[0.5, 1.0]", "[0.5, 2.0]"),
    ],
)
def test_a_brake_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a brake"):
        Brake.from_json(text)
    runner = SimpleNamespace(path=None, device="cpu", library="", runs=1, inputs=["logits", "image"], outputs=["bias"])
    runner.metadata = TorchRunner(build("image", bands=3)).metadata | {"prn.brake": text}
    with pytest.raises(WeightsError, match=r"prn\.brake"):
        refiner_of(runner)


# The commands.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("set")
    for name in ("logits", "labels", "images", "infrared"):
        (made / name).mkdir()
    for number in range(4):
        logits, image = scene(seed=number)
        np.save(made / "logits" / f"m{number}.npy", logits)
        Image.fromarray(((logits > 0) * 255).astype(np.uint8)).save(made / "labels" / f"m{number}.png")
        bands = image.clip(0, 255).astype(np.uint8)
        Image.fromarray(bands.transpose(1, 2, 0)).save(made / "images" / f"m{number}.png")
        np.save(made / "infrared" / f"m{number}.npy", 100 * np.concatenate([bands[:1].astype(np.uint16) * 0, bands]))
    return made


def refine(folder: Path, out: Path, *options: object, logits: str = "logits") -> int:
    line = ["refine", str(folder / logits), "-o", str(out), "--threshold", "0.5", "-j", "1", *map(str, options)]
    return app.run(line)


def masks(out: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted(out.glob("*.png"))]


def test_the_brake_leaves_masks_as_they_are_and_says_so(
    folder: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refine(folder, tmp_path, "--images", folder / "images", "--weights", weights)
    said = capsys.readouterr().err
    assert "scores left as they are" in said
    assert "agreement 0." in said
    labels = [np.asarray(Image.open(path)) for path in sorted((folder / "labels").iterdir())]
    assert all((found == label).all() for found, label in zip(masks(tmp_path), labels, strict=True))
    manifest = (tmp_path / MANIFEST_NAME).read_text()
    assert '"survey"' in manifest
    assert '"agreement"' in manifest


def test_where_the_brake_leaves_scores_masks_are_those_of_the_first_call(
    folder: Path, weights: Path, tmp_path: Path
) -> None:
    """Cut at the threshold of the set; and no image harms what the first call has won."""
    (tmp_path / "cautious").mkdir()
    for path in (folder / "logits").iterdir():
        np.save(tmp_path / "cautious" / path.name, np.tanh(np.load(path)) - 2)
    found = []
    for name, options in (("plain", ()), ("seen", ("--images", folder / "images", "--weights", weights))):
        line = ["refine", tmp_path / "cautious", "-o", tmp_path / name, *options, "-j", "1"]
        assert app.run([str(word) for word in line]) == 0
        thresholds = set(re.findall(r'"threshold": ([0-9.]+)', (tmp_path / name / MANIFEST_NAME).read_text()))
        found.append((thresholds, masks(tmp_path / name)))
    assert found[0][0] == found[1][0] != {"0.5"}
    assert all((plain == seen).all() for plain, seen in zip(found[0][1], found[1][1], strict=True))


def test_a_strength_that_is_given_is_applied(folder: Path, weights: Path, tmp_path: Path) -> None:
    refine(folder, tmp_path, "--images", folder / "images", "--weights", weights, "--strength", "1")
    labels = [np.asarray(Image.open(path)) for path in sorted((folder / "labels").iterdir())]
    assert any((found != label).any() for found, label in zip(masks(tmp_path), labels, strict=True))


def test_bands_are_named_and_of_any_depth(folder: Path, weights: Path, tmp_path: Path) -> None:
    options = ("--weights", weights, "--strength", "1")
    refine(folder, tmp_path / "plain", "--images", folder / "images", *options)
    assert refine(folder, tmp_path / "wrong", "--images", folder / "infrared", *options, "--rgb", "2,red") == 2
    refine(folder, tmp_path / "bands", "--images", folder / "infrared", *options, "--rgb", "2,3,4")
    for plain, bands in zip(masks(tmp_path / "plain"), masks(tmp_path / "bands"), strict=True):
        assert (plain != bands).mean() < 0.01


def test_a_band_that_is_not_there_is_named(folder: Path) -> None:
    reading = Reading(rgb=(5, 3, 2))
    with (
        pytest.raises(Exception, match="image of 4 bands, and --rgb names 5"),
        open_map("image", folder / "infrared" / "m0.npy", reading, bands=3) as image,
    ):
        image.read()


def test_images_of_another_depth_are_warned_of(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = network()
    made.set_range([0] * 3, [255] * 3)
    (tmp_path / "run").mkdir()
    export(made, tmp_path / "run", card={})
    more = ("--weights", tmp_path / "run", "--images")
    assert refine(folder, tmp_path / "deep", *more, folder / "infrared", "--rgb", "2,3,4") == 0
    assert "in band 1, and these weights know 0 to 255: store them alike" in capsys.readouterr().err
    assert refine(folder, tmp_path / "alike", *more, folder / "images") == 0
    assert "store them alike" not in capsys.readouterr().err


def test_a_grey_image_stands_for_equal_bands(folder: Path) -> None:
    with open_map("image", folder / "labels" / "m0.png", Reading(rgb=(4, 3, 2)), bands=3) as image:
        found = image.read()
    assert found.shape == (3, 96, 128)
    assert (found == found[:1]).all()


def test_shipped_weights_are_small_and_decide_by_the_set(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [find(name).path for find, name in ((find_weights, "image"), (find_tensors, "image"))]
    assert sum(path.stat().st_size for path in files) < 8e6
    assert load_refiner(find_weights("image"), device="cpu").brake is not None
    assert refine(folder, tmp_path, "--images", folder / "images", "--weights", "image") == 0
    assert "of refined masks of maps mirrored" in capsys.readouterr().err
    assert len(masks(tmp_path)) == 4


def test_a_chain_puts_edges_to_what_the_first_refiner_made(folder: Path, weights: Path, tmp_path: Path) -> None:
    chain = ("--images", folder / "images", "--weights", "fast", "--weights", weights)
    assert refine(folder, tmp_path / "braked", *chain) == 0  # neither changes anything by itself
    assert refine(folder, tmp_path / "both", *chain, "--strength", "1", "--strength", "1") == 0
    assert any((a != b).any() for a, b in zip(masks(tmp_path / "braked"), masks(tmp_path / "both"), strict=True))


def test_a_chain_is_cut_where_the_weights_that_have_learned_from_the_set_say(
    folder: Path, weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    export(build("fast", seed=0), tmp_path / "run", card={}, metadata={"prn.threshold": "0.3", "prn.strength": "1"})
    line = ["refine", folder / "logits", "-o", tmp_path / "out", "--images", folder / "images", "-j", "1"]
    chain = ("--weights", tmp_path / "run", "--weights", weights)
    assert app.run([str(word) for word in (*line, *chain)]) == 0
    assert '"threshold": 0.3' in (tmp_path / "out" / MANIFEST_NAME).read_text()


def train(folder: Path, out: Path, *options: object) -> int:
    small = ("--crop", 64, "--batch", 2, "--epochs", 1, "--steps", 2, "--threads", 1, "--folds", 1)
    line = ["train", folder / "logits", "--labels", folder / "labels", "-o", out, *small]
    return app.run([str(word) for word in (*line, *options)])


def test_it_is_trained_from_nothing_and_knows_the_range_of_its_images(folder: Path, tmp_path: Path) -> None:
    assert train(folder, tmp_path, "--images", folder / "infrared", "--rgb", "2,3,4", "--from", "none") == 0
    refiner = load_refiner(find_weights(str(tmp_path)), device="cpu")
    assert refiner.needs.survey == 0
    assert 5_000 < refiner.limits[1][0] < 20_000
    assert refiner.brake is None


def test_it_goes_on_from_weights_whose_encoder_stays(folder: Path, tmp_path: Path) -> None:
    made = build("image", options_of("image")(freeze_encoder=True), bands=3, seed=0)
    (tmp_path / "start").mkdir()
    export(made, tmp_path / "start", card={}, metadata={"prn.brake": brake(GO).to_json()})
    assert train(folder, tmp_path / "run", "--images", folder / "images", "--from", tmp_path / "start") == 0
    before, after = (load_network(tmp_path / name / "model.safetensors")[0] for name in ("start", "run"))
    assert after.knows_range
    assert all(
        torch.equal(after.state_dict()[name], value)
        for name, value in before.encoder.state_dict(prefix="encoder.").items()
    )
    assert not any(tensor.requires_grad for tensor in after.encoder.parameters())
    assert all(tensor.requires_grad for tensor in after.decoder.parameters())


def test_training_with_images_starts_from_the_shipped_weights(folder: Path, tmp_path: Path) -> None:
    assert train(folder, tmp_path, "--images", folder / "images") == 0
    card = json.loads((tmp_path / "model.json").read_text())
    assert card["from"]["name"] == card["settings"]["network"] == "image"
    before = load_network(find_tensors("image").path)[0].encoder.state_dict()
    after = load_network(tmp_path / "model.safetensors")[0].encoder.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize(("scenes", "two_views"), [("^m([0-9])", "1"), ("none", "0")])
def test_where_scenes_are_held_out_two_views_must_agree(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], scenes: str, two_views: str
) -> None:
    assert train(folder, tmp_path, "--images", folder / "images", "--groups", scenes, "--from", "none") == 0
    assert load_network(tmp_path / "model.safetensors")[1]["prn.two_views"] == two_views
    said = "--two-views is on: what is learned on some scenes may harm others"
    assert (said in capsys.readouterr().err) == (two_views == "1")


def test_images_that_are_not_used_are_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(folder, tmp_path) == 0
    assert f"with --images {folder / 'images'} the network sees the images, too" in capsys.readouterr().err
    assert json.loads((tmp_path / "model.json").read_text())["settings"]["network"] == "fast"


def test_images_of_more_bands_need_their_names(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(folder, tmp_path, "--images", folder / "infrared") == 2
    assert "images of 4 bands, and --network image sees 3; name 3 of them by --rgb" in capsys.readouterr().err


def test_it_wants_images() -> None:
    with pytest.raises(UsageError, match="needs the images"):
        build("image")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--network", "image"), "--network image needs the images; give --images DIR"),
        (("--from", "fast", "--images", "IMAGES"), "leave --from out, or name weights that see them"),
        (("--validation-images", "IMAGES", "--validation-logits", "IMAGES"), "--validation-images without --images"),
        (("--from", "fast", "--images", "IMAGES", "--freeze-encoder"), "--freeze-encoder is for --network"),
    ],
)
def test_what_does_not_go_together_says_what_to_do(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    assert train(folder, tmp_path, *(folder / "images" if word == "IMAGES" else word for word in options)) == 2
    assert message in capsys.readouterr().err


def test_options_of_the_network_of_a_run_are_known_from_the_run(folder: Path, tmp_path: Path) -> None:
    assert train(folder, tmp_path / "run", "--images", folder / "images", "--network", "fast", "--from", "none") == 0
    more = ("--from", tmp_path / "run", "--images", folder / "images", "--keep-level")
    assert train(folder, tmp_path / "next", *more) == 0
    assert json.loads((tmp_path / "next" / "model.json").read_text())["settings"]["network"] == "fast"


def test_a_run_that_held_out_other_parts_is_not_resumed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(folder, tmp_path) == 0
    assert train(folder, tmp_path, "--resume", "--folds", "2") == 2
    assert "its run held out other parts" in capsys.readouterr().err


def test_an_image_in_memory_has_the_shape_of_its_map(weights: Path) -> None:
    logits, image = scene()
    with pytest.raises(UsageError, match=r"image of shape \(3, 10, "):
        prn.refine_map(logits, weights=weights, image=image[:, :10])
