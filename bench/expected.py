"""The picture of docs/method.md: expected and true IoU over the threshold, for some pairs of a set and a base model.

    python bench/expected.py --logits DIR [DIR ...] --cache /tmp/first-call [--pair NAME ...] [-o docs/expected.png]

Folders and cache are those of `bench/first_call.py`, and so is the fit, which has not seen the pair's set.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from first_call import HALF, PROBABILITIES, Pair, Scorer, fitted, pairs
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from prn_cli.thresholding.calibration import Fit, expect
from prn_cli.thresholding.decision import cut_of, decide, expected_scores
from prn_cli.thresholding.logit_statistics import CENTRES, EDGES

PAIRS = ("vegas_roads_a", "camvid_building_a", "nuclei", "lungs_d")
WIDTH, HEIGHT, GAP, MARGIN, CAPTION = 340, 230, 30, 36, 70
SCALE = 2
INK, PALE, TRUE, EXPECTED, DOUBT = (40, 40, 40), (205, 205, 205), (20, 110, 60), (200, 90, 20), (235, 205, 180)
FIRST, LAST = 0.05, 0.95


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logits", type=Path, nargs="+", required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--pair", nargs="+", default=PAIRS)
    parser.add_argument("-o", "--out", type=Path, default=Path("docs/expected.png"))
    arguments = parser.parse_args()
    every = {pair.name: pair for pair in pairs(arguments.logits, arguments.cache)}
    chosen = [every[name] for name in arguments.pair]
    size = ((WIDTH + GAP) * len(chosen) + MARGIN, HEIGHT + CAPTION + MARGIN)
    picture = Image.new("RGB", (size[0] * SCALE, size[1] * SCALE), "white")
    draw = ImageDraw.Draw(picture)
    for place, pair in enumerate(chosen):
        fit = fitted([other for other in every.values() if other.set != pair.set])
        panel(draw, MARGIN + place * (WIDTH + GAP), pair, fit)
    legend(draw, HEIGHT + CAPTION)
    picture.resize(size, Image.Resampling.LANCZOS).save(arguments.out, optimize=True)


def panel(draw: ImageDraw.ImageDraw, left: int, pair: Pair, fit: Fit) -> None:
    """Curves of one pair."""
    font = ImageFont.load_default(13 * SCALE)
    statistics = pair.test.statistics()
    calibration = expect(statistics, fit)
    points, weights = calibration.samples()
    possible = expected_scores(statistics.counts, 1 / (1 + np.exp(-(points[:, :1] * CENTRES + points[:, 1:]))))
    low, high = (weighted_quantile(possible, weights, q) for q in (0.1, 0.9))
    scorer = Scorer(pair.test)
    union = scorer.true[:, 0].sum() + scorer.false.sum(axis=0)
    curves = {
        EXPECTED: expected_scores(statistics.counts, PROBABILITIES),
        TRUE: scorer.true.sum(axis=0) / np.maximum(union, 1),
    }
    thresholds = 1 / (1 + np.exp(-EDGES))
    inside = np.flatnonzero((thresholds >= FIRST) & (thresholds <= LAST))[::2]
    x = left + (thresholds[inside] - FIRST) / (LAST - FIRST) * WIDTH

    def y(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return CAPTION / 2 + HEIGHT * (1 - np.clip(values, 0, 1))

    for value in (0, 0.25, 0.5, 0.75, 1):
        height = float(y(np.array(value)))
        draw.line(scaled([(left, height), (left + WIDTH, height)]), PALE, SCALE)
        if left == MARGIN:
            draw.text((4 * SCALE, (height - 8) * SCALE), f"{value:g}", INK, font)
    band = [*zip(x, y(high[inside]), strict=True), *reversed(list(zip(x, y(low[inside]), strict=True)))]
    draw.polygon(scaled(band), DOUBT)
    for colour, curve in curves.items():
        draw.line(scaled(zip(x, y(curve[inside]), strict=True)), colour, 3 * SCALE, joint="curve")
    decision = decide(statistics.counts, calibration)
    for threshold, colour in ((0.5, PALE), (decision.threshold, INK)):
        at = left + (threshold - FIRST) / (LAST - FIRST) * WIDTH
        draw.line(scaled([(at, CAPTION / 2), (at, CAPTION / 2 + HEIGHT)]), colour, 2 * SCALE)
    draw.text(((at - 12) * SCALE, (CAPTION / 2 + HEIGHT + 4) * SCALE), f"{decision.threshold:.2f}", INK, font)
    gain = curves[TRUE][cut_of(decision.threshold)] - curves[TRUE][HALF]
    title = f"{pair.name}: expected {100 * decision.gain:+.1f}, true {100 * gain:+.1f} points"
    draw.text((left * SCALE, 8 * SCALE), title, INK, font)


def legend(draw: ImageDraw.ImageDraw, top: int) -> None:
    """What the lines are."""
    font, left = ImageFont.load_default(13 * SCALE), MARGIN
    entries = (
        (TRUE, "true IoU"),
        (EXPECTED, "expected, scores taken as probabilities"),
        (DOUBT, "what it may be (80 %)"),
        (PALE, "0.5"),
        (INK, "chosen threshold"),
    )
    for colour, text in entries:
        draw.line(scaled([(left, top + 12), (left + 24, top + 12)]), colour, 5 * SCALE)
        draw.text(((left + 30) * SCALE, (top + 3) * SCALE), text, INK, font)
        left += 60 + round(draw.textlength(text, font) / SCALE)


def weighted_quantile(values: NDArray[np.float64], weights: NDArray[np.float64], q: float) -> NDArray[np.float64]:
    """Of each column of `(K, B)` values, by weights `(K,)`."""
    order = values.argsort(axis=0)
    reached = weights[order].cumsum(axis=0) >= q
    return np.take_along_axis(values, np.take_along_axis(order, reached.argmax(axis=0)[None], 0), 0)[0]


def scaled(points) -> list[tuple[float, float]]:
    return [(float(x) * SCALE, float(y) * SCALE) for x, y in points]


if __name__ == "__main__":
    main()
