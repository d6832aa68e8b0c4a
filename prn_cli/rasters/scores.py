"""Score maps: logits or probabilities of one class, or of all classes of a softmax."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.certain import CERTAIN, find_certain, settle
from prn_cli.maps.classes import one_versus_rest, one_versus_rest_of
from prn_cli.maps.probabilities import logit, mask_probabilities, sigmoid
from prn_cli.maps.tiles import Window
from prn_cli.rasters.base import Raster
from prn_cli.rasters.kinds import ROUNDING, full_scale, unlikely_logit
from prn_cli.rasters.labels import BinaryMap
from prn_cli.rasters.roles import InputKind, Reading, Role
from prn_cli.rasters.valid import INFINITE, Reasons, ValidMap, no_valid_pixel

_SUM_TOLERANCE = 0.02  # how far from 1 a softmax may add up, after rounding to float16, or of a pair to bytes


class ScoreMap(ValidMap):
    """The scores of one class.

    One band is the score of the foreground. Two bands are the classes of a softmax, background first. Of more bands, or
    of a pair with `Reading.band`, the class of that band is taken against all others.

    Attributes:
        kind: what the values of the file mean.
    """

    def __init__(self, raster: Raster, role: Role, reading: Reading, valid: Raster | None = None) -> None:
        super().__init__(raster, role, reading, valid)
        self.kind = cast("InputKind", reading.kind)
        self._band = reading.band
        self._scale = reading.scale
        scale = self._scale or 1.0
        self._full = None if self.kind == "logits" else scale * full_scale(self.kind, raster)
        self._seen_valid = False

    def logits(self, window: Window | None = None) -> NDArray[np.float32]:
        """Read logits; those of probabilities are log(p / (1 - p)) with p clipped to [1e-6, 1 - 1e-6].

        Args:
            window: part of the map, inside it; all of it if None.

        Returns:
            `(h, w)` float32, NaN where invalid.

        Raises:
            InputError: values out of the range of `kind`, a damaged file, or no valid pixel in the whole map.
        """
        scores = self.scores(window)
        return scores if self.kind == "logits" else logit(scores)

    def probabilities(self, window: Window | None = None) -> NDArray[np.float32]:
        """Read probabilities, `(h, w)` float32 in [0, 1]; those of logits by the sigmoid. Otherwise as `logits`."""
        scores = self.scores(window)
        return sigmoid(scores) if self.kind == "logits" else scores

    def scores(self, window: Window | None = None) -> NDArray[np.float32]:
        """Read logits if the file holds logits, else probabilities. Otherwise as `logits`."""
        values = self.raster.read(window)
        full = self._full
        # Nearly always so, and soon known; not where a value is NaN.
        reach = CERTAIN * (self._scale or 1)
        in_range = full is None and bool(values.min() >= -reach and values.max() <= reach)
        valid = self._valid(values, window, all_finite=in_range, infinite=full is None)
        if full is None and self._scale is not None:
            values = values / np.float32(self._scale)
        if full is None and not in_range:
            values = self._settled(values, valid)
        elif not in_range:
            self._check_range(values, valid, full)
        with np.errstate(over="ignore", invalid="ignore"):  # of invalid pixels
            scores = self._logits_of(values) if full is None else self._probabilities_of(values, valid, full)
        if valid.all():
            self._seen_valid = True
            return scores
        scores[..., ~valid] = np.nan
        if valid.any():
            self._seen_valid = True
        elif window is None:
            raise no_valid_pixel(self.raster)
        return scores

    def reasons(self, window: Window | None = None) -> Reasons:
        """See `ValidMap.reasons`."""
        found = super().reasons(window)
        if self._full is None and self.raster.bands > 1:  # a softmax that is infinite in several classes, or in all
            undefined = np.isnan(self.scores(window)).reshape(-1, *found.shape).any(axis=0)
            found[undefined & (found == 0)] = INFINITE
        return found

    def check_valid(self) -> None:
        """Check, after a map was read by windows, that one of them had a valid pixel."""
        if not self._seen_valid:
            raise no_valid_pixel(self.raster)

    def _settled(self, values: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Finite logits, see `prn_cli.maps.certain`; where a softmax is undefined is invalid."""
        certain = find_certain(values)
        self._check_range(np.where(certain, 0, values), valid, None)
        numbers = settle(values, certain)
        valid &= ~np.isnan(numbers).any(axis=0)
        return numbers

    def _check_range(self, values: NDArray[Any], valid: NDArray[np.bool_], full: float | None) -> None:
        low, high = (-CERTAIN, CERTAIN) if full is None else (-ROUNDING * full, (1 + ROUNDING) * full)
        beyond = (values < low) | (values > high)
        beyond &= valid
        if not beyond.any():
            return
        value = float(values[beyond][0])
        if full is None:
            raise unlikely_logit(value, self.path)
        raise self.raster.error(
            f"{self.kind} with a value of {value:g}, expected 0 to {full:g}",
            f"say --nodata {value:g} if it means invalid; else give the right --input-kind",
        )

    def _logits_of(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """The logit of one class of a softmax against all others: z_k - log(sum of exp(z) of the others)."""
        if len(values) == 1:
            return np.asarray(values[0], np.float32)
        index = 1 if self._band is None else self._band - 1
        numbers = values.astype(np.float32)
        others = np.delete(numbers, index, axis=0)
        if len(others) == 1:
            return np.asarray(numbers[index] - others[0])
        top = others.max(axis=0)
        return np.asarray(numbers[index] - top - np.log(np.exp(others - top).sum(axis=0)), np.float32)

    def _probabilities_of(self, values: NDArray[Any], valid: NDArray[np.bool_], full: float) -> NDArray[np.float32]:
        if self._band is None and len(values) == 2:
            self._check_sum(
                values.astype(np.float32).sum(axis=0) / np.float32(full), valid, "choose a band with --bidx"
            )
        index = self._band - 1 if self._band is not None else len(values) - 1
        scores: NDArray[np.float32] = values[index].astype(np.float32)
        if full != 1:
            scores /= np.float32(full)
        return np.clip(scores, 0, 1, out=scores)

    def _check_sum(
        self, total: NDArray[np.float32], valid: NDArray[np.bool_], hint: str, rounding: float = 0.0
    ) -> None:
        """Check that the bands add up to 1."""
        off = np.abs(total - 1) > _SUM_TOLERANCE + rounding
        off &= valid
        if off.any():
            bands = self.raster.bands
            raise self.raster.error(
                f"{bands} bands that add up to {float(total[off][0]):.3g} and not 1: not the classes of a softmax", hint
            )


class MaskScores(ScoreMap):
    """A mask in place of scores, which says nothing of how sure it is: see `prn_cli.maps.probabilities`."""

    def __init__(self, raster: Raster, role: Role, reading: Reading, valid: Raster | None = None) -> None:
        super().__init__(raster, role, reading, valid)
        self._mask = BinaryMap(raster, role, reading, valid)
        self._seen_valid = True  # or it could not have been opened

    def scores(self, window: Window | None = None) -> NDArray[np.float32]:
        """Read probabilities. Otherwise as `logits`."""
        return mask_probabilities(self._mask.read(window))

    def reasons(self, window: Window | None = None) -> Reasons:
        """See `ValidMap.reasons`."""
        return self._mask.reasons(window)


class ClassScoreMap(ScoreMap):
    """The scores of all classes of a softmax, one per band; as `ScoreMap`, but `(C, h, w)`.

    Attributes:
        classes: number of classes.
    """

    def __init__(self, raster: Raster, role: Role, reading: Reading, valid: Raster | None = None) -> None:
        super().__init__(raster, role, reading, valid)
        self.classes = raster.bands

    def logits(self, window: Window | None = None) -> NDArray[np.float32]:
        """Read one-versus-rest logits, `(C, h, w)`, see `prn_cli.maps.classes`."""
        scores = self.scores(window)
        return one_versus_rest(scores) if self.kind == "logits" else one_versus_rest_of(scores)

    def probabilities(self, window: Window | None = None) -> NDArray[np.float32]:
        """Read the probabilities of the softmax, `(C, h, w)` float32 in [0, 1]."""
        scores = self.scores(window)
        return sigmoid(one_versus_rest(scores)) if self.kind == "logits" else scores

    def _logits_of(self, values: NDArray[Any]) -> NDArray[np.float32]:
        return values.astype(np.float32)

    def _probabilities_of(self, values: NDArray[Any], valid: NDArray[np.bool_], full: float) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = values.astype(np.float32) / np.float32(full)
        rounding = 0.0 if values.dtype.kind == "f" and full == 1 else self.classes / 2 / full
        self._check_sum(scores.sum(axis=0), valid, "refine one class at a time, with --bidx", rounding)
        return np.clip(scores, 0, 1, out=scores)
