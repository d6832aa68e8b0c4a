"""`paper`: PatchRefineNet as published (PatchRefineNet, WACV 2024, section 3): probabilities in and out."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.blend import strengthen
from prn_cli.maps.probabilities import logit, sigmoid
from prn_cli.methods.session import Session

FloatMap = NDArray[np.float32]


class PaperRefiner:
    """Field: the fused probabilities. Invalid pixels count as background; beyond its border the map is mirrored."""

    name = "paper"
    padding: Literal["nan", "mirror"] = "mirror"
    image_channels = 0

    def __init__(self, session: Session) -> None:
        """Wrap a session that maps `probabilities` to `global` and, but for `p0`, `local`: (N, 1, H, W) float32."""
        session.expect(["probabilities"], ["global"])
        self._session = session
        self._outputs = [name for name in ("global", "local") if name in session.outputs]
        self.device = session.device
        self.runs = session.runs
        self.multiple = session.number("prn.multiple", least=1)
        self.halo = session.number("prn.halo", least=0)
        self.tile = session.number("prn.tile", least=1)
        self.strength = session.probability("prn.strength", default=1.0)
        self.threshold = session.probability("prn.threshold", default=0.5)
        self.reference = session.reference()

    def __reduce__(self) -> tuple[type[PaperRefiner], tuple[Session]]:
        """Pickle the session alone: device and runs are those of the process that unpickles it."""
        return PaperRefiner, (self._session,)

    def field(self, logits: FloatMap, image: FloatMap | None = None) -> FloatMap:  # noqa: ARG002
        """The fused probabilities of `(N, h, w)` logits."""
        probabilities = sigmoid(logits)
        probabilities[np.isnan(logits)] = 0
        outputs = self._session.run(self._outputs, {"probabilities": probabilities[:, np.newaxis]})
        return fuse(*(output[:, 0] for output in outputs))

    def refined(self, logits: FloatMap, field: FloatMap, strength: float) -> FloatMap:
        """Logits of the fused probabilities, mixed with the base logits; NaN where these are."""
        refined = logit(field)
        refined[np.isnan(logits)] = np.nan
        return strengthen(logits, refined, strength)


def fuse(whole: FloatMap, local: FloatMap | None = None) -> FloatMap:
    """The published fusion of the two decoders' outputs, before the cut.

    Published is, for the outputs cut at 0.5, G ∪ dilate3×3(G ∩ L). A cut commutes with minimum, maximum and
    dilation, so max(G, dilate3×3(min(G, L))) gives the same mask, and a probability to blend and to write.

    Args:
        whole: `(N, h, w)`, of the global decoder.
        local: `(N, h, w)`, of the patch-local decoder; None for a network without one.
    """
    if local is None:
        return whole
    return np.maximum(whole, dilate(np.minimum(whole, local)))


def dilate(maps: FloatMap) -> FloatMap:
    """Greatest value among each pixel and its eight neighbours, `(N, h, w)`; pixels beyond the border do not count."""
    tall = maps.copy()
    np.maximum(tall[:, 1:], maps[:, :-1], out=tall[:, 1:])
    np.maximum(tall[:, :-1], maps[:, 1:], out=tall[:, :-1])
    wide = tall.copy()
    np.maximum(wide[:, :, 1:], tall[:, :, :-1], out=wide[:, :, 1:])
    np.maximum(wide[:, :, :-1], tall[:, :, 1:], out=wide[:, :, :-1])
    return wide
