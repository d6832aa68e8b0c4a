"""`fast`: one network that gives a bias map, added to the base model's logits."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prn_cli.methods.session import Session

FloatMap = NDArray[np.float32]


class FastRefiner:
    """Field: the bias map, in logits. Invalid pixels and everything beyond the map are NaN to the network."""

    name = "fast"
    padding: Literal["nan", "mirror"] = "nan"

    def __init__(self, session: Session) -> None:
        """Wrap a session whose model maps `logits` (N, 1, H, W), and `image` (N, C, H, W), to `bias`, all float32."""
        self.image_channels = session.number("prn.image_channels", least=0, default=0)
        session.expect(["logits", "image"] if self.image_channels else ["logits"], ["bias"])
        self._session = session
        self.device = session.device
        self.runs = session.runs
        self.multiple = session.number("prn.multiple", least=1)
        self.halo = session.number("prn.halo", least=0)
        self.tile = session.number("prn.tile", least=1)
        self.strength = session.probability("prn.strength", default=1.0)
        self.threshold = session.probability("prn.threshold", default=0.5)
        self.reference = session.reference()

    def __reduce__(self) -> tuple[type[FastRefiner], tuple[Session]]:
        """Pickle the session alone: device and runs are those of the process that unpickles it."""
        return FastRefiner, (self._session,)

    def field(self, logits: FloatMap, image: FloatMap | None = None) -> FloatMap:
        """The bias of `(N, h, w)` logits, and an `(N, C, h, w)` image for weights that take one."""
        inputs = {"logits": logits[:, np.newaxis]} | ({} if image is None else {"image": image})
        return self._session.run(["bias"], inputs)[0][:, 0]

    def refined(self, logits: FloatMap, field: FloatMap, strength: float) -> FloatMap:
        """Logits and so much of the bias, added."""
        if strength != 1:
            field *= np.float32(strength)
        field += logits
        return field
