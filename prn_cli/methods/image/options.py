"""What can be set about `image`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from prn_cli.methods.options import JointLossOptions, PseudoWeight
from prn_cli.options import Option


@dataclass(frozen=True, kw_only=True)
class ImageOptions(JointLossOptions):
    """See `ImageNetwork`. It learns from the labels alone."""

    freeze_encoder: Annotated[
        bool, Option("Leave the encoder as it is, and train the decoder only: what shipped weights do.", panel="Method")
    ] = False
    two_views: Annotated[
        bool,
        Option(
            "Apply only what two views of each place, turned and at half its scale, agree on: for weights that are to "
            "carry over to other scenes.",
            panel="Method",
        ),
    ] = False
    # No options: labels that were made of the scores would be copied from them.
    hide_scores: bool = False
    planes: int = 1
    pseudo_weight: PseudoWeight = 0.0
