"""What held-out maps say of a training: strength and threshold, figures before and after, and a verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.pixels import IGNORE
from prn_cli.metrics.classes import mean_of_present
from prn_cli.metrics.intervals import compare
from prn_cli.metrics.regions import FloatArray, count_regions, iou
from prn_cli.refinement.rows import cut
from prn_cli.thresholding.decision import Decision, decide_by_labels, gather
from prn_cli.thresholding.logit_statistics import LogitStatistics, count_logits, measure, no_statistics
from prn_cli.thresholding.strength import STRENGTHS, THRESHOLDS, Choice, choose
from prn_cli.training.augment import TrainingMap

Figures = dict[str, dict[str, list[float | None]]]
"""By metric, `before`, `after` and `difference`: each the figure and the bounds of its 95 % interval."""


@dataclass(frozen=True)
class Conclusion:
    """The chosen strength and threshold, their figures on the held-out maps, and a verdict in words."""

    choice: Choice
    figures: Figures
    verdict: str

    def card(self) -> dict[str, Any]:
        """For the card of the weights: JSON without NaN."""
        choice = {
            name: {key: _number(gain) for key, gain in value.items()} if isinstance(value, dict) else _number(value)
            for name, value in asdict(self.choice).items()
        }
        return {"choice": choice, "held_out_figures": self.figures, "verdict": self.verdict}


def conclude(
    counts: NDArray[np.int64],
    maps: Sequence[str],
    *,
    classes: Sequence[str] = ("",),
    scenes: Mapping[str, str] | None = None,
    parts_of: int = 0,
    any_threshold: bool = True,
    seed: int = 0,
) -> Conclusion:
    """Choose strength and threshold on held-out maps, and compute what they gain there.

    Args:
        counts: `(maps, S, T, 4)` int64, see `prn_cli.thresholding.strength.tally`. With several classes, each class
            against the rest: the maps of an image follow each other, in class order.
        maps: names.
        classes: names.
        scenes: by map name.
        parts_of: the number of maps of which these are parts; 0 if they are whole.
        any_threshold: whether the threshold may differ from 0.5.
        seed: of the bootstrap.
    """
    groups = [
        ", ".join(filter(None, ((scenes or {}).get(name, ""), classes[position % len(classes)])))
        for position, name in enumerate(maps)
    ]
    images = len(maps) // len(classes)
    choice = choose(counts, groups, images=parts_of or images, any_threshold=any_threshold, seed=seed)
    base = counts[:, 0, THRESHOLDS.index(0.5)]
    chosen = counts[:, STRENGTHS.index(choice.strength), THRESHOLDS.index(choice.threshold)]
    before, after = (found.astype(np.float64).reshape(images, -1) for found in (base, chosen))

    def mean_iou(image_counts: FloatArray) -> FloatArray:
        by_class = image_counts.reshape(*image_counts.shape[:-1], len(classes), 4)
        if len(classes) == 1:
            return iou(by_class[..., 0, :])
        right, false, missed, _ = np.moveaxis(by_class, -1, 0)
        return mean_of_present(right, false, missed)

    figures = _figures(before, after, mean_iou, seed)
    noun = "classes" if len(classes) > 1 else "scenes"
    return Conclusion(choice, figures, verdict(choice, figures["pooled_iou"]["difference"], noun, parts_of))


def evidence_of(maps: Sequence[TrainingMap]) -> dict[str, Any]:
    """What a few labelled maps say of their base model, for the card: `prn refine` decides on the maps of its set."""
    counts, statistics = _measured(maps)
    return gather(counts, sum(statistics, no_statistics())).record()


def _measured(maps: Sequence[TrainingMap]) -> tuple[list[NDArray[np.int64]], list[LogitStatistics]]:
    counts = [np.stack([count_logits(m.logits[m.label == side]) for side in (0, 1)]) for m in maps]
    return counts, [measure(np.where(m.label == IGNORE, np.float32(np.nan), m.logits)) for m in maps]


def conclude_few(maps: Sequence[TrainingMap], *, seed: int = 0) -> Conclusion:
    """Choose the threshold alone, of so few labelled maps that no network can be trusted: calibrate, then decide.

    The figures are of each map cut at the threshold that the others choose; of a single map, at its own.

    Args:
        maps: of one class.
        seed: of the bootstrap.
    """
    counts, statistics = _measured(maps)

    def decided(of: Sequence[int]) -> Decision:
        return decide_by_labels([counts[i] for i in of], sum((statistics[i] for i in of), no_statistics()))

    every = range(len(maps))
    decision = decided(every)
    others = [decided([i for i in every if i != one] or [one]) for one in every]

    def cut_at(thresholds: Sequence[float]) -> FloatArray:
        pairs = zip(maps, thresholds, strict=True)
        return np.array([count_regions(cut(m.logits, threshold), m.label).array() for m, threshold in pairs])

    before, after = cut_at([0.5] * len(maps)), cut_at([other.threshold for other in others])
    figures = _figures(before, after, iou, seed)
    choice = Choice(0.0, decision.threshold, decision.gain, {"": decision.gain}, {"0": 0.0})
    if decision.threshold == 0.5:
        return Conclusion(choice, figures, "so few maps bear no correction, and no threshold but 0.5; label more maps")
    sure = f"{100 * decision.gain:+.1f} points expected, no loss with a probability of {decision.confidence:.0%}"
    return Conclusion(choice, figures, f"of so few maps, the threshold alone is learned: {sure}")


def _figures(before: FloatArray, after: FloatArray, figure: Callable[[FloatArray], FloatArray], seed: int) -> Figures:
    """Pooled and mean IoU before and after, with intervals, from counts by image."""
    figures: Figures = {}
    for name, pool in (("pooled_iou", True), ("mean_iou", False)):
        found = compare(before, after, figure, pool=pool, seed=seed)
        figures[name] = {part: [_number(value) for value in estimate] for part, estimate in found._asdict().items()}
    return figures


def verdict(choice: Choice, difference: Sequence[float | None], noun: str, parts_of: int) -> str:
    """What the held-out maps say, in one line.

    `difference` is that of the pooled IoU with its 95 % interval, `noun` names the groups of the choice, and `parts_of`
    is the number of maps of which the held-out ones are parts; 0 if they are whole.
    """
    change, low, high = difference
    held_out = "parts of maps" if parts_of else "images"
    if choice.gain <= 0:
        if max(choice.strengths.values()) <= 0:
            return f"refinement does not help on the held-out {held_out}"
        if len(choice.groups) == 2:
            return f"refinement does not help on both of the held-out {noun}, so nothing is corrected; hold out more"
        return f"the gain on the few held-out {held_out} may be chance, so nothing is corrected; label more maps"
    losers = [name for name, gain in choice.groups.items() if gain < 0]
    chance = low is not None and low <= 0
    if losers and len(choice.groups) > 1:
        return (
            f"refinement helps on the mean of the held-out {noun}, and harms {len(losers)} of {len(choice.groups)}: "
            f"{'; '.join(losers[:3])}" + (f"; pooled over the {held_out}, it may be chance" if chance else "")
        )
    if change is None or change <= 0:
        return f"refinement helps on the mean of the held-out {noun}, and not on their pooled {held_out}"
    if low is None or high is None:
        return "one held-out image gains, which says little; hold out more"
    if chance:
        return f"the gain on the held-out {held_out} may be chance: its 95 % interval holds 0"
    if parts_of:
        maps = f"{parts_of} maps" if parts_of > 1 else "one map"
        return f"refinement helps on held-out parts of the {maps} that it learns from, which says little of other maps"
    return "refinement helps on the held-out images"


def _number(value: float) -> float | None:
    return None if value != value else round(float(value), 6)
