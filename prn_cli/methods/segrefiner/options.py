"""What can be set about `segrefiner`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from prn_cli.errors import UsageError
from prn_cli.options import Option, Options


@dataclass(frozen=True, kw_only=True)
class SegrefinerOptions(Options):
    """See `SegrefinerNetwork`. It learns from the labels and the images."""

    width: Annotated[
        int,
        Option(
            "Channels of the finest level; time grows with the square. As published, segrefiner has 128.",
            panel="Method",
            least=4,
        ),
    ] = 8
    chain_steps: Annotated[
        int, Option("Steps from the coarse mask to the fine one.", panel="Method", least=1, most=100)
    ] = 6
    windows_only: Annotated[
        bool,
        Option(
            "Take each window through all steps, and leave out the pass over the whole map at 256 px, in which small "
            "objects of large maps vanish.",
            panel="Method",
        ),
    ] = False
    synthetic: Annotated[
        float,
        Option(
            "Fraction of the crops whose coarse mask is made from the label, in place of the base model's.",
            panel="Method",
            least=0,
            most=1,
        ),
    ] = 0.25
    texture_weight: Annotated[
        float, Option("Weight of the difference between the edges of mask and label.", panel="Loss", least=0)
    ] = 5.0

    def __post_init__(self) -> None:
        """Check the width, too.

        Raises:
            UsageError: a value is out of range, or the width no multiple of 4.
        """
        super().__post_init__()
        if self.width % 4:
            raise UsageError(f"--width {self.width} with --network segrefiner, expected a multiple of 4")
