"""Options that several methods share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from prn_cli.options import Option, Options

PseudoWeight = Annotated[
    float, Option("Weight of the pseudo-labels; labels have the rest.", panel="Loss", least=0, most=1)
]
"""For methods that have another default."""


@dataclass(frozen=True, kw_only=True)
class JointLossOptions(Options):
    """Weights of the joint loss (PatchRefineNet, WACV 2024, section 3.3), for which the defaults are the paper's.

    The soft IoU is not in the paper.
    """

    pseudo_weight: PseudoWeight = 0.7
    focal_weight: Annotated[
        float,
        Option("Weight of the focal term of the pseudo-labels; edges have the rest.", panel="Loss", least=0, most=1),
    ] = 0.7
    focal_scale: Annotated[float, Option("Factor of the focal term.", panel="Loss", least=0)] = 0.75
    focal_gamma: Annotated[float, Option("Exponent of the focal term.", panel="Loss", least=0)] = 2.0
    positive_weight: Annotated[float, Option("Weight of foreground pixels of the labels.", panel="Loss", least=0)] = (
        1.12
    )
    iou_weight: Annotated[
        float,
        Option("Weight of a soft IoU with the labels, added to the loss; 0 leaves it out.", panel="Loss", least=0),
    ] = 2.0
