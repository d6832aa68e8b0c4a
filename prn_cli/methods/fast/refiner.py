"""`fast`: one network that gives a bias map, added to the base model's logits."""

from __future__ import annotations

import numpy as np

from prn_cli.methods.refiner import FloatMap, NetworkRefiner, Runner, Windows


class FastRefiner(NetworkRefiner):
    """Field: the bias map, in logits. Invalid pixels and everything beyond the map are NaN to the network.

    Args:
        runner: maps `logits` (N, 1, H, W), and `image` (N, C, H, W) if there is one, to `bias`, all float32.
    """

    name = "fast"

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner)
        self.expect(["logits", "image"] if self.needs.bands else ["logits"], ["bias"])

    def field(self, windows: Windows) -> FloatMap:
        """The bias map."""
        inputs = {"logits": windows.logits[:, np.newaxis]}
        if windows.image is not None:
            inputs["image"] = windows.image
        return self.runner.run(["bias"], inputs)[0][:, 0]
