"""What the first call gains, without labels and with a few: thresholds over many pairs of a set and a base model.

    python bench/first_call.py --logits DIR [DIR ...] --cache /tmp/first-call [--fit]

Every folder of DIR that holds `train/` and `test/`, each with `logits/` and `labels/`, is a pair, as
`../shared/tools/make_logits.py` and `make_base_models.py` write them. The set is the first word of its name.

Rows without labels see the logits of the test split alone. What they know of other base models was fitted to the
training splits of the other sets (leave one set out). Rows with K labelled maps draw them from the training split, with
several seeds; *calibrated* ones then decide on the test split, as `prn refine` does. Changes are to a threshold of 0.5,
in points of IoU, on the test split; the intervals are of a bootstrap over sets. `--fit` prints the constants of
`prn_cli/thresholding/calibration.py`, fitted to the training splits of all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import machine, markdown
from numpy.typing import NDArray
from PIL import Image

from prn_cli.maps.probabilities import logit, sigmoid
from prn_cli.metrics.intervals import bootstrap
from prn_cli.thresholding.calibration import Calibration, Fit, describe, expect, learn, scale_of
from prn_cli.thresholding.decision import cut_of, decide, decide_by_labels, expected_scores, gather
from prn_cli.thresholding.logit_statistics import BINS, CENTRES, LogitStatistics, count_logits, measure_steepness

HALF = BINS // 2
AS_THEY_ARE = Calibration(np.zeros(2), np.zeros((2, 2)))
PROBABILITIES = 1 / (1 + np.exp(-CENTRES))
SHOTS = (1, 2, 5, 10)
EVERYTHING = 10_000
RIDGE = 3.0
LEAST, MOST = np.array([-0.7, -2.2]), np.array([1.2, 1.0])
"""Log slopes and shifts that the fit learns from are held between these: beyond, they say nothing of thresholds."""


@dataclass(frozen=True)
class Split:
    """Maps of one split of a pair.

    Attributes:
        counts: `(maps, 2, BINS)` background and foreground by logit.
        cells: `(maps, LEVELS)`, see `LogitStatistics`.
        steepness: `(maps, LEVELS)`.
        ranked: `(maps, 2)` false and true positives of RankSEG.
    """

    counts: NDArray[np.int64]
    cells: NDArray[np.int64]
    steepness: NDArray[np.int64]
    ranked: NDArray[np.int64]

    def statistics(self) -> LogitStatistics:
        """Of all maps together."""
        return LogitStatistics(self.counts.sum(axis=(0, 1)), self.cells.sum(axis=0), self.steepness.sum(axis=0))

    @classmethod
    def of(cls, rows: list[tuple[NDArray[np.int64], ...]]) -> Split:
        """Of what was measured of each map, in the order of the attributes."""
        return cls(*(np.stack(column) for column in zip(*rows, strict=True)))


@dataclass(frozen=True)
class Pair:
    """A set and a base model."""

    name: str
    train: Split
    test: Split

    @property
    def set(self) -> str:
        """The set of images: the first word of the name."""
        return self.name.split("_")[0]


def read(path: Path) -> NDArray[np.float32]:
    """A logit map; probabilities of a PNG become logits."""
    if path.suffix == ".npy":
        return np.load(path).astype(np.float32)
    if path.suffix == ".tif":
        import tifffile

        return tifffile.imread(path).astype(np.float32)
    return logit(np.asarray(Image.open(path)).astype(np.float32) / 255)


def ranked(logits: NDArray[np.float32], label: NDArray[np.bool_]) -> tuple[int, int]:
    """False and true positives of RankSEG (PyPI) as it comes, for IoU, on one image."""
    import torch
    from rankseg import RankSEG

    valid = ~np.isnan(logits)
    probabilities = torch.from_numpy(sigmoid(logits[valid]))[None, None]
    mask = RankSEG(metric="IoU", output_mode="multilabel").predict(probabilities)[0, 0].numpy()
    hits = int((mask & label[valid]).sum())
    return int(mask.sum()) - hits, hits


def labelled(folder: Path, stem: str) -> NDArray[np.bool_]:
    """The foreground of a label."""
    return np.asarray(Image.open(folder / "labels" / f"{stem}.png")) > 127


def by_side(logits: NDArray[np.float32], label: NDArray[np.bool_]) -> NDArray[np.int64]:
    """`(2, BINS)` background and foreground by logit."""
    return np.stack([count_logits(logits[label == side]) for side in (False, True)])


def measured(folder: Path) -> Split:
    """Read a split."""
    rows = []
    for path in sorted((folder / "logits").iterdir()):
        logits, label = read(path), labelled(folder, path.stem)
        rows.append((by_side(logits, label), *measure_steepness(logits), np.array(ranked(logits, label))))
    return Split.of(rows)


def folders_of(parents: list[Path]) -> Iterator[Path]:
    """The folders of all pairs."""
    for folder in sorted(child for parent in parents for child in parent.iterdir()):
        if (folder / "test" / "logits").is_dir() and "multiclass" not in folder.name:
            yield folder


def pairs(folders: list[Path], cache: Path) -> Iterator[Pair]:
    """Read all pairs, unless that was done before."""
    cache.mkdir(parents=True, exist_ok=True)
    for folder in folders_of(folders):
        splits = []
        for name in ("train", "test"):
            file = cache / f"{folder.name}.{name}.npz"
            if not file.exists():
                print(folder.name, name, file=sys.stderr, flush=True)
                np.savez_compressed(file, **vars(measured(folder / name)))
            splits.append(Split(**np.load(file)))
        yield Pair(folder.name, *splits)


def platt(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Log slope and shift of the logits `(2, BINS)`, by maximum likelihood, held to what is usual."""
    loose = Calibration(np.zeros(2), 100 * np.eye(2))
    return np.clip(learn(loose, [counts], weight=float(counts.sum())).mean, LEAST, MOST)


def fitted(some: list[Pair]) -> Fit:
    """Fit calibrations to features over pairs; their covariance is of sets left out."""
    every = [pair.train.statistics() for pair in some]
    scales = np.array([scale_of(statistics) for statistics in every])
    features = np.array([describe(*each) for each in zip(every, scales, strict=True)])
    targets = np.array([platt(pair.train.counts.sum(axis=0)) for pair in some])
    targets[:, 0] -= np.log(scales)
    sets = np.array([pair.set for pair in some])
    centre = np.median(features, axis=0)
    spread = 1.4826 * np.median(np.abs(features - centre), axis=0)
    standard = np.clip((features - centre) / spread, -3, 3)

    def regression(of: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        x, y = standard[of], targets[of]
        x0, y0 = x.mean(axis=0), y.mean(axis=0)
        weights = np.linalg.solve((x - x0).T @ (x - x0) + RIDGE * np.eye(x.shape[1]), (x - x0).T @ (y - y0))
        return weights, y0 - x0 @ weights

    residuals = []
    for name in np.unique(sets):
        weights, mean = regression(sets != name)
        residuals.append(targets[sets == name] - standard[sets == name] @ weights - mean)
    left = np.concatenate(residuals)
    weights, mean = regression(np.ones(len(some), np.bool_))
    parts = (centre, spread, weights.T, mean, left.T @ left / len(left))
    return Fit(*(_tuples(np.round(part, 3)) for part in parts))


def _tuples(array: NDArray[np.float64]) -> tuple:
    return tuple(map(_tuples, array)) if array.ndim > 1 else tuple(map(float, array))


class Scorer:
    """IoU of the test maps of a pair, cut at bins."""

    def __init__(self, split: Split) -> None:
        above = np.concatenate([split.counts[..., ::-1].cumsum(-1)[..., ::-1], 0 * split.counts[..., :1]], axis=-1)
        self.false, self.true = above[:, 0], above[:, 1]
        self._images = np.arange(len(above))
        self._base = self._ious(self.false[:, HALF], self.true[:, HALF])

    def _ious(self, false: NDArray[np.int64], true: NDArray[np.int64]) -> NDArray[np.float64]:
        """Pooled and mean IoU."""
        union = self.true[:, 0] + false
        single = np.where(union == 0, 1.0, true / np.maximum(union, 1))
        return np.array([true.sum() / max(union.sum(), 1), single.mean()])

    def change(self, cuts: int | NDArray[np.intp]) -> NDArray[np.float64]:
        """Change of pooled and mean IoU, in points, of one cut or of one an image."""
        cuts = np.broadcast_to(cuts, self._images.shape)
        return self.of_counts(self.false[self._images, cuts], self.true[self._images, cuts])

    def of_counts(self, false: NDArray[np.int64], true: NDArray[np.int64]) -> NDArray[np.float64]:
        """The same of masks whose pixels were counted."""
        return 100 * (self._ious(false, true) - self._base)

    def best(self) -> int:
        """The cut of the greatest pooled IoU."""
        return int((self.true.sum(0) / np.maximum(self.true[:, 0].sum() + self.false.sum(0), 1)).argmax())


def half_way(*cuts: int) -> int:
    """Between the mean of the cuts and 0.5."""
    return round((float(np.mean(cuts)) + HALF) / 2)


def drawn(split: Split, shots: int, seed: int) -> Split:
    """Some of the maps."""
    order = np.random.default_rng(seed).permutation(len(split.counts))[:shots]
    return Split(**{name: values[order] for name, values in vars(split).items()})


def changes(pair: Pair, fit: Fit, seeds: int) -> dict[str, NDArray[np.float64]]:
    """Change of pooled and mean IoU `(2,)` by row, or `(seeds, 2)` for rows with labels."""
    scorer, statistics = Scorer(pair.test), pair.test.statistics()
    images = pair.test.counts.sum(axis=1)
    of_set = int(expected_scores(statistics.counts, PROBABILITIES).argmax())
    of_images = [int(expected_scores(counts, PROBABILITIES).argmax()) for counts in images]
    prior = expect(statistics, fit)
    rows = {
        "0.5": np.zeros(2),
        "RankSEG, as it comes": scorer.of_counts(*pair.test.ranked.T),
        "expected IoU: set": scorer.change(of_set),
        "expected IoU: image": scorer.change(np.array(of_images)),
        "expected IoU: mixed, half way": scorer.change(np.array([half_way(of_set, cut) for cut in of_images])),
        "`--threshold auto`": scorer.change(cut_of(decide(statistics.counts, prior).threshold)),
        "`--threshold auto --per-image`": scorer.change(cuts_of_images(images, statistics, prior)),
    }
    for shots in (*SHOTS, EVERYTHING):
        what = "all labelled maps" if shots == EVERYTHING else f"{shots} labelled map{'s' * (shots > 1)}"
        draws = [drawn(pair.train, shots, seed) for seed in range(1 if shots == EVERYTHING else seeds)]
        rows[f"tuned on {what}"] = np.array([scorer.change(Scorer(draw).best()) for draw in draws])
        known = [gather(draw.counts, draw.statistics(), fit=fit) for draw in draws]
        decisions = [decide(statistics.counts, prior, evidence=evidence) for evidence in known]
        if shots >= 10:
            rows[f"surely better on {what}"] = np.array(
                [scorer.change(cut_of(decide_by_labels(draw.counts, draw.statistics()).threshold)) for draw in draws]
            )
        rows[f"calibrated on {what}"] = np.array([scorer.change(cut_of(d.threshold)) for d in decisions])
    return rows | {"oracle: best threshold": scorer.change(scorer.best())}


def over_sets(values: NDArray[np.float64], sets: NDArray[np.str_]) -> str:
    """Mean over pairs, with an interval over sets."""
    of = np.array([[values[sets == name].sum(), (sets == name).sum()] for name in np.unique(sets)])
    mean, low, high = bootstrap(lambda w: (w @ of[:, :1]) / (w @ of[:, 1:]), len(of))
    return f"{mean[0]:+.2f} [{low[0]:+.2f}, {high[0]:+.2f}]"


def table(results: dict[str, dict[str, NDArray[np.float64]]]) -> str:
    """A row a method: means over pairs, how many lose, the worst."""
    sets = np.array([name.split("_")[0] for name in results])
    lines = []
    for row in next(iter(results.values())):
        every = [np.atleast_2d(of_pair[row]) for of_pair in results.values()]
        means = np.array([changes.mean(axis=0) for changes in every])
        pooled = np.concatenate(every)[:, 0]
        worst = f"{pooled.min():+.1f}"
        lost = [f"{100 * (pooled < -least).mean():.0f} %" for least in (0.2, 1.0)]
        lines.append([row, over_sets(means[:, 0], sets), over_sets(means[:, 1], sets), *lost, worst])
    return markdown(["threshold", "pooled IoU [95 %]", "mean IoU [95 %]", "lose > 0.2", "lose > 1", "worst"], lines)


def by_pair(results: dict[str, dict[str, NDArray[np.float64]]]) -> str:
    """A row a pair: pooled and mean change of the rows that matter most."""
    columns = ("RankSEG, as it comes", "expected IoU: set", "`--threshold auto`", "calibrated on 5 labelled maps")

    def cell(values: NDArray[np.float64]) -> str:
        return "{:+.1f}, {:+.1f}".format(*np.atleast_2d(values).mean(axis=0))

    rows = [[name, *(cell(result[column]) for column in columns)] for name, result in results.items()]
    return markdown(["pair", *columns], rows)


def fits_without(every: list[Pair]) -> dict[str, Fit]:
    """By set, a fit to the other ones."""
    return {name: fitted([pair for pair in every if pair.set != name]) for name in {pair.set for pair in every}}


def cuts_of_images(images: NDArray[np.int64], statistics: LogitStatistics, prior: Calibration) -> NDArray[np.intp]:
    """The cut of each image, as `--per-image` makes it, by its counts and the statistics of its set."""
    thresholds = (decide(counts, prior, of_set=statistics.counts).threshold for counts in images)
    return np.array([cut_of(threshold) for threshold in thresholds])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logits", type=Path, nargs="+", required=True, help="folders of pairs")
    parser.add_argument("--cache", type=Path, required=True, help="folder for what was measured; reused")
    parser.add_argument("--seeds", type=int, default=5, help="draws of labelled maps")
    parser.add_argument("--fit", action="store_true", help="print the constants of calibration.py, and stop")
    parser.add_argument("--by-pair", action="store_true", help="print a row a pair, too")
    parser.add_argument("--out", type=Path, help="write the tables here, too")
    arguments = parser.parse_args()
    every = list(pairs(arguments.logits, arguments.cache))
    if arguments.fit:
        print(fitted(every))
        return
    fits = fits_without(every)
    results = {pair.name: changes(pair, fits[pair.set], arguments.seeds) for pair in every}
    text = f"{table(results)}\n\n{len(every)} pairs of {len({pair.set for pair in every})} sets; {machine()}."
    if arguments.by_pair:
        text = f"{text}\n\n{by_pair(results)}"
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
