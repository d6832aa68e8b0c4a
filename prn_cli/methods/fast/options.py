"""What can be set about `fast`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from prn_cli.methods.options import JointLossOptions, PseudoWeight
from prn_cli.options import Option


@dataclass(frozen=True, kw_only=True)
class FastOptions(JointLossOptions):
    """See `FastNetwork`. It learns from the labels alone."""

    width: Annotated[
        int,
        Option(
            "Channels of the finest level, which fast has at 4 px; time grows with the square.", panel="Method", least=4
        ),
    ] = 16
    keep_level: Annotated[
        bool,
        Option(
            "Correct scores against their neighbourhood only, never their overall level: for weights that are to carry "
            "over to other base models and scenes.",
            panel="Method",
        ),
    ] = False
    pseudo_weight: PseudoWeight = 0.0
