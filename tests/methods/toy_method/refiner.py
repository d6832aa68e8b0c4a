from __future__ import annotations

import numpy as np

from prn_cli.methods.refiner import FloatMap, NetworkRefiner, Runner, Windows


class ToyRefiner(NetworkRefiner):
    """Encodes a window once, and takes steps, each at pixels drawn at random and relative to the map's mean."""

    name = "toy"
    STEPS = 2

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner)
        self.expect(["logits", "given", "level"], ["features", "bias"])

    def overview(self, reduced: Windows) -> float:
        assert max(reduced.logits.shape[1:]) <= self.needs.overview
        return float(np.nanmean(np.tanh(reduced.logits)))

    def field(self, windows: Windows) -> FloatMap:
        (features,) = self.runner.run(["features"], {"logits": windows.logits[:, np.newaxis]})
        level = np.full((len(features), 1), windows.overview, np.float32)
        total = np.zeros_like(windows.logits)
        for step in range(self.STEPS):
            (bias,) = self.runner.run(["bias"], {"given": features, "level": level + step})
            total += np.where(windows.noise(step) < 0.5, bias[:, 0], 0)
        return total
