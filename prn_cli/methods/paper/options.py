"""What can be set about `paper`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from prn_cli.errors import UsageError
from prn_cli.methods.options import JointLossOptions
from prn_cli.options import Option


@dataclass(frozen=True, kw_only=True)
class PaperOptions(JointLossOptions):
    """See `PaperNetwork`."""

    patch: Annotated[
        int,
        Option(
            "Side of the patches of paper's local decoder, a multiple of 8 px; 0 without it.", panel="Method", least=0
        ),
    ] = 64

    def __post_init__(self) -> None:
        """Check the patch, too.

        Raises:
            UsageError: a value is out of range, or the patch no multiple of 8.
        """
        super().__post_init__()
        if self.patch % 8:
            raise UsageError(f"--patch {self.patch} with --network paper, expected a multiple of 8")
