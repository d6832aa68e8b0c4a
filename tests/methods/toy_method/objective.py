from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prn_cli.methods.objective import Objective
from prn_cli.methods.recipe import Batch, Outputs
from toy_method.options import BankOptions


class BankObjective(Objective):
    """Foreground away from features of the background, of which a bank holds the last ones; with a head of its own."""

    needs_features = True

    def __init__(self, options: BankOptions, network: nn.Module) -> None:
        super().__init__()
        self.weight = options.weight
        self.head = nn.Conv2d(int(network.features), 3, 1, bias=False)  # type: ignore[arg-type]
        self.register_buffer("bank", torch.zeros(32, 3))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    def forward(self, outputs: Outputs, batch: Batch[Tensor]) -> Tensor:
        assert outputs.features is not None
        found = F.normalize(self.head(outputs.features).permute(0, 2, 3, 1), dim=-1)
        label = batch.label[:, 0]
        foreground, background = found[label == 1], found[label == 0].detach()
        loss = foreground.sum() * 0
        count = int(self.filled)
        if count and len(foreground):
            negatives = self.bank[torch.randint(count, (8,), device=found.device)]
            loss = (foreground @ negatives.T).exp().mean().log()
        fresh = background[torch.randperm(len(background))[:4]]
        self.bank = torch.cat([fresh, self.bank])[: len(self.bank)]
        self.filled = torch.clamp(self.filled + len(fresh), max=len(self.bank))
        return self.weight * loss
