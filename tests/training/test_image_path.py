"""The network with an image beside the logits; and without one, exactly what it was."""

from __future__ import annotations

import onnx
import torch

from prn_cli.training.export import describe, to_onnx
from prn_cli.training.networks import build, from_description
from prn_cli.training.networks.fast import FastNetwork


def trained_like() -> FastNetwork:
    torch.manual_seed(0)
    network = FastNetwork(width=8, image_channels=3).eval()
    assert network.image_path is not None
    network.image_path.set_statistics((100, 50, 0), (20, 10, 1))
    for layer in (network.global_head, network.local_head, network.image_path.out):
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
    assert all(name.startswith("image_path.") for name in guided.state_dict().keys() - plain.state_dict().keys())
    x = planes()
    assert torch.equal(guided.eval()(x), x[:, :1])
    torch.nn.init.normal_(plain.local_head.weight)
    guided.local_head.load_state_dict(plain.local_head.state_dict())
    assert torch.equal(guided.bias(x), plain.eval().bias(x[:, :1]))  # the image says nothing yet


@torch.no_grad()
def test_the_image_matters_and_its_invalid_pixels_count_as_the_centre() -> None:
    network = trained_like()
    x = planes()
    bias = network.bias(x)
    assert bias.shape == (1, 1, 64, 64)
    other = x.clone()
    other[:, 2, 20:40] += 9
    assert not torch.allclose(network.bias(other), bias)
    x[:, 1:, 10:30] = torch.nan
    known = x.clone()
    known[:, 1:, 10:30] = torch.tensor([100.0, 50, 0]).reshape(3, 1, 1)
    assert torch.equal(network.bias(x), network.bias(known))
    assert torch.equal(network(x)[:, 0], x[:, 0] + network.bias(x)[:, 0])


@torch.no_grad()
def test_scale_and_offset_of_the_image_are_those_of_the_statistics() -> None:
    network = trained_like()
    x = planes()
    bias = network.bias(x)
    assert network.image_path is not None
    x[:, 1:] = x[:, 1:] * 257 - 1000
    network.image_path.set_statistics(tuple(v * 257 - 1000 for v in (100, 50, 0)), tuple(v * 257 for v in (20, 10, 1)))
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
