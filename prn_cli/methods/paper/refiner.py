"""`paper`: PatchRefineNet as published (PatchRefineNet, WACV 2024, section 3): probabilities in and out."""

from __future__ import annotations

import numpy as np

from prn_cli.maps.probabilities import sigmoid
from prn_cli.methods.refiner import FloatMap, ProbabilityRefiner, Runner, Windows


class PaperRefiner(ProbabilityRefiner):
    """Field: the fused probabilities.

    Args:
        runner: maps `probabilities` to `global` and, but for `p0`, `local`: (N, 1, H, W) float32.
    """

    name = "paper"

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner)
        self.expect(["probabilities"], ["global"])
        self._outputs = [name for name in ("global", "local") if name in runner.outputs]

    def field(self, windows: Windows) -> FloatMap:
        """The fused probabilities."""
        probabilities = sigmoid(windows.logits)
        probabilities[np.isnan(windows.logits)] = 0
        outputs = self.runner.run(self._outputs, {"probabilities": probabilities[:, np.newaxis]})
        return fuse(*(output[:, 0] for output in outputs))


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
