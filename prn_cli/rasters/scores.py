"""Score maps: rasters whose numbers are understood, as logits or as probabilities."""

from __future__ import annotations

import os
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError, UsageError
from prn_cli.files.remote import as_path
from prn_cli.maps.probabilities import logit, sigmoid
from prn_cli.maps.tiles import Window
from prn_cli.rasters.kinds import (
    INPUT_KINDS,
    LARGEST_LOGIT,
    ROUNDING,
    InputKind,
    detect_kind,
    full_scale,
    no_valid_pixel,
    unlikely_logit,
    valid_pixels,
)
from prn_cli.rasters.raster import Raster, open_raster

_PAIR_TOLERANCE = 0.02  # how far from 1 the two classes of a softmax may add up, after rounding to bytes or float16


class ScoreMap:
    """A raster whose numbers are understood. A context manager.

    Attributes:
        path: the file.
        height: rows.
        width: columns.
        kind: what the file's numbers mean.
        raster: the open file.
    """

    def __init__(
        self, raster: Raster, kind: InputKind, *, nodata: float | None, valid: Raster | None, band: int | None
    ) -> None:
        self.path = raster.path
        self.height = raster.height
        self.width = raster.width
        self.kind = kind
        self.raster = raster
        self._nodata = nodata
        self._valid = valid
        self._band = band
        self._seen_valid = False

    @property
    def by_columns(self) -> bool:
        """See `Raster`."""
        return self.raster.by_columns and (self._valid is None or self._valid.by_columns)

    def logits(self, window: Window | None = None) -> NDArray[np.float32]:
        """Read logits; those of probabilities are log(p / (1 - p)) with p clipped to [1e-6, 1 - 1e-6].

        Args:
            window: part of the map, inside it; all of it if None.

        Returns:
            `(h, w)` float32, NaN where invalid.

        Raises:
            InputError: numbers outside the range of `kind`, a damaged file, or no valid pixel in the whole map.
        """
        scores = self._scores(window)
        return scores if self.kind == "logits" else logit(scores)

    def probabilities(self, window: Window | None = None) -> NDArray[np.float32]:
        """Read probabilities; those of logits by the sigmoid.

        Args:
            window: part of the map, inside it; all of it if None.

        Returns:
            `(h, w)` float32 in [0, 1], NaN where invalid.

        Raises:
            InputError: numbers outside the range of `kind`, a damaged file, or no valid pixel in the whole map.
        """
        scores = self._scores(window)
        return sigmoid(scores) if self.kind == "logits" else scores

    def check_valid(self) -> None:
        """Check, after a map was read by windows, that one of them had a valid pixel.

        Raises:
            InputError: none had.
        """
        if not self._seen_valid:
            raise no_valid_pixel(self.path)

    def _scores(self, window: Window | None) -> NDArray[np.float32]:
        """Logits if the file holds logits, else probabilities."""
        values = self.raster.read(window)
        full = None if self.kind == "logits" else full_scale(self.kind, self.raster.dtype)
        # Nearly always so, and soon known; not where a value is NaN.
        in_range = full is None and bool(values.min() >= -LARGEST_LOGIT and values.max() <= LARGEST_LOGIT)
        valid = valid_pixels(self.raster, values, window, self._nodata, full, all_finite=in_range)
        if self._valid is not None:
            valid &= read_valid_mask(self._valid, window)
        if not in_range:
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
            raise no_valid_pixel(self.path)
        return scores

    def _check_range(self, values: NDArray[Any], valid: NDArray[np.bool_], full: float | None) -> None:
        if full is None:
            beyond = ((values < -LARGEST_LOGIT) | (values > LARGEST_LOGIT)) & valid
            if beyond.any():
                raise unlikely_logit(float(values[beyond][0]), self.path)
            return
        beyond = (values < -ROUNDING * full) | (values > (1 + ROUNDING) * full)
        beyond &= valid
        if beyond.any():
            raise InputError(
                f"{self.kind} with a value of {float(values[beyond][0]):g}, expected 0 to {full:g}",
                hint="give the right --input-kind, or --nodata if the value means invalid",
                path=self.path,
            )

    def _logits_of(self, values: NDArray[Any]) -> NDArray[np.float32]:
        return _class_logits(values, self._band)

    def _probabilities_of(self, values: NDArray[Any], valid: NDArray[np.bool_], full: float) -> NDArray[np.float32]:
        if self._band is not None:
            chosen = values[self._band - 1]
        elif len(values) == 2:
            total = values.astype(np.float32).sum(axis=0) / np.float32(full)
            off = np.abs(total - 1) > _PAIR_TOLERANCE
            off &= valid
            if off.any():
                raise InputError(
                    f"two bands that add up to {float(total[off][0]):.3g} and not 1: not the two classes of a softmax",
                    hint="choose a band with --bidx",
                    path=self.path,
                )
            chosen = values[1]
        else:
            chosen = values[0]
        scores: NDArray[np.float32] = chosen.astype(np.float32)
        if full != 1:
            scores /= np.float32(full)
        np.clip(scores, 0, 1, out=scores)
        return scores

    def close(self) -> None:
        """Let go of the files."""
        self.raster.close()
        if self._valid is not None:
            self._valid.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_scores(
    path: str | os.PathLike[str],
    *,
    kind: InputKind | Literal["auto"] = "auto",
    nodata: float | None = None,
    valid_mask: str | os.PathLike[str] | None = None,
    band: int | None = None,
    key: str | None = None,
) -> ScoreMap:
    """Open a score map.

    One band is the score of the foreground. Two bands are the classes of a softmax, background first. Of more bands,
    or of a pair with `band`, the class of that band against all others is taken.

    Args:
        path: the file.
        kind: what its numbers mean; `auto` looks at this file alone (for a set, see `detect_kind`).
        nodata: value of invalid pixels, besides NaN, infinity and the value that the file declares; NaN stands for
            "not the declared value".
        valid_mask: a raster of the same size, zero where pixels are invalid.
        band: number of the class's band, counted from 1.
        key: name of the array in an `.npz` file.

    Returns:
        The open map; use it in a `with` statement.

    Raises:
        InputError: the file cannot be used.
        UsageError: more than two bands and no `band`, or a band that the file does not have.
    """
    path = as_path(path)
    with ExitStack() as stack:
        raster = stack.enter_context(open_raster(path, key=key))
        refuse_scaled(raster)
        if kind == "auto":
            kind = detect_kind([path], nodata=nodata, key=key)
        if kind not in INPUT_KINDS:
            raise UsageError(f"input kind '{kind}', expected auto, {', '.join(INPUT_KINDS)}")
        if band is not None and not 1 <= band <= raster.bands:
            raise UsageError(f"band {band} of {raster.bands}", hint="give another --bidx", path=path)
        if raster.bands > 2 and band is None:
            raise UsageError(
                f"{raster.bands} bands, expected 1, or 2 of a softmax",
                hint="choose one class with --bidx, or all with --task multiclass",
                path=path,
            )
        valid = None
        if valid_mask is not None:
            valid = stack.enter_context(open_raster(valid_mask))
            check_same_size(valid, raster)
        stack.pop_all()
    return ScoreMap(raster, kind, nodata=nodata, valid=valid, band=band)


def lay_like(raster: Raster, path: str | os.PathLike[str]) -> None:
    """Give an open raster the georeference of another of the same size, unless it has one.

    Raises:
        InputError: the other has another size, or no georeference.
    """
    with open_raster(path) as reference:
        check_same_size(reference, raster)
        if reference.geo is None:
            raise InputError("has no georeference", hint="give another --like", path=path)
        if raster.geo is None or not raster.geo.is_placed:
            raster.geo = reference.geo


def refuse_scaled(raster: Raster) -> None:
    """Check that a raster's numbers are what they say.

    Raises:
        InputError: they stand for others.
    """
    if raster.scaled:
        raise InputError(
            "declares a scale or an offset of its numbers, which prn does not apply",
            hint="write it again (gdal_translate -unscale -ot Float32)",
            path=raster.path,
        )


def check_same_size(raster: Raster, other: Raster) -> None:
    """Check that a raster has the height and width of another.

    Raises:
        InputError: it has not.
    """
    if (raster.height, raster.width) != (other.height, other.width):
        raise InputError(
            f"{raster.height}×{raster.width} pixels, expected {other.height}×{other.width} as in {other.path}",
            hint="make the two the same size",
            path=raster.path,
        )


def _class_logits(values: NDArray[Any], band: int | None) -> NDArray[np.float32]:
    """The logit of one class of a softmax against all others: z_k - log(sum of exp(z) of the others)."""
    if len(values) == 1:
        return np.asarray(values[0], np.float32)
    index = 1 if band is None else band - 1
    numbers = values.astype(np.float32)
    others = np.delete(numbers, index, axis=0)
    if len(others) == 1:
        return np.asarray(numbers[index] - others[0])
    top = others.max(axis=0)
    return np.asarray(numbers[index] - top - np.log(np.exp(others - top).sum(axis=0)), np.float32)


def read_valid_mask(mask: Raster, window: Window | None = None) -> NDArray[np.bool_]:
    """Where a validity mask, with its own nodata counted as invalid, is not zero."""
    values = mask.read(window)
    return np.asarray(valid_pixels(mask, values, window, None, None) & (values != 0).any(axis=0), np.bool_)
