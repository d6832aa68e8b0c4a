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
    pseudo_weight: PseudoWeight = 0.0
