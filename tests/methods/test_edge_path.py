"""The network with an image beside the logits; and without one, exactly what it was."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from scipy.ndimage import uniform_filter

from prn_cli.errors import InputError
from prn_cli.methods.fast.edges import EdgePath
from prn_cli.methods.fast.network import FastNetwork
from prn_cli.methods.recipe import build, describe, from_description
from prn_cli.methods.torch_runner import load_network
from prn_cli.training.export import export, to_onnx


def trained_like() -> FastNetwork:
    torch.manual_seed(0)
    network = FastNetwork(width=8, image_channels=3).eval()
    assert network.edge_path is not None
    network.edge_path.set_statistics((100, 50, 0), (20, 10, 1))
    for layer in (network.global_head, network.local_head, network.edge_path.head):
        torch.nn.init.normal_(layer.weight, std=0.5)
    return network


def planes(height: int = 64, width: int = 64) -> torch.Tensor:
    scale = torch.tensor([1, 20, 10, 1]).reshape(4, 1, 1)
    return torch.randn(1, 4, height, width) * scale + torch.tensor([0, 100, 50, 0]).reshape(4, 1, 1)


@torch.no_grad()
def test_untrained_it_is_the_identity_and_begins_with_the_weights_that_it_has_without_an_image() -> None:
    torch.manual_seed(3)
    plain = FastNetwork()
    torch.manual_seed(3)
    guided = FastNetwork(image_channels=3)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, guided.state_dict()[name])
    more = guided.state_dict().keys() - plain.state_dict().keys()
    assert {name.split(".")[0] for name in more} == {"edge_path"}
    x = planes()
    assert torch.equal(guided.eval()(x), x[:, :1])
    torch.nn.init.normal_(plain.local_head.weight)
    guided.local_head.load_state_dict(plain.local_head.state_dict())
    assert torch.equal(guided.bias(x), plain.eval().bias(x[:, :1]))  # the image says nothing yet


@torch.no_grad()
def test_the_image_matters() -> None:
    network = trained_like()
    x = planes()
    bias = network.bias(x)
    assert bias.shape == (1, 1, 64, 64)
    other = x.clone()
    other[:, 2, 20:40] += 9
    assert not torch.allclose(network.bias(other), bias)
    assert torch.equal(network(x)[:, 0], x[:, 0] + network.bias(x)[:, 0])


@torch.no_grad()
def test_scale_and_offset_of_the_image_are_those_of_the_statistics() -> None:
    network = trained_like()
    x = planes()
    bias = network.bias(x)
    assert network.edge_path is not None
    x[:, 1:] = x[:, 1:] * 257 - 1000
    network.edge_path.set_statistics(tuple(v * 257 - 1000 for v in (100, 50, 0)), tuple(v * 257 for v in (20, 10, 1)))
    torch.testing.assert_close(network.bias(x), bias, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_the_description_builds_it_again_and_says_what_the_image_is() -> None:
    network = trained_like()
    description = describe(network)
    assert description["prn.image_channels"] == "3"
    assert description["prn.image_mean"] == "100 50 0"
    assert description["prn.image_std"] == "20 10 1"
    again = from_description(description)
    again.load_state_dict(network.state_dict())
    x = planes()
    assert torch.equal(again.eval()(x), network(x))
    assert not any("image" in key for key in describe(build("fast")))


def test_the_exported_model_has_two_inputs_and_without_an_image_one() -> None:
    for network, inputs in ((trained_like(), ["logits", "image"]), (build("fast"), ["logits"])):
        model = onnx.load_from_string(to_onnx(network))
        assert [node.name for node in model.graph.input] == inputs
        assert ("prn.image_channels" in {entry.key for entry in model.metadata_props}) == (len(inputs) == 2)


def edge_path(*shares: float, channels: int = 3) -> EdgePath:
    """A path that takes these shares of its boxes everywhere."""
    path = EdgePath(channels, width=4).eval()
    path.head.bias.data[:] = torch.tensor(shares)
    return path


@torch.no_grad()
def test_the_edge_path_is_the_fast_guided_filter() -> None:
    torch.manual_seed(1)
    side = EdgePath.BOXES[1]
    # Steps of whole cells, so that a fit at 1/4 of the resolution is one of pixels.
    guide, score = (torch.rand(1, 1, 24, 24).sub(0.5).repeat_interleave(4, 2).repeat_interleave(4, 3) for _ in range(2))
    image = torch.cat([guide - 0.2, guide + 0.2], 1)
    found = edge_path(0, 0.25, channels=2)(torch.zeros(1, 4, 24, 24), image, score, torch.ones_like(score))
    g, s = (plane[0, 0, ::4, ::4].double().numpy() for plane in (guide, score))

    def mean(values: np.ndarray) -> np.ndarray:
        return uniform_filter(values, side)

    slope = (mean(g * s) - mean(g) * mean(s)) / (mean(g * g) - mean(g) ** 2 + EdgePath.SMOOTHNESS)
    offset = mean(s) - slope * mean(g)
    inner = (slice(side, -side),) * 2  # away from the map's borders, where the oracle mirrors

    def to_pixels(cells: np.ndarray) -> torch.Tensor:
        return torch.nn.functional.interpolate(
            torch.from_numpy(cells)[None, None], scale_factor=4.0, mode="bilinear", align_corners=False
        )

    filtered = to_pixels(mean(slope)) * guide + to_pixels(mean(offset))
    at = (..., *(slice(4 * side, -4 * side),) * 2)
    torch.testing.assert_close(found[at].double(), (filtered - score)[at].double(), atol=2e-3, rtol=0)
    assert (filtered - score)[at].abs().mean() > 0.05
    assert slope[inner].std() > 0.05


@torch.no_grad()
def test_edges_of_a_blurred_score_move_onto_those_of_the_image() -> None:
    image = torch.zeros(1, 3, 64, 64)
    image[..., 30:] = 2
    ramp = ((torch.arange(64.0) - 33) / 12).clamp(-1, 1).expand(1, 1, 64, 64)  # its edge lies three pixels off
    added = edge_path(0.25, 0.25)(torch.zeros(1, 4, 16, 16), image, ramp, torch.ones_like(ramp))
    row = (2 * torch.atanh(ramp * 0.999) + 4 * added)[0, 0, 32]
    assert (row[22:30] < 0).all()
    assert (row[30:42] > 0).all()


@torch.no_grad()
def test_the_edge_path_leaves_alone_what_is_invalid_in_score_or_image() -> None:
    torch.manual_seed(2)
    image, score = torch.randn(1, 3, 64, 64), torch.rand(1, 1, 64, 64) * 2 - 1
    weight = torch.ones_like(score)
    weight[..., 20:30, :] = 0
    path, features = edge_path(1, 1), torch.zeros(1, 4, 16, 16)
    found = path(features, image, score, weight)
    assert (found[..., 20:30, :] == 0).all()
    assert (found[..., :20, :] != 0).any()
    image[:, 1, 20:30], score[..., 20:30, :] = torch.nan, -1  # of one band alone
    torch.testing.assert_close(path(features, image, score, torch.ones_like(score)), found)
    x = planes()
    x[:, 2, 10:30] = torch.nan
    assert trained_like().bias(x).isfinite().all()


@torch.no_grad()
def test_the_exported_model_gives_what_the_network_gives() -> None:
    network = trained_like()
    x = planes(96, 112)
    x[:, :1, :9, 20:50] = torch.nan
    x[:, 2, 30:50, 10:90] = torch.nan
    session = onnxruntime.InferenceSession(to_onnx(network), providers=["CPUExecutionProvider"])
    (found,) = session.run(["bias"], {"logits": x[:, :1].numpy(), "image": x[:, 1:].numpy()})
    np.testing.assert_allclose(found, network.bias(x).numpy(), atol=1e-4)


def test_gradients_are_finite_where_the_image_is_not() -> None:
    network = FastNetwork(width=8, image_channels=3)
    x = planes()
    x[:, 1:, 10:30] = torch.nan
    sum(part.square().mean() for part in network.supervised(x)[:2]).backward()
    assert network.edge_path is not None
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    assert network.edge_path.head.weight.grad.abs().sum() > 0


def test_weights_of_before_the_edge_path_are_named(tmp_path) -> None:
    network = trained_like()
    network.register_module("image_path", torch.nn.Conv2d(3, 8, 3))
    export(trained_like(), tmp_path, stem="new", card={})
    load_network(tmp_path / "new.safetensors")
    from safetensors.torch import save_file

    save_file(network.state_dict(), tmp_path / "old.safetensors", metadata={"prn": "{}"})
    with pytest.raises(InputError, match="an earlier prn"):
        load_network(tmp_path / "old.safetensors")
