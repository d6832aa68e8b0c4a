"""The networks by name. A new one is one file here, one row below, and one refiner in `prn_cli.methods`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from prn_cli.methods.fast.network import FastNetwork
from prn_cli.methods.paper.network import PaperNetwork

Network = FastNetwork | PaperNetwork


def build(
    name: str,
    *,
    patch: int = 64,
    width: int = 16,
    keep_level: bool = False,
    image_channels: int = 0,
    seed: int | None = None,
) -> Network:
    """An untrained network.

    Args:
        name: `fast` or `paper`.
        patch: side of the patches of `paper`'s local decoder, px; `fast` has none of a fixed size.
        width: of `fast`, see there.
        keep_level: of `fast`, see there.
        image_channels: of `fast`, see there.
        seed: of the random weights; None to go on with torch's generator as it is.

    Raises:
        KeyError: for another name.
    """
    if seed is not None:
        torch.manual_seed(seed)
    builders: dict[str, Callable[[], Network]] = {
        "fast": lambda: FastNetwork(width, keep_level=keep_level, image_channels=image_channels),
        "paper": lambda: PaperNetwork(patch),
    }
    return builders[name]()


def from_description(description: Mapping[str, str]) -> Network:
    """An untrained network of the kind that the metadata of a file describes, see `prn_cli.training.export.describe`.

    Raises:
        KeyError: if an entry is missing, or names another network.
        ValueError: if an entry is no number.
    """
    name = description["prn.network"]
    if name == "fast":
        return FastNetwork(
            int(description["prn.width"]),
            keep_level=description["prn.keep_level"] == "1",
            image_channels=int(description.get("prn.image_channels", "0")),
        )
    return build(name, patch=int(description["prn.patch"]))
