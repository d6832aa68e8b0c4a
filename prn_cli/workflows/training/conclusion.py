"""What held-out maps say of a training: strength and threshold, figures before and after, and a verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import percent
from prn_cli.metrics.classes import mean_region_iou
from prn_cli.metrics.intervals import compare
from prn_cli.metrics.regions import FloatArray, count_regions, iou
from prn_cli.refinement.rows import cut
from prn_cli.thresholding.decision import gather
from prn_cli.training.augment import TrainingMap
from prn_cli.training.choice import Choice, Limits, choose
from prn_cli.workflows.training.own_cut import Measured, decide_on, together

Figures = dict[str, dict[str, list[float | None]]]
"""By metric, each a figure and the bounds of its 95 % interval.

`before` is the base model at 0.5, `own` the base model at its own threshold, `after` refined, `difference` what that is
more than at 0.5, and `added` what it is more than without a network, at the better of the two. Of several classes, the
greatest score counts.
"""


@dataclass(frozen=True)
class Conclusion:
    """The chosen strength and threshold, their figures on the held-out maps, and a verdict in words."""

    choice: Choice
    figures: Figures
    verdict: str
    images: dict[str, int]

    @property
    def strength(self) -> float:
        """Of the correction."""
        return self.choice.strength

    @property
    def threshold(self) -> float:
        """Where masks are cut."""
        return self.choice.threshold

    def card(self) -> dict[str, Any]:
        """For the card of the weights: JSON without NaN."""
        choice = {
            name: {key: _number(gain) for key, gain in value.items()} if isinstance(value, dict) else _number(value)
            for name, value in asdict(self.choice).items()
            if name not in ("cell", "floor", "promising", "scenes")
        }
        figures = {"held_out_figures": self.figures, "held_out_images": self.images}
        return {"choice": choice, **figures, "verdict": self.verdict}


@dataclass(frozen=True)
class Trained:
    """How far training has come.

    Attributes:
        steps: done.
        total: that a whole training has; no more than `steps` if this one was whole.
        half: the correction is applied by half at most.
    """

    steps: int = 0
    total: int = 0
    half: bool = False


def conclude(
    counts: NDArray[np.int64],
    maps: Sequence[str],
    *,
    classes: Sequence[str] = ("",),
    scenes: Mapping[str, str] | None = None,
    parts_of: int = 0,
    own: float = 0.5,
    trained: Trained = Trained(),
    any_threshold: bool = True,
    seed: int = 0,
) -> Conclusion:
    """Choose strength and threshold on held-out maps, and compute what they gain there.

    Args:
        counts: `(maps, S, 3, 4)` int64, see `prn_cli.training.choice.tally`; those of an image, a class each, follow
            each other.
        maps: names.
        classes: names.
        scenes: by map name.
        parts_of: the number of maps of which these are parts; 0 if they are whole.
        own: the base model's own threshold.
        trained: how far training has come.
        any_threshold: whether the threshold may differ from 0.5.
        seed: of the bootstrap.
    """
    of_images = [(scenes or {}).get(name, "") for name in maps[:: len(classes)]]
    images = len(maps) // len(classes)
    limits = Limits(parts_of or images, any_threshold=any_threshold, strength=0.5 if trained.half else 1.0)
    choice = choose(counts, of_images, classes=classes, own=own, limits=limits, seed=seed)
    cells = ((0, 0), (0, 1), choice.floor, choice.cell)
    found = [counts[:, s, t].astype(np.float64).reshape(images, -1) for s, t in cells]

    figures = _figures(found, mean_region_iou, seed)
    noun = "classes" if len(classes) > 1 else "scenes"
    said = verdict(choice, figures["pooled_iou"]["difference"], noun, parts_of, trained)
    return Conclusion(choice, figures, said, _images(mean_region_iou(found[0]), mean_region_iou(found[3])))


def _images(before: FloatArray, after: FloatArray) -> dict[str, int]:
    """How many images have become better and worse."""
    return {"better": int((after > before).sum()), "worse": int((after < before).sum()), "all": len(before)}


def evidence_of(measured: Sequence[Measured]) -> dict[str, Any]:
    """What a few labelled maps say of their base model, for the card: `prn refine` decides on the maps of its set."""
    return gather(*together(measured)).record()


def conclude_few(maps: Sequence[TrainingMap], measured: Sequence[Measured], *, seed: int = 0) -> Conclusion:
    """Choose the threshold alone, of so few labelled maps that no network can be trusted: calibrate, then decide.

    The figures are of each map cut at the threshold that the others choose; of a single map, at its own.

    Args:
        maps: of one class.
        measured: what each of them says.
        seed: of the bootstrap.
    """
    decision = decide_on(measured)
    others = [decide_on([*measured[:one], *measured[one + 1 :]] or measured) for one in range(len(maps))]

    def cut_at(thresholds: Sequence[float]) -> FloatArray:
        pairs = zip(maps, thresholds, strict=True)
        return np.array([count_regions(cut(m.logits, threshold), m.label).array() for m, threshold in pairs])

    before, after = cut_at([0.5] * len(maps)), cut_at([other.threshold for other in others])
    figures, images = _figures([before, after, after, after], iou, seed), _images(iou(before), iou(after))
    own = decision.threshold
    choice = Choice(0.0, own, decision.gain, {"": decision.gain}, {"0": 0.0}, own=own)
    if own == 0.5:
        said = "so few maps bear no correction, and no threshold but 0.5; label more maps"
        return Conclusion(choice, figures, said, images)
    sure = f"{100 * decision.gain:+.1f} points expected, no loss with a probability of {percent(decision.confidence)}"
    return Conclusion(choice, figures, f"of so few maps, the threshold alone is learned: {sure}", images)


def _figures(found: Sequence[FloatArray], figure: Callable[[FloatArray], FloatArray], seed: int) -> Figures:
    """Pooled and mean IoU with intervals, from counts by image: base, at its own threshold, the better, refined."""
    figures: Figures = {}
    base, own, floor, refined = found
    for name, pool in (("pooled_iou", True), ("mean_iou", False)):
        change = compare(base, refined, figure, pool=pool, seed=seed)
        alone = compare(own, own, figure, pool=pool, seed=seed).after
        added = compare(floor, refined, figure, pool=pool, seed=seed).difference
        parts = change._asdict() | {"own": alone, "added": added}
        figures[name] = {part: [_number(value) for value in estimate] for part, estimate in parts.items()}
    return figures


def verdict(
    choice: Choice,
    difference: Sequence[float | None],
    noun: str,
    parts_of: int,
    trained: Trained = Trained(),
) -> str:
    """What the held-out maps say, in one line.

    `difference` is that of the pooled IoU with its 95 % interval, `noun` names the groups of the choice, and `parts_of`
    is the number of maps of which the held-out ones are parts; 0 if they are whole.
    """
    change, low, high = difference
    held_out = "parts of maps" if parts_of else "images"
    if choice.strength == 0:
        kept = "" if choice.threshold == 0.5 else "; the base model's own threshold alone is kept"
        return _unhelpful(choice, held_out, trained) + kept
    weak = f"; after {trained.steps} of {trained.total} steps, it is applied by half at most" if trained.half else ""
    if not trained.steps < trained.total:
        weak = "; of one scene alone, it is applied by half at most" if trained.half else ""
    losers = [name for name, gain in choice.groups.items() if gain < 0]
    chance = low is not None and low <= 0
    if losers and len(choice.groups) > 1:
        return (
            f"refinement helps on the mean of the held-out {noun}, and harms {len(losers)} of {len(choice.groups)}: "
            f"{'; '.join(losers[:3])}" + (f"; pooled over the {held_out}, it may be chance" if chance else "") + weak
        )
    if change is None or change <= 0:
        return f"refinement helps on the mean of the held-out {noun}, and not on their pooled {held_out}" + weak
    if low is None or high is None:
        return "one held-out image gains, which says little; hold out more" + weak
    if chance:
        return f"the gain on the held-out {held_out} may be chance: its 95 % interval holds 0" + weak
    if parts_of:
        maps = f"{parts_of} maps" if parts_of > 1 else "one map"
        learned = f"refinement helps on held-out parts of the {maps} that it learns from"
        return f"{learned}, which says little of other maps" + weak
    return "refinement helps on the held-out images" + weak


def _unhelpful(choice: Choice, held_out: str, trained: Trained) -> str:
    if trained.steps < trained.total:
        done = f"{trained.steps} of {trained.total} steps"
        return f"too short to tell whether refinement helps: {done}; --resume with a longer --time-budget goes on"
    if not choice.promising:
        return f"refinement does not help on the held-out {held_out}"
    if choice.scenes > 1:
        more = "--groups none, if you refine maps of these very scenes"
        return f"refinement does not help on all of the held-out scenes, so nothing is corrected; {more}"
    return f"the gain on the held-out {held_out} may be chance, so nothing is corrected; label more maps"


def _number(value: float) -> float | None:
    return None if value != value else round(float(value), 6)
