"""What can be set about FBR; the defaults are the paper's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from prn_cli.options import Option, Options

_contrast = partial(Option, panel="Contrast")


@dataclass(frozen=True, kw_only=True)
class FbrOptions(Options):
    """See `FbrObjective`. The paper has no limit on queries; each costs as many cosines as it has negatives."""

    fb_weight: Annotated[float, _contrast("Weight of foreground against background; 0.01 to 0.05.", least=0)] = 0.05
    if_weight: Annotated[float, _contrast("Weight of a class against other classes.", least=0)] = 0.1
    separation_weight: Annotated[float, _contrast("Weight of the likeness of the two heads.", least=0)] = 0.1
    contrast_width: Annotated[int, _contrast("Channels of the heads.", least=1)] = 128
    temperature: Annotated[float, _contrast("Temperature τ of both contrasts.", least=1e-3)] = 0.5
    class_temperature: Annotated[float, _contrast("Temperature of the choice of another class.", least=1e-3)] = 0.5
    negatives: Annotated[int, _contrast("Negatives of a query.", least=1)] = 256
    queries: Annotated[int, _contrast("Queries of a class in a step, at most.", least=1)] = 64
    regions: Annotated[int, _contrast("Clusters (K-means) of a crop's background.", least=1)] = 8
    bank: Annotated[int, _contrast("Clusters remembered, the oldest are replaced first.", least=1)] = 50_000
    confident: Annotated[
        float, _contrast("No queries: this fraction of a class, where it is most confident.", least=0, most=1)
    ] = 0.4
    certain: Annotated[
        float, _contrast("No queries: this fraction of a class, where its entropy is least.", least=0, most=1)
    ] = 0.1
    prototype: Annotated[
        float, _contrast("A class's prototype is of its most confident features: this fraction of a crop's.", least=0)
    ] = 1 / 16
