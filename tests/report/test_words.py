"""What a page says: in plain words, with no figure that misleads, and nothing of the machine it was made on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prn_cli.commands.score import _value
from prn_cli.metrics.intervals import Estimate, verdict
from prn_cli.metrics.score import METRICS, Figure, Summary
from prn_cli.report.curves import LEAST_BIAS, bias_reach, position_maps
from prn_cli.report.glimpses import Prediction, Seen, Viewer
from prn_cli.report.headroom import Choice, _rows
from prn_cli.report.page import number, place, points, unplaced
from prn_cli.report.scored import Scored, _headline
from prn_cli.report.totals import Totals
from prn_cli.thresholding.pseudolabels import Headroom, count_curve, make_pseudolabels


def test_nothing_has_no_sign():
    assert (number(-0.00001), number(-0.0, sign=True), number(0.00001, sign=True)) == ("0.0000", "0.0000", "0.0000")
    assert (points(-0.00001), points(-0.01)) == ("0.00", "−1.00")
    assert (_value(Estimate(-1e-6, -1e-6, 0), sign="+"), _value(Estimate(-0.01, 0, 0))) == ("+0.0000", "-0.0100")


def test_a_change_that_cannot_be_seen_is_no_verdict():
    assert verdict(Estimate(-2e-5, -3e-5, -1e-5), lower_is_better=True) == ""
    assert verdict(Estimate(-2e-3, -3e-3, -1e-3), lower_is_better=True) == "better"


@pytest.mark.parametrize(("size", "reach"), [(0.01, LEAST_BIAS), (3.0, 3.0)])
def test_a_tiny_bias_is_painted_pale(size, reach):
    totals = Totals()
    viewer = Viewer("a", 64, 64)
    mask = Prediction(np.zeros((64, 64), np.uint8))
    viewer.add(0, Seen(mask.mask, mask, mask), bias=np.full((64, 64), size, np.float32))
    totals.add(viewer.finish(), None, None)
    assert bias_reach(totals) == reach
    darkest = {colour for row in position_maps(totals, cut=0.5)[0].cells for colour, _ in row}
    assert ("#00441b" in darkest) == (size >= reach)


def test_paths_are_those_of_the_working_folder_or_two_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert place("logits") == "logits"
    assert place(str(tmp_path / "set" / "logits")) == str(Path("set/logits"))
    assert place("/data/of/somebody/logits") == str(Path("…/somebody/logits"))
    assert unplaced("/home/some one/a.tif: 5×6 pixels, expected 7×8 as in /home/some one/b.png; see docs/gpu.md") == (
        "a.tif: 5×6 pixels, expected 7×8 as in b.png; see docs/gpu.md"
    )


def test_images_without_foreground_do_not_decide_the_mean():
    """One image has foreground; the base is wrong by a pixel on three others, where any oracle has an IoU of 1."""
    rows, columns = np.mgrid[:64, :64]
    scores = (1 / (1 + np.exp(np.hypot(rows - 30, columns - 30) - 20.0))).astype(np.float32)
    pairs = [(scores, (np.hypot(rows - 30, columns - 30) < 17).astype(np.uint8))]
    pairs += 3 * [((np.arange(4096).reshape(64, 64) == 7).astype(np.float32), np.zeros((64, 64), np.uint8))]
    headroom, choices = Headroom(), []
    for probabilities, label in pairs:
        headroom.add(count_curve(probabilities, label), make_pseudolabels(probabilities, label, patch=64).counts)
        choice = Choice.start(64)
        choice.add(probabilities, label, grid="paper")
        choices.append(choice)
    assert (headroom.images, headroom.with_foreground) == (4, 1)
    alone = Headroom()
    alone.add(count_curve(*pairs[0]), make_pseudolabels(*pairs[0], patch=64).counts)
    assert headroom.at(0.5).mean == alone.at(0.5).mean > 0
    assert headroom.oracle().mean == alone.oracle().mean
    assert headroom.oracle().pooled == alone.oracle().pooled
    rows_of_page = _rows(choices, pool=False)
    assert rows_of_page[0].figure.value == pytest.approx(alone.at(0.5).mean)
    assert next(row for row in rows_of_page if "64 px" in row.title).figure.value == pytest.approx(alone.oracle().mean)


def test_with_no_foreground_at_all_there_still_is_a_mean():
    headroom = Headroom()
    empty = np.zeros((32, 32), np.uint8)
    scores = np.full((32, 32), 0.2, np.float32)
    headroom.add(count_curve(scores, empty), make_pseudolabels(scores, empty, patch=32).counts)
    assert (headroom.with_foreground, headroom.at(0.5).mean, headroom.at(0.1).mean) == (0, 1.0, 0.0)


UP, EVEN, DOWN = Estimate(0.02, 0.01, 0.03), Estimate(0.0, -0.01, 0.01), Estimate(-0.02, -0.03, -0.01)


@pytest.mark.parametrize(
    ("pooled", "mean", "said"),
    [
        (
            (UP, EVEN),
            (UP, EVEN),
            "The refined masks are better than the base's. They are about as good as the base's at 0.4.",
        ),
        (
            (UP, UP),
            (DOWN, UP),
            "Over all pixels, the refined masks are better than the base's; image by image, they are worse than them "
            "on average. They are better than the base's at 0.4.",
        ),
        ((EVEN, None), (EVEN, None), "The refined masks are about as good as the base's."),
    ],
)
def test_the_headline_is_a_sentence_or_two(pooled, mean, said):
    def figures(difference, added):
        return {METRICS[0].name: Figure(UP, UP, difference, None if added is None else UP, added, images=9)}

    summary = Summary(9, 100, figures(*mean), figures(*pooled), 100, 0.95, 0)
    what = Scored("masks", "labels", "logits", "masks", "logits cut at 0.5", 0.5, own="0.4")
    assert _headline(summary, METRICS[0], what) == said
    if pooled[1] is not None:
        assert _headline(summary, METRICS[0], replace(what, is_own=True)).endswith(
            " They are the base's at 0.4: no network has changed them."
        )
