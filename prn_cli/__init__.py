"""prn: better masks from an existing segmentation model's logit maps.

Each command is a function, with the names and defaults of the command line (see `prn_cli.api`):

    import prn_cli as prn

    prn.train("logits", labels="labels", out="run")
    prn.refine("logits", out="masks", weights="run")
    print(prn.score("masks", labels="labels", baseline="logits").summary.pooled["iou"].difference)

Nothing is imported before it is used.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prn_cli.api import pseudolabel, pseudolabel_map, refine, refine_map, score, score_map, train, train_maps
    from prn_cli.errors import PrnError
    from prn_cli.execution.watch import Watch

# Before onnxruntime is imported: it would keep an identifier and a database in the home folder, and report each session
# to its maker over the network. Nothing of a user's work leaves the machine unless the user says so.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"

__all__ = [
    "PrnError",
    "Watch",
    "pseudolabel",
    "pseudolabel_map",
    "refine",
    "refine_map",
    "score",
    "score_map",
    "train",
    "train_maps",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module 'prn_cli' has no attribute '{name}'")
    module = {"PrnError": "errors", "Watch": "execution.watch"}.get(name, "api")
    return getattr(import_module(f"prn_cli.{module}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
