"""The guided filter against the edge path of `fast`, and by what it is for."""

from __future__ import annotations

import numpy as np
import pytest

from prn_cli.maps.guided import CELL, guided, reach


def scene(height: int = 96, width: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Blurred scores, and an image whose edge is where the object's is."""
    random = np.random.default_rng(seed)
    x = np.arange(width)
    object_ = (x >= 50).astype(np.float32)
    image = np.broadcast_to(2 * object_ - 1, (height, width)) + 0.05 * random.standard_normal((height, width))
    scores = np.broadcast_to(1 / (1 + np.exp(-(x - 55) / 6)), (1, height, width))
    return scores.astype(np.float32).copy(), image[None].astype(np.float32)


@pytest.mark.parametrize("place", [0, 1])
def test_it_is_the_filter_of_the_edge_path(place: int) -> None:
    torch = pytest.importorskip("torch")
    from prn_cli.methods.fast.edges import _REACH, EdgePath

    scores, image = scene()
    path = EdgePath(1, 4)
    shares = torch.zeros(1, 2, scores.shape[1] // CELL, scores.shape[2] // CELL)
    shares[:, place] = 1
    guide, score = (torch.from_numpy(each)[None] for each in (image, scores))
    correction = path._correction(shares, guide, score, torch.ones_like(score))[0].numpy() / _REACH
    found = guided(scores, image, side=EdgePath.BOXES[place], smoothness=EdgePath.SMOOTHNESS)
    np.testing.assert_allclose(found, scores + correction, atol=6e-3)  # it guards against 0 by 1e-4 in places


def test_blurred_scores_get_the_edges_of_the_image() -> None:
    scores, image = scene()
    truth = np.arange(scores.shape[2]) >= 50
    found = guided(scores, image, side=9, smoothness=0.01)
    wrong = [np.mean((each[0] > 0.5) != truth) for each in (scores, found)]
    assert wrong[1] < wrong[0] / 4


def test_colours_tell_apart_what_brightness_does_not() -> None:
    scores, image = scene()
    opposite = np.concatenate((image, -image))  # brightness is the same everywhere
    grey = guided(scores, opposite.mean(axis=0, keepdims=True), side=9, smoothness=0.01)
    colours = guided(scores, opposite, side=9, smoothness=0.01)
    truth = np.arange(scores.shape[2]) >= 50
    assert np.mean((colours[0] > 0.5) != truth) < np.mean((grey[0] > 0.5) != truth) / 4


def test_windows_give_what_the_whole_map_gives() -> None:
    scores, image = scene(130, 70)
    scores[:, 20:50, 10:30] = np.nan
    image[:, 60:70] = np.nan
    whole = guided(scores, image, side=5, smoothness=0.01)
    halo = reach(5)
    for y, end in ((0, 32), (32, 100), (100, 130)):
        top, bottom = max(y - halo, 0), min(end + halo, 130)
        part = guided(scores[:, top:bottom], image[:, top:bottom], side=5, smoothness=0.01)
        np.testing.assert_allclose(part[:, y - top : end - top], whole[:, y:end], atol=1e-5)
    np.testing.assert_array_equal(np.isnan(whole), np.isnan(scores))
    np.testing.assert_array_equal(whole[:, 60:70], scores[:, 60:70])


def test_a_flat_image_smooths_and_an_invalid_one_changes_nothing() -> None:
    scores, image = scene()
    flat = guided(scores, np.zeros_like(image), side=3, smoothness=0.01)
    assert np.abs(np.diff(flat[0], axis=1)).max() < np.abs(np.diff(scores[0], axis=1)).max()
    np.testing.assert_array_equal(guided(scores, np.full_like(image, np.nan), side=3, smoothness=0.01), scores)
    one = guided(scores[:, :1, :1], image[:, :1, :1], side=3, smoothness=0.01)
    np.testing.assert_allclose(one, scores[:, :1, :1], atol=1e-6)
