from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from prn_cli.methods.options import JointLossOptions
from prn_cli.options import Option, Options


@dataclass(frozen=True, kw_only=True)
class ToyOptions(JointLossOptions):
    features: Annotated[int, Option("Features of a pixel.", panel="Method", least=1)] = 4


@dataclass(frozen=True, kw_only=True)
class BankOptions(Options):
    weight: Annotated[float, Option("Of the contrast.", panel="Loss", least=0)] = 0.1
