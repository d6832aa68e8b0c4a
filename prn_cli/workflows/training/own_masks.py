"""Training without labels, or from labels of the scores: these are learned from the images, with the scores hidden.

What a base model gets wrong by chance, or by place, the images of the whole set do not bear out; what it gets right,
they do. So a network that has to find the masks in the images alone errs elsewhere, and both together err less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError
from prn_cli.files.store import Store
from prn_cli.maps.classes import choose
from prn_cli.maps.noise import place_seed
from prn_cli.maps.pixels import IGNORE
from prn_cli.maps.probabilities import logit
from prn_cli.methods import refiner_of
from prn_cli.methods.torch_runner import TorchRunner
from prn_cli.refinement.rows import cut, refine_map
from prn_cli.tasks import Cut, Task
from prn_cli.thresholding.calibration import expect
from prn_cli.thresholding.decision import CLASS_PIXELS, ClassSample, decide, decide_class_set
from prn_cli.thresholding.logit_statistics import measure, no_statistics
from prn_cli.thresholding.sampling import sample_maps, sample_windows
from prn_cli.training.augment import TrainingMap, by_image
from prn_cli.workflows.decide import shifts
from prn_cli.workflows.training.dataset import Dataset

STRENGTH = 0.5
"""Of what the network finds."""
LEAST_AGREEMENT, LEAST_KAPPA = 0.4, 0.4
"""IoU of one class, and agreement beyond chance (Cohen 1960), of the masks found and what was learned, below which
the network knows too little to be heard.
"""
MEASURED = 4 << 20
"""Pixels on which the network is compared with the base model, at most."""
_WINDOWS_OF_A_MAP = 4
_ROUNDS, _SETTLED = 50, 1e-3  # logits


def choose_cut(found: Dataset) -> Cut:
    """The threshold, or the offsets of the classes, that `prn refine` would choose for the set."""
    drawn = set(sample_maps(found.names))
    maps = [[m.logits for m in planes] for planes in by_image(found.maps) if planes[0].name in drawn]
    if len(found.classes) > 1:
        most = CLASS_PIXELS // len(maps)
        return decide_class_set([ClassSample.of(np.stack(planes), most) for planes in maps]).cut
    statistics = sum((measure(logits) for planes in maps for logits in planes), no_statistics())
    return decide(statistics.counts, expect(statistics)).threshold


def label(found: Dataset, task: Task, chosen: Cut, folder: Path) -> Dataset:
    """Label maps by their own scores.

    Args:
        found: maps; those of one image, one a class, follow each other.
        task: that they are of.
        chosen: where they are cut, see `choose_cut`.
        folder: on whose disk the labels are kept as long as they are needed.

    Raises:
        InputError: each mask is of one class.
    """
    store = Store(folder)
    places = []
    for planes in by_image(found.maps):
        if task.several:
            mask = choose(np.stack([m.logits for m in planes]), chosen if isinstance(chosen, tuple) else ())
        else:
            assert not isinstance(chosen, tuple)
            mask = cut(planes[0].logits, chosen)
        places += [store.put(plane) for plane in task.label_planes(mask)]
    stored = store.mapped()
    labels = [place.view(stored) for place in places]
    maps = [replace(m, label=one, pseudo=one) for m, one in zip(found.maps, labels, strict=True)]
    labelled = replace(found, maps=maps)
    check(labelled, "" if len(found.classes) > 1 or chosen == 0.5 else f"cut at {chosen:g}, ")
    return labelled


def check(found: Dataset, at: str = "") -> None:
    """Check that there is something to learn from labels.

    Raises:
        InputError: each is of one class.
    """
    if not any((m.label == 0).any() and (m.label == 1).any() for m in found.maps):
        what = "several classes" if len(found.classes) > 1 else "both foreground and background"
        raise InputError(f"{at}no map has {what}: there is nothing to learn", hint="check the maps, and --input-kind")


def said(chosen: Cut, classes: Sequence[str]) -> str:
    """How maps were labelled, for people."""
    if isinstance(chosen, tuple):
        return f"base masks by logits shifted by {shifts(classes, chosen)}, the offsets of these maps without labels"
    if len(classes) > 1:
        return "base masks by the greatest score"
    return f"base masks cut at {chosen:g}, the threshold of these maps without labels"


@dataclass(frozen=True)
class Transfer:
    """What a network that has learned a base model's own masks is to add to its scores.

    Attributes:
        strength: of what it finds.
        threshold: where masks are cut, refined or not.
        levels: logits that are taken from what it finds of each class, so that masks keep their area.
        agreement: IoU of the network's masks with what it has learned, of several classes on average.
        changed: share of the pixels that change sides.
        undertrained: it is trusted by half, since time has ended the training.
        labelled: it has learned labels that were made of the scores, not the base model's masks.
    """

    strength: float
    threshold: float
    levels: tuple[float, ...]
    agreement: float
    changed: float
    undertrained: bool = False
    labelled: bool = False

    @property
    def verdict(self) -> str:
        """In a line."""
        learned = "labels" if self.labelled else "base model's masks"
        said = f"the images alone give back the {learned} with an IoU of {self.agreement:.2f}"
        if self.strength == 0:
            return f"{said}, which is too little: nothing is added to the scores; train longer"
        half = " (half, as there was little time to learn)" if self.undertrained else ""
        return (
            f"{said}; added at strength {self.strength:g}{half}, this changes {100 * self.changed:.1f} % of the pixels"
        )

    def card(self) -> dict[str, Any]:
        """For the card of the weights."""
        return {
            "choice": {"strength": self.strength, "threshold": self.threshold, "own": self.threshold},
            "own_masks": not self.labelled,
            "transfer": {
                "levels": [round(level, 6) for level in self.levels],
                "agreement": round(self.agreement, 6),
                "changed": round(self.changed, 6),
            },
            "verdict": self.verdict,
        }


def conclude(
    network: Any, maps: Sequence[TrainingMap], chosen: Cut, *, labelled: bool = False, undertrained: bool = False
) -> Transfer:
    """Find the levels at which masks keep their area, and how far network and base model agree, on a sample.

    Args:
        network: trained.
        maps: that it has learned from.
        chosen: threshold or offsets of the base model's masks.
        labelled: the labels are others than these masks.
        undertrained: time has ended the training so early that it is trusted by half.
    """
    scores, added, learned = _compared(network, maps)
    if isinstance(chosen, tuple):
        scores -= np.array(chosen, np.float32)[:, np.newaxis]
    elif len(scores) == 1:
        scores -= logit(np.full(1, chosen, np.float32))
    if single := len(scores) == 1:  # against a background whose logit is 0
        scores, added = (np.concatenate([np.zeros_like(each), each]) for each in (scores, added))
    base, classes = scores.argmax(axis=0), np.arange(int(single), len(scores))

    def levelled(maps: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        levels = _levels(maps, base, classes)
        return (maps - levels[:, np.newaxis]).argmax(axis=0), levels

    known = learned != IGNORE
    agreement, kappa = _agreement(learned[known], levelled(added)[0][known], classes)
    heard = kappa >= LEAST_KAPPA and (agreement >= LEAST_AGREEMENT or not single)
    strength = STRENGTH * (0.5 if undertrained else 1.0) if heard else 0.0
    applied = strength or STRENGTH  # on request
    refined, levels = levelled(scores + np.float32(applied) * added)
    changed = float((refined != base).mean()) if strength else 0.0
    threshold = 0.5 if isinstance(chosen, tuple) else chosen
    at = tuple((levels[classes] / applied).tolist())
    return Transfer(strength, threshold, at, agreement, changed, undertrained, labelled)


def _agreement(learned: NDArray[np.intp], seen: NDArray[np.intp], classes: NDArray[np.intp]) -> tuple[float, float]:
    """The mean IoU over the classes that there are, and Cohen's kappa."""
    count = int(classes[-1]) + 1
    table = np.bincount(learned * count + seen, minlength=count * count).reshape(count, count) / max(len(learned), 1)
    right, rows, columns = np.diag(table), table.sum(axis=1), table.sum(axis=0)
    there = classes[rows[classes] > 0]
    iou = right[there] / (rows + columns - right)[there]
    chance = float(rows @ columns)
    return float(iou.mean()) if len(there) else 0.0, float((right.sum() - chance) / max(1 - chance, 1e-12))


def _levels(refined: NDArray[np.float32], base: NDArray[np.intp], classes: NDArray[np.intp]) -> NDArray[np.float32]:
    """What to take from the logits of each class, `(C,)`, so that each has as many pixels as the base model gives it.

    Each class in turn is set against the best of the others, until none moves any more.
    """
    levels = np.zeros(len(refined), np.float32)
    wanted = np.bincount(base, minlength=len(refined))
    for _ in range(_ROUNDS if len(classes) > 1 else 1):
        before = levels.copy()
        for c in classes:
            if not 0 < wanted[c] < refined.shape[1]:
                continue
            others = np.delete(refined, c, axis=0) - np.delete(levels, c)[:, np.newaxis]
            ahead = refined[c] - others.max(axis=0)
            levels[c] = np.partition(ahead, -wanted[c])[-wanted[c]]
        if np.abs(levels - before).max() < _SETTLED:
            break
    return levels


def _compared(
    network: Any, maps: Sequence[TrainingMap]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.intp]]:
    """Base logits and what the network finds, `(C, pixels)`, and the label, 255 for none, of a sample of the pixels."""
    refiner, images = refiner_of(TorchRunner(network)), {planes[0].name: planes for planes in by_image(maps)}
    count = len(next(iter(images.values())))
    logits, added = ([np.empty((count, 0), np.float32)] for _ in range(2))
    labels: list[NDArray[np.uint8]] = [np.empty((count, 0), np.uint8)]
    for name in sample_maps(images):
        height, width = images[name][0].label.shape
        for window in sample_windows(name, height, width, _WINDOWS_OF_A_MAP):
            scores, label = (
                np.stack([getattr(m, part)[window.slices] for m in images[name]]) for part in ("logits", "label")
            )
            if np.isnan(scores).all():
                continue
            whole = images[name][0].image
            found = np.stack(
                [
                    refine_map(
                        plane,
                        refiner,
                        image=None if whole is None else whole[:, *window.slices],
                        strength=1.0,
                        seed=place_seed(0, name),
                        plane=number,
                    )
                    for number, plane in enumerate(scores)
                ]
            )
            found -= scores
            counted = ~np.isnan(scores).any(axis=0) & (found != 0).all(axis=0)  # 0: not looked at
            logits.append(scores[:, counted])
            added.append(found[:, counted])
            labels.append(label[:, counted])
        if sum(part.size for part in added) >= MEASURED:
            break
    planes = np.concatenate(labels, axis=1)
    learned = np.where(planes[0] == IGNORE, IGNORE, planes.argmax(axis=0)) if count > 1 else planes[0]
    return np.concatenate(logits, axis=1), np.concatenate(added, axis=1), learned.astype(np.intp)
