"""SegRefiner's network: the published shape and checkpoints, its losses, training, export, and the commands with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from prn_cli.commands import app
from prn_cli.errors import DivergedError, InputError
from prn_cli.methods import load_refiner, options_of, recipe_of, refiner_of
from prn_cli.methods.published import our_name
from prn_cli.methods.recipe import Batch, Outputs, build
from prn_cli.methods.segrefiner.network import SegrefinerNetwork
from prn_cli.methods.segrefiner.objective import DenoisingLoss, texture
from prn_cli.methods.segrefiner.published import CENTRE, RULES, from_published
from prn_cli.methods.torch_runner import TorchRunner
from prn_cli.methods.weights import find_tensors, find_weights
from prn_cli.refinement.rows import cut, refine_map
from prn_cli.training.augment import TrainingMap, reduced_copies
from prn_cli.training.export import export
from prn_cli.training.loop import Settings, State, base_counts, fit, pooled_iou

SMALL = {"width": 4, "chain_steps": 2}


def published_shapes(width: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published network, level by level, in the order in which it lists them."""
    found: dict[str, tuple[int, ...]] = {}
    known = 4 * width

    def layer(name: str, *weight: int) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = weight, weight[:1]

    def residual(name: str, inputs: int, outputs: int) -> None:
        layer(f"{name}.in_layers.0", inputs)
        layer(f"{name}.in_layers.2", outputs, inputs, 3, 3)
        layer(f"{name}.emb_layers.1", outputs, known)
        layer(f"{name}.out_layers.0", outputs)
        layer(f"{name}.out_layers.3", outputs, outputs, 3, 3)
        if inputs != outputs:
            layer(f"{name}.skip_connection", outputs, inputs, 1, 1)

    def attention(name: str, channels: int) -> None:
        layer(f"{name}.norm", channels)
        layer(f"{name}.qkv", 3 * channels, channels, 1)
        layer(f"{name}.proj_out", channels, channels, 1)

    found["time_embed.weight"] = (6, known)
    layer("input_blocks.0.0", width, 4, 3, 3)
    # Level by level: channels in, channels out of both blocks, whether there is attention.
    here, skips, number = width, [width], 1
    for level, factor in enumerate((1, 1, 2, 2, 4, 4)):
        for _ in range(2):
            residual(f"input_blocks.{number}.0", here, factor * width)
            here = factor * width
            if level >= 4:
                attention(f"input_blocks.{number}.1", here)
            skips.append(here)
            number += 1
        if level < 5:
            layer(f"input_blocks.{number}.0.op", here, here, 3, 3)
            skips.append(here)
            number += 1
    residual("middle_block.0", here, here)
    attention("middle_block.1", here)
    residual("middle_block.2", here, here)
    number = 0
    for level, factor in ((5, 4), (4, 4), (3, 2), (2, 2), (1, 1), (0, 1)):
        for last in (False, False, True):
            residual(f"output_blocks.{number}.0", here + skips.pop(), factor * width)
            here = factor * width
            if level >= 4:
                attention(f"output_blocks.{number}.1", here)
            if last and level:
                layer(f"output_blocks.{number}.{2 if level >= 4 else 1}.conv", here, here, 3, 3)
            number += 1
    layer("out.0", here)
    layer("out.2", 1, here, 3, 3)
    return {f"denoise_model.{name}": shape for name, shape in found.items()}


def published_state(width: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {name: 0.1 * torch.randn(shape) for name, shape in published_shapes(width).items()}


def maps(count: int, seed: int, side: int = 64) -> list[TrainingMap]:
    """Discs that the image shows, and the logits in blocks of 16 px."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    found = []
    for number in range(count):
        row, column, radius = random.uniform(0.3, 0.7, 3) * side
        truth = np.hypot(y - row, x - column) < radius / 2
        coarse = ndimage.zoom(truth[8::16, 8::16].astype(float), 16, order=0)
        image = np.where(truth, 180, 60) + random.normal(0, 10, (3, side, side))
        label = truth.astype(np.uint8)
        logits = (6 * coarse - 3).astype(np.float32)
        found.append(TrainingMap(f"{seed}-{number}", logits, label, label, image.astype(np.float32)))
    return found


def small(**more: object) -> SegrefinerNetwork:
    network = build("segrefiner", options_of("segrefiner")(**(SMALL | more)), bands=3, seed=0)
    recipe_of("segrefiner").observe(network, [m.image for m in maps(3, 1)])
    return network


# The published shape.


def test_the_published_shape_has_118_6_million_parameters():
    shapes = published_shapes(128)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 118_604_673
    with torch.device("meta"):
        network = SegrefinerNetwork(128)
    own = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    assert own == {our_name(name, RULES): shape for name, shape in shapes.items()}


@pytest.mark.slow
def test_the_published_shape_runs():
    network = from_published(published_state(128))
    with torch.no_grad():
        found = network(torch.ones(1, 1, 64, 64), torch.full((1, 1), 5.0), torch.full((1, 3, 64, 64), 99.0))
    assert found.shape == (1, 1, 64, 64)
    assert found.isfinite().all()


def test_published_checkpoints_are_checked_name_by_name():
    state = published_state(4)
    network = from_published(state)
    assert (network.width, network.chain_steps, network.image_channels) == (4, 6, 3)
    np.testing.assert_allclose(network.centre.flatten(), CENTRE)
    for name, tensor in state.items():
        assert torch.equal(network.state_dict()[our_name(name, RULES)], tensor)
    name = "denoise_model.output_blocks.4.1.qkv.bias"
    short = {key: value for key, value in state.items() if key != name}
    for odd, message in (
        (short, r"1 of \d+ tensors differ, such as up.4.after.0.qkv.bias: nothing, expected \(48,\)"),
        ({**state, "ema.weight": torch.zeros(1)}, r"ema.weight: \(1,\), expected nothing"),
        ({**state, name: torch.zeros(5)}, r"qkv.bias: \(5,\), expected \(48,\)"),
        ({**state, "denoise_model.input_blocks.0.0.weight": torch.zeros(4, 5, 3, 3)}, "5 planes, expected 4"),
        ({"denoise_model.time_embed.weight": torch.zeros(6, 16)}, "its first layer"),
    ):
        with pytest.raises(InputError, match=message):
            from_published(odd)


def test_the_command_imports_a_checkpoint_that_refines_hard_masks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save({"meta": {"epoch": 1}, "state_dict": published_state(4)}, "segrefiner_hr.pth")
    assert app.run(["weights", "import", "segrefiner_hr.pth", "-o", "run"]) == 0, capsys.readouterr().err
    (one,) = maps(1, 3)
    for name, array in (("masks", one.label * 255), ("images", one.image.transpose(1, 2, 0).clip(0, 255))):
        Path(name).mkdir()
        Image.fromarray(array.astype(np.uint8)).save(f"{name}/a.png")
    line = ["refine", "masks", "-w", "run", "--images", "images", "-o", "refined", "-q", "--input-kind", "mask"]
    assert app.run(line) == 0, capsys.readouterr().err
    refiner = load_refiner(find_tensors("run"), device="cpu")
    logits = np.where(one.label, 2.944, -2.944).astype(np.float32)
    image = one.image.clip(0, 255).astype(np.uint8).astype(np.float32)
    expected = cut(refine_map(logits, refiner, image=image), 0.5) * 255
    assert np.mean(np.asarray(Image.open("refined/a.png")) != expected) < 1e-3


# What it learns from.


def test_the_texture_is_sobel_s():
    x = torch.rand(1, 1, 9, 11)
    means = ndimage.uniform_filter(x[0, 0].numpy(), 3, mode="constant")
    across, down = (ndimage.sobel(means, axis, mode="constant") / 4 for axis in (1, 0))
    np.testing.assert_allclose(texture(x)[0, 0], np.sqrt(across**2 + down**2 + 1e-4), atol=1e-5)


def test_the_loss_leaves_ignored_pixels_out():
    logits, label = torch.randn(2, 1, 16, 16), torch.randint(0, 2, (2, 1, 16, 16), dtype=torch.uint8)
    label[..., 8:] = 255
    loss = DenoisingLoss(5.0)
    changed = logits.clone()
    changed[..., 8:] += 50  # beyond what the texture of the others shows
    batch = Batch(logits, label, label)
    torch.testing.assert_close(loss(Outputs((logits,)), batch), loss(Outputs((changed,)), batch))
    perfect = Outputs((torch.where(label == 1, 50.0, -50.0),))
    assert loss(perfect, batch) < 1e-6 < loss(Outputs((-perfect.paths[0],)), batch)


def test_crops_get_a_step_and_the_mask_of_that_step():
    recipe, options = recipe_of("segrefiner"), options_of("segrefiner")(synthetic=0)
    label = np.ones((200, 1, 16, 16), np.uint8)
    label[:, :, :4] = 255
    logits = np.full(label.shape, -1, np.float32)
    logits[..., :4] = np.nan
    batch = recipe.prepare(Batch(logits, label, label), options, np.random.default_rng(0))
    steps, masks = batch.more["step"], batch.more["mask"]
    assert set(steps.ravel()) == {0, 1, 2, 3, 4, 5}
    assert not masks[:, :, :4].any()  # what is ignored shows the coarse mask
    for step, share in enumerate((0.8, 0.64, 0.48, 0.32, 0.16, 0)):
        assert masks[steps[:, 0] == step][:, :, 4:].mean() == pytest.approx(share, abs=0.02)
    made = recipe.prepare(batch, replace(options, synthetic=1), np.random.default_rng(0)).more["mask"]
    assert made[steps[:, 0] == 5].mean() > 0.5  # the base model finds nothing, and nobody asks it


def test_the_whole_map_is_learned_from_reduced():
    (one,) = maps(1, 1, side=512)
    one.label[:8, :8] = 255
    one.logits[:2, :2] = np.nan
    (copy,) = reduced_copies([one, *maps(1, 2)], 256)
    assert copy.label.shape == copy.logits.shape == copy.pseudo.shape == (256, 256)
    assert copy.image.shape == (3, 256, 256)
    assert (copy.label[:4, :4] == 255).all()
    assert np.isnan(copy.logits[0, 0])
    assert np.mean(copy.label[8:, 8:] != one.label[16::2, 16::2]) < 0.01
    np.testing.assert_allclose(copy.image[:, 5, 7], one.image[:, 10:12, 14:16].mean((1, 2)), rtol=1e-5)


# Training.


def train(*, until: int = 2, state: State | None = None) -> State:
    network = small()
    options = options_of("segrefiner")(**SMALL)
    about = Settings(network="segrefiner", options=options, crop=32, batch=2, epochs=2, steps=2, rate=1e-3)
    for _, reached in fit(network, maps(3, 1), maps(1, 2), about, state=state):
        if reached.epoch == until:
            return reached
    raise AssertionError("no epoch was run")


def test_a_resumed_run_is_the_unbroken_one():
    unbroken, resumed = train(), train(state=train(until=1))
    for name, tensor in unbroken.network.items():
        assert torch.equal(tensor, resumed.network[name]), name
    assert unbroken.history[-1].loss == resumed.history[-1].loss


def test_divergence_is_named():
    about = Settings(network="segrefiner", options=options_of("segrefiner")(**SMALL), crop=32, batch=1, epochs=1)
    with pytest.raises(DivergedError, match="not finite"):
        list(fit(small(), maps(2, 1), maps(1, 2), replace(about, steps=3, rate=1e30)))


@pytest.mark.slow
def test_it_learns_to_follow_the_image_and_other_borders_of_windows_give_the_same_mask():
    network, hold = small(width=8), maps(4, 2, side=128)
    options = options_of("segrefiner")(**SMALL | {"width": 8})
    about = Settings(network="segrefiner", options=options, crop=64, batch=8, epochs=2, steps=30, rate=2e-3)
    for _, reached in fit(network, maps(8, 1, side=128), hold, about):
        state = reached
    assert state.best_iou > 0.95 > pooled_iou(base_counts(hold))
    network.load_state_dict(state.best)
    rows = [np.concatenate([[m.logits, *m.image] for m in (hold * 2)[n : n + 4]], axis=2) for n in range(4)]
    logits, *image = np.concatenate(rows, axis=1)
    for network.windows_only in (False, True):
        refiner = refiner_of(TorchRunner(network))
        masks = [cut(refine_map(logits, refiner, image=np.stack(image), shift=shift), 0.5) for shift in (0, 64)]
        assert np.mean(masks[0] != masks[1]) < 1e-3


# In files.


def test_export_gives_what_torch_gives(tmp_path):
    export(small(), tmp_path, card={})
    onnx = load_refiner(find_weights(str(tmp_path)), device="cpu", threads=1)
    tensors = load_refiner(find_tensors(str(tmp_path)), device="cpu")
    assert onnx.needs == tensors.needs
    assert (onnx.needs.side, onnx.needs.overview, onnx.needs.bands, onnx.needs.padding) == (256, 256, 3, "mirror")
    (one,) = maps(1, 4)
    one.logits[3:9, 3:9] = np.nan
    one.image[:, 20:30] = np.nan
    found = refine_map(one.logits, onnx, image=one.image)
    np.testing.assert_allclose(found, refine_map(one.logits, tensors, image=one.image), atol=1e-4)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(one.logits))


def test_without_an_image_or_the_pass_over_the_whole_map():
    network = build("segrefiner", options_of("segrefiner")(**SMALL, windows_only=True), seed=0)
    refiner = refiner_of(TorchRunner(network))
    assert (refiner.needs.overview, refiner.needs.bands) == (0, 0)
    (one,) = maps(1, 4)
    assert np.isfinite(refine_map(one.logits, refiner)).all()


def test_the_commands_train_it_and_refine_here_and_on_dask(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("logits", "labels", "images"):
        Path(name).mkdir()
    for one in maps(2, 1):
        np.save(f"logits/{one.name}.npy", one.logits)
        np.save(f"images/{one.name}.npy", one.image)
        Image.fromarray(one.label * np.uint8(255)).save(f"labels/{one.name}.png")
    line = ["train", "--network", "segrefiner", "--images", "images", "--width", "4", "--chain-steps", "2"]
    line += ["--crop", "64", "--batch", "2", "--epochs", "1", "--steps", "1", "--threads", "1", "-q"]
    assert app.run(line) == 0, capsys.readouterr().err
    assert app.run([*line[:5], "-o", "odd", "--width", "6"]) == 2
    assert "multiple of 4" in capsys.readouterr().err
    refine = ["refine", "logits", "-w", "run", "--images", "images", "--strength", "1", "-q"]
    assert app.run([*refine, "-o", "here"]) == 0, capsys.readouterr().err
    pytest.importorskip("distributed")
    assert app.run([*refine, "-o", "there", "--dask", "local:1"]) == 0, capsys.readouterr().err
    for path in Path("here").glob("*.png"):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(f"there/{path.name}")))
