"""`image`: a bias map from logits and image, added to the logits; on sets it has not learned from, with a brake."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.maps.bands import band_range
from prn_cli.maps.probabilities import logit
from prn_cli.methods.image.brake import DECIDING, Agreement, Brake, consensus, fields_of_views
from prn_cli.methods.image.repeated import Repeated
from prn_cli.methods.refiner import FloatMap, Metadata, NetworkRefiner, Runner, Survey, Windows

Range = tuple[tuple[float, ...], tuple[float, ...]]
"""Lowest and highest value of each band."""

LIMIT = 1.5
"""Of the image, whose range is [-1, 1]."""
_SURE, _SURE_IF_HIDDEN = 6.5, 13.0
"""Logits beyond which no bias moves a pixel across a threshold between 0.05 and 0.95; and if scores are hidden."""
_SURVEYED = 4 << 20  # pixels of a set
_OVERVIEW = 256  # px


def stretched(image: FloatMap, limits: Range) -> FloatMap:
    """The image, `(..., bands, h, w)`, in its range: [-1, 1], and half as much on either side."""
    low, high = (np.array(end, np.float32)[:, None, None] for end in limits)
    return np.asarray(np.clip(2 * (image - low) / (high - low) - 1, -LIMIT, LIMIT), np.float32)


def hidden(logits: FloatMap, image: FloatMap) -> FloatMap:
    """Logits `(N, 1, h, w)` as a network gets them that is to look at the image `(N, bands, h, w)` alone.

    0 where both are valid, else NaN: where there is no image, such a network knows nothing.
    """
    missing = np.isnan(logits) | np.isnan(image).any(axis=1, keepdims=True)
    return np.where(missing, np.float32(np.nan), np.float32(0))


class ImageRefiner(NetworkRefiner):
    """Field: the bias map, in logits.

    What the base model is sure of is neither looked at nor changed, but as the surroundings of what it is not.

    Args:
        runner: maps `logits` (N, 1, H, W) and `image` (N, 3, H, W), in [-1, 1], to `bias`, (N, 1, H, W) or of all
            classes at once, all float32.
        limits: of each band of the images; those that the weights know, or each map's own, if None.
        centre: the logit at which base masks are cut. The network sees logits as if that were 0.
    """

    name = "image"

    def __init__(self, runner: Runner, limits: Range | None = None, centre: float = 0.0) -> None:
        super().__init__(runner)
        self.centre = centre
        self.expect(["logits", "image"], ["bias"])
        known = Metadata(runner.metadata, runner.path)
        low, high = (known.numbers(f"prn.image_{end}", self.needs.bands) for end in ("low", "high"))
        self.brake = known.parsed("prn.brake", Brake.from_json, "a brake")
        self.agrees = self.brake is not None or known.number("prn.two_views", least=0, default=0) > 0
        self.hides = known.number("prn.hide_scores", least=0, default=0) > 0
        planes = known.number("prn.planes", least=1, default=1) if self.hides else 1
        self._repeated = Repeated(planes)
        levels = known.numbers("prn.level", planes)
        self.keeps_level = levels is not None  # what was learned was made of the scores
        self.levels = levels or (0.0,) * planes
        self.limits = limits or (None if low is None or high is None else (low, high))
        unknown = self.limits is None
        multiple = self.needs.multiple * (2 if self.agrees else 1)  # half the scale is looked at, too
        self.needs = replace(
            self.needs,
            multiple=multiple,
            overview=_OVERVIEW * unknown,
            survey=_SURVEYED * unknown,
            classes=planes if self.hides else 0,
        )

    def overview(self, reduced: Windows) -> Range | None:
        """The range of each band of the map's image."""
        return None if reduced.image is None else band_range(reduced.image)

    def cut_at(self, threshold: float) -> ImageRefiner:
        """The refiner of base masks that are cut at another threshold, if its weights have not learned at one."""
        if self.brake is None:
            return self
        return self._knowing(self.limits, float(logit(np.full(1, threshold, np.float32))[0]))

    def _knowing(self, limits: Range | None, centre: float) -> ImageRefiner:
        known = type(self)(self.runner, limits, centre)
        known.strength = self.strength
        return known

    def survey(self, sample: Sequence[Windows]) -> Survey:
        """Take the range of each band of the set, and the strength that the network's agreement with itself bears."""
        images = [windows.image[0] for windows in sample if windows.image is not None]
        if not images:
            return Survey(self)
        known = self._knowing(band_range(images), self.centre)
        settings = {"image_range": known.limits}
        if self.brake is None:
            return Survey(known, settings=settings)
        agreement = Agreement()
        for windows in sample:
            fields = [field[:, 0] for field in fields_of_views(windows, known.biases)]
            agreement.add(windows.logits - np.float32(self.centre), fields)
        features = agreement.features()
        strength = self.brake.strength(features)
        then = f"strength {strength:g}" if strength else "scores left as they are"
        said = f"agreement {features[0]:.2f} of refined masks of maps mirrored, turned and reduced: {then}"
        return Survey(known, strength, said, settings | {"agreement": features.round(4).tolist()})

    def doubt(self, sample: Sequence[Windows]) -> str:
        """Values beyond the range that the network is shown, such as of 16 bits where 8 were learned from."""
        images = [windows.image[0] for windows in sample if windows.image is not None]
        if not images or self.limits is None:
            return ""
        low, high = np.array(self.limits)
        reach = (LIMIT - 1) / 2 * (high - low)
        found = np.array(band_range(images))
        strange = (found[1] > high + reach) | (found[0] < low - reach)
        if not strange.any():
            return ""
        band = int(strange.argmax())
        (least, most), (known, to) = found[:, band], (low[band], high[band])
        return f"images from {least:g} to {most:g} in band {band + 1}, and these weights know {known:g} to {to:g}"

    def field(self, windows: Windows) -> FloatMap:
        """The bias map; of weights that have not learned from the set or its scenes, what two views of it agree on."""
        if len(self.levels) == 1:
            found, level = self._fields(windows)[:, 0], self.levels[0]
        else:
            given = np.isnan(windows.logits), windows.image, self.limits or windows.overview
            seen = [np.asarray(each) for each in given if each is not None]
            found = self._repeated.get(seen, lambda: self._fields(windows))[:, windows.plane].copy()
            level = self.levels[windows.plane]
        return np.where(found == 0, found, found - np.float32(level)) if level else found

    def _fields(self, windows: Windows) -> FloatMap:
        return consensus(fields_of_views(windows, self.biases, DECIDING)) if self.agrees else self.biases(windows)

    def biases(self, windows: Windows) -> FloatMap:
        """The bias maps of all classes that are found at once, `(N, planes, h, w)`; 0 around which the base is sure."""
        count, height, width = windows.logits.shape
        found = np.zeros((count, len(self.levels), height, width), np.float32)
        logits = windows.logits - np.float32(self.centre)
        part = self._unsure(logits)
        if part is not None and windows.image is not None:
            image = stretched(windows.image[:, :, *part], self.limits or windows.overview)
            seen = logits[:, np.newaxis, *part]
            seen = hidden(seen, image) if self.hides else seen
            bias = self.runner.run(["bias"], {"logits": seen, "image": image})[0]
            found[..., *part] = np.where(np.isnan(seen), 0, bias)
        return found

    def _unsure(self, logits: FloatMap) -> tuple[slice, slice] | None:
        """Rows and columns around all that the base model is not sure of; None if there is nothing."""
        if self.needs.classes > 1:  # all classes look at the same
            return slice(0, logits.shape[1]), slice(0, logits.shape[2])
        limit = _SURE_IF_HIDDEN if self.hides else _SURE
        unsure: NDArray[np.bool_] = (np.abs(logits) < limit).max(axis=0)
        if not unsure.any():
            return None
        rows, columns = np.nonzero(unsure)
        return self._around(rows, unsure.shape[0]), self._around(columns, unsure.shape[1])

    def _around(self, places: NDArray[np.intp], size: int) -> slice:
        """The rows or columns from the first place to the last, with what a pixel needs around it."""
        multiple, halo = self.needs.multiple, self.needs.halo
        first, last = (int(places.min()) - halo) // multiple, -(-(int(places.max()) + 1 + halo) // multiple)
        return slice(max(first * multiple, 0), min(last * multiple, size))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what is known of the set, too."""
        made, _, state = super().__reduce__()
        return made, (self.runner, self.limits, self.centre), state
