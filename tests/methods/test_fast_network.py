"""The default network: identity at the start, blind to invalid pixels, the same in a window as in the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from prn_cli.methods import refiner_of
from prn_cli.methods.fast.cells import BilinearUp, box_mean
from prn_cli.methods.fast.network import FastNetwork
from prn_cli.methods.torch_runner import TorchRunner
from prn_cli.refinement.rows import refine_map


def trained_like(seed: int = 0) -> FastNetwork:
    """A network whose heads are no longer zero."""
    torch.manual_seed(seed)
    network = FastNetwork(width=8).eval()
    for head in (network.global_head, network.local_head):
        torch.nn.init.normal_(head.weight, std=0.5)
    return network


@torch.no_grad()
def test_untrained_is_the_identity() -> None:
    logits = torch.randn(2, 1, 64, 48) * 5
    network = FastNetwork().eval()
    assert torch.equal(network(logits), logits)
    assert all(torch.equal(path, logits) for path in network.supervised(logits)[:2])


@torch.no_grad()
def test_what_invalid_pixels_hold_never_matters() -> None:
    network = trained_like()
    logits = torch.randn(1, 1, 64, 64)
    logits[..., 20:30, 10:40] = torch.nan
    bias = network.bias(logits)
    assert torch.isfinite(bias).all()
    assert torch.equal(torch.isnan(network(logits)), torch.isnan(logits))
    assert not torch.allclose(bias, network.bias(torch.nan_to_num(logits)))  # the network is told what is invalid


@torch.no_grad()
def test_both_paths_take_the_training_signal_and_add_up() -> None:
    network = trained_like()
    logits = torch.randn(1, 1, 64, 64)
    smooth, fine, _ = network.biases(logits)
    first, both, _ = network.supervised(logits)
    assert torch.allclose(first, logits + smooth)
    assert torch.allclose(both, logits + smooth + fine)
    assert torch.allclose(network(logits), both)


@torch.no_grad()
def test_a_window_with_enough_halo_gives_what_the_whole_map_gives() -> None:
    network = trained_like()
    logits = torch.randn(1, 1, 1024, 1024)
    whole = network.bias(logits)
    window = network.bias(logits[..., 256:768, 256:768])
    inner = (whole[..., 496:528, 496:528] - window[..., 240:272, 240:272]).abs().max()
    assert inner < 1e-4 * whole.abs().max()


@torch.no_grad()
@pytest.mark.parametrize(("halo", "enough"), [(FastNetwork.halo, True), (16, False)])
def test_the_halo_is_what_windows_need(halo: int, enough: bool) -> None:
    """Of a map's bias, windows give all but a hundredth of its spread; with less of a halo, they do not."""
    network = FastNetwork(width=8).eval()
    torch.manual_seed(0)
    for head, std in ((network.global_head, 5.0), (network.local_head, 0.5)):
        torch.nn.init.normal_(head.weight, std=std)
    network.halo = halo
    rough = np.random.default_rng(0).normal(size=(800, 1200))
    logits = (gaussian_filter(rough, 12) * 80).astype(np.float32)
    refiner = refiner_of(TorchRunner(network))
    whole, tiled = (refine_map(logits, refiner, tile=tile) for tile in (2048, 512))
    assert (np.abs(tiled - whole).max() < 0.01 * np.std(whole - logits)) is np.bool_(enough)


def test_box_mean_is_a_mean_over_the_counted_cells() -> None:
    random = np.random.default_rng(1)
    x, weight = random.random((7, 9)), (random.random((7, 9)) > 0.4).astype(float)
    mean = box_mean(torch.tensor(x)[None, None], torch.tensor(weight)[None, None], 5)[0, 0].numpy()
    for i in range(7):
        for j in range(9):
            rows, columns = slice(max(i - 2, 0), i + 3), slice(max(j - 2, 0), j + 3)
            counted = weight[rows, columns].sum()
            expected = (x * weight)[rows, columns].sum() / counted if counted else 0
            assert abs(mean[i, j] - expected) < 5e-3


@torch.no_grad()
def test_keeping_the_level_takes_a_shift_of_all_scores_out_again() -> None:
    network = FastNetwork(width=8, keep_level=True).eval()
    logits = torch.randn(1, 1, 160, 160) * 3
    logits[..., :40, :70] = torch.nan
    assert torch.equal(network(logits).nan_to_num(), logits.nan_to_num())
    torch.nn.init.constant_(network.global_head.bias, 1.5)
    torch.nn.init.constant_(network.local_head.bias, -0.5)
    valid = torch.isfinite(logits)
    assert network.bias(logits)[valid].abs().max() < 0.02
    torch.nn.init.normal_(network.local_head.weight, std=0.5)
    assert network.bias(logits)[valid].abs().max() > 0.1


def test_the_fast_upsampling_is_bilinear_interpolation() -> None:
    x = torch.randn(2, 1, 5, 7)
    expected = torch.nn.functional.interpolate(x, scale_factor=16.0, mode="bilinear", align_corners=False)
    assert torch.allclose(BilinearUp(16)(x), expected, atol=1e-6)


@pytest.mark.filterwarnings("error")
def test_maps_that_cannot_be_written_to_are_refined_as_others() -> None:
    logits = np.random.default_rng(0).standard_normal((64, 80)).astype(np.float32)
    refiner = refiner_of(TorchRunner(FastNetwork()))
    expected = refine_map(logits, refiner)
    logits.flags.writeable = False
    for given in (logits, logits.astype(">f4"), logits.astype(np.float64), logits[::-1].copy()[::-1]):
        np.testing.assert_array_equal(refine_map(given, refiner), expected)
