"""Refiners: one file a method, behind one small protocol. `session.py` is the only user of onnxruntime.

A refiner turns a batch of logit windows into a *field* that can be blended across windows (a bias map, or
probabilities), and a field into refined logits. Tiling, padding, blending and writing are not its business.
"""

from __future__ import annotations

from importlib import import_module
from typing import Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import WeightsError
from prn_cli.maps.drift import Reference
from prn_cli.methods.weights import Weights

FloatMap = NDArray[np.float32]
Device = Literal["auto", "cpu", "cuda"]

REFINERS = {"fast": "prn_cli.methods.fast.refiner:FastRefiner", "paper": "prn_cli.methods.paper.refiner:PaperRefiner"}
"""Network (`prn.network` in an ONNX file's metadata) → its refiner. A new method is one file and one line here."""


class Refiner(Protocol):
    """What the tiler must know of a method.

    Attributes:
        name: of the network.
        device: where it runs: `cpu` or `cuda`.
        runs: how many calls of `field` go on at once; more of them wait.
        multiple: window sides and positions are multiples of this, px.
        halo: context that a pixel needs on each side, px.
        tile: default side of a window, px.
        strength: share of the correction that training found to be best, 0 to 1.
        threshold: probability above which a refined pixel is foreground.
        reference: of the logits that the weights were trained on, if they say.
        padding: what surrounds the map where a window reaches beyond it: NaN, or the map mirrored.
        image_channels: bands of the image that it takes beside the logits; 0 if it takes none.
    """

    name: str
    device: str
    runs: int
    multiple: int
    halo: int
    tile: int
    strength: float
    threshold: float
    reference: Reference | None
    padding: Literal["nan", "mirror"]
    image_channels: int

    def field(self, logits: FloatMap, image: FloatMap | None = None) -> FloatMap:
        """What the method makes of windows, finite everywhere.

        Args:
            logits: `(N, h, w)`, NaN where invalid; h and w are multiples of `multiple`.
            image: `(N, image_channels, h, w)`, the file's numbers, NaN where invalid; None if there are no channels.

        Returns:
            `(N, h, w)`, smooth enough to be averaged with a neighbouring window's; an array of its own, which is
            written to.
        """
        ...

    def refined(self, logits: FloatMap, field: FloatMap, strength: float) -> FloatMap:
        """Refined logits from base logits and the blended field, `(h, w)` each; may take the field's memory.

        They are NaN where the base logits are, and nowhere else. `strength` is the share of the correction that is
        applied, 0 to 1.
        """
        ...


def load_refiner(weights: Weights, *, device: Device = "auto", threads: int = 0, side_by_side: bool = False) -> Refiner:
    """Load weights into the refiner that their network needs.

    Args:
        weights: found and verified, see `prn_cli.methods.weights.find_weights`.
        device: `auto` takes CUDA where it works, else the CPU.
        threads: on the CPU; 0 for as many as cores.
        side_by_side: several runs at once, for callers with several threads, see `Session`.

    Raises:
        WeightsError: not an ONNX model, not one of prn, or of a network that this version does not know.
        DeviceError: the device cannot be had.
    """
    from prn_cli.methods.session import Session

    session = Session(weights.path, device=device, threads=threads, side_by_side=side_by_side)
    if session.metadata.get("prn.format") != "1":
        found = session.metadata.get("prn.format", "nothing")
        raise WeightsError(
            f"not a model that this version of prn can run: prn.format is {found}, expected 1",
            hint="export it with 'prn train' or 'prn weights import'" if found == "nothing" else "update prn",
            path=weights.path,
        )
    network = session.metadata.get("prn.network", "")
    if network not in REFINERS:
        raise WeightsError(
            f"network '{network}', expected {' or '.join(REFINERS)}", hint="update prn", path=weights.path
        )
    module, _, name = REFINERS[network].partition(":")
    return cast(Refiner, getattr(import_module(module), name)(session))
