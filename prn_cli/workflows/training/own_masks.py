"""Training without labels: the base model's own masks are learned from the images, with the scores hidden.

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
from prn_cli.maps.noise import place_seed
from prn_cli.maps.pixels import IGNORE
from prn_cli.maps.probabilities import logit
from prn_cli.methods import refiner_of
from prn_cli.methods.torch_runner import TorchRunner
from prn_cli.refinement.rows import cut, refine_map
from prn_cli.thresholding.calibration import expect
from prn_cli.thresholding.decision import Decision, decide
from prn_cli.thresholding.logit_statistics import measure, no_statistics
from prn_cli.thresholding.sampling import sample_maps, sample_windows
from prn_cli.training.augment import TrainingMap
from prn_cli.workflows.training.dataset import Dataset

STRENGTH = 0.5
"""Of what the network finds."""
LEAST_AGREEMENT = 0.4
"""IoU of the network's masks and the base model's, below which the network knows too little to be heard."""
MEASURED = 4 << 20
"""Pixels on which the network is compared with the base model, at most."""
_WINDOWS_OF_A_MAP = 4


def label(found: Dataset, folder: Path) -> tuple[Dataset, Decision]:
    """Label maps by their own scores: foreground above the threshold that `prn refine` would choose for the set.

    Args:
        found: maps of one class.
        folder: on whose disk the labels are kept as long as they are needed.

    Raises:
        InputError: every mask is all background or all foreground.
    """
    drawn = set(sample_maps(found.names))
    statistics = sum((measure(m.logits) for m in found.maps if m.name in drawn), no_statistics())
    decision = decide(statistics.counts, expect(statistics))
    cut_off = logit(np.full(1, decision.threshold, np.float32))[0]
    if not any(np.nanmin(m.logits) <= cut_off < np.nanmax(m.logits) for m in found.maps):
        raise InputError(
            f"cut at {decision.threshold:g}, no map has both foreground and background: there is nothing to learn",
            hint="check the maps, and --input-kind",
        )
    store = Store(folder)
    places = [store.put(cut(m.logits, decision.threshold)) for m in found.maps]
    stored = store.mapped()
    labels = [place.view(stored) for place in places]
    maps = [replace(m, label=one, pseudo=one) for m, one in zip(found.maps, labels, strict=True)]
    return replace(found, maps=maps), decision


@dataclass(frozen=True)
class Transfer:
    """What a network that has learned a base model's own masks is to add to its scores.

    Attributes:
        strength: of what it finds.
        threshold: where masks are cut, refined or not.
        level: logit that is taken from what it finds, so that masks keep their area.
        agreement: IoU of the network's masks with the base model's.
        changed: share of the pixels that change sides.
    """

    strength: float
    threshold: float
    level: float
    agreement: float
    changed: float

    @property
    def verdict(self) -> str:
        """In a line."""
        said = f"the images alone give back the base model's masks with an IoU of {self.agreement:.2f}"
        if self.strength == 0:
            return f"{said}, which is too little: nothing is added to the scores; train longer"
        return f"{said}; added at strength {self.strength:g}, this changes {100 * self.changed:.1f} % of the pixels"

    def card(self) -> dict[str, Any]:
        """For the card of the weights."""
        names = ("level", "agreement", "changed")
        return {
            "choice": {"strength": self.strength, "threshold": self.threshold, "own": self.threshold},
            "own_masks": {name: round(getattr(self, name), 6) for name in names},
            "verdict": self.verdict,
        }


def conclude(network: Any, maps: Sequence[TrainingMap], threshold: float, *, undertrained: bool = False) -> Transfer:
    """Find the level at which masks keep their area, and how far network and base model agree, on a sample of the maps.

    Args:
        network: trained.
        maps: that it has learned from, labelled by their own scores.
        threshold: at which these were cut.
        undertrained: time has ended the training so early that it is trusted by half.
    """
    scores, added = _compared(network, maps)
    scores -= logit(np.full(1, threshold, np.float32))
    base, seen = scores > 0, added > 0
    agreement = float((base & seen).sum() / max((base | seen).sum(), 1))
    strength = STRENGTH * (0.5 if undertrained else 1.0) if agreement >= LEAST_AGREEMENT else 0.0
    applied = strength or STRENGTH  # on request
    refined = scores + np.float32(applied) * added
    cut_off = float(np.partition(refined, -base.sum())[-base.sum()]) if base.any() else 0.0
    changed = float(((refined > cut_off) != base).mean()) if strength else 0.0
    return Transfer(strength, threshold, cut_off / applied, agreement, changed)


def _compared(network: Any, maps: Sequence[TrainingMap]) -> NDArray[np.float32]:
    """Base logits, and what the network finds, `(2, pixels)`, of a sample of the valid pixels."""
    refiner, by_name = refiner_of(TorchRunner(network)), {m.name: m for m in maps}
    parts = [np.empty((2, 0), np.float32)]
    for name in sample_maps(by_name):
        one = by_name[name]
        height, width = one.label.shape
        for window in sample_windows(name, height, width, _WINDOWS_OF_A_MAP):
            logits = one.logits[window.slices]
            image = None if one.image is None else one.image[:, *window.slices]
            if np.isnan(logits).all():
                continue
            refined = refine_map(logits, refiner, image=image, strength=1.0, seed=place_seed(0, name))
            found = refined - logits
            counted = (one.label[window.slices] != IGNORE) & (found != 0)  # 0: not looked at
            parts.append(np.stack([logits[counted], found[counted]]))
        if sum(part.shape[1] for part in parts) >= MEASURED:
            break
    return np.concatenate(parts, axis=1)
