"""Masks of one class, and soft maps of it that are cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.pixels import IGNORE
from prn_cli.metrics.score import METRICS, ImageScore, MaskCounter, Metric
from prn_cli.rasters import can_tell_invalid, mask_nodata
from prn_cli.tasks import Task

if TYPE_CHECKING:
    from pathlib import Path

    from prn_cli.refinement.rows import Rows


class Binary(Task):
    """Masks of one class."""

    name = "binary"
    cuts = True
    counts = ("tp", "fp", "fn", "tn")
    unused: ClassVar[dict[str, str]] = {}

    def settings(self) -> dict[str, Any]:
        return {}

    def prediction_counter(self, height: int, width: int, **options: Any) -> MaskCounter:
        return MaskCounter(height, width, **options)

    def label_pixels(self, scores: Sequence[ImageScore]) -> dict[str, int]:
        right, false, missed, rest = np.sum([score.counts[:4] for score in scores], axis=0)
        return {"background": int(false + rest), "foreground": int(right + missed)}

    def predicted_pixels(self, scores: Sequence[ImageScore]) -> dict[str, int]:
        right, false, missed, rest = np.sum([score.counts[:4] for score in scores], axis=0)
        return {"background": int(missed + rest), "foreground": int(right + false)}

    def metrics(self, scores: Sequence[ImageScore]) -> Sequence[Metric]:
        return METRICS

    def content(self, values: tuple[int, int], palette: NDArray[np.uint8] | None = None) -> dict[str, Any]:
        return {"dtype": "uint8", "nodata": mask_nodata(values)}

    def written(self, mask: NDArray[np.uint8], rows: Rows | None, values: tuple[int, int]) -> NDArray[Any]:
        result: NDArray[np.uint8] = mask * np.uint8(values[1])  # background is 0 in all of them
        if rows is None or not rows.all_valid:
            invalid = mask == IGNORE
            if invalid.any():
                result[invalid] = mask_nodata(values)
        return result

    def can_tell_invalid(self, path: Path, values: tuple[int, int]) -> bool:
        return can_tell_invalid(path, values)
