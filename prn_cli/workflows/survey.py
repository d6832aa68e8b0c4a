"""What refiners make of a whole set before its first map: a bounded sample of it, read and shown to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from prn_cli import rasters
from prn_cli.errors import PrnError
from prn_cli.execution.watch import Watch
from prn_cli.maps.certain import hold
from prn_cli.maps.tiles import Window, round_up
from prn_cli.methods.refiner import FloatMap, Needs, Windows
from prn_cli.rasters import Reading, open_map
from prn_cli.rasters.pairs import Paths
from prn_cli.refinement.rows import Link, refine_rows
from prn_cli.refinement.windows import pad
from prn_cli.tasks import Task
from prn_cli.thresholding.sampling import SIDE, sample_maps, sample_windows

_WINDOWS_OF_A_MAP = 2
_SMALL_MAPS = 4  # so many times as many maps as of full windows, where maps are small


@dataclass(frozen=True, slots=True, kw_only=True)
class MapSet:
    """All maps of a run, those of other parts of a job array among them, and how they are read."""

    inputs: Paths
    images: Path | None
    valid_mask: Path | None
    task: Task
    reading: Reading


def survey(links: Sequence[Link], maps: MapSet, watch: Watch) -> tuple[tuple[Link, ...], dict[str, Any]]:
    """Show each refiner that wants it a sample of its set: maps as the links before it hand them on, and their images.

    Returns:
        The links as they suit the set, and what the outputs depend on by that, for the manifest.
    """
    found: list[Link] = []
    settings = []
    for link in links:
        needs = link.refiner.needs
        if not needs.survey or link.strength == 0:
            found.append(link)
            continue
        sample = [_windows(_refined(*planes, found), planes[1], needs) for planes in _sample(maps, needs, watch)]
        made = link.refiner.survey(sample)
        strength = made.strength if link.strength is None else link.strength
        found.append(replace(link, refiner=made.refiner, strength=strength))
        settings.append(dict(made.settings))
        if made.said and link.strength is None:
            watch.note(made.said)
    return tuple(found), {"survey": settings} if settings else {}


def _sample(maps: MapSet, needs: Needs, watch: Watch) -> Iterator[tuple[FloatMap, FloatMap]]:
    """Logits `(h, w)` and images `(bands, h, w)` of windows drawn by the names of the maps, until there are enough."""
    numbers = {stem: number for number, stem in enumerate(maps.inputs.stems())}
    stems = sample_maps(numbers, most=_SMALL_MAPS * max(needs.survey // SIDE**2, 1))
    paths = [maps.inputs[numbers[stem]] for stem in stems]
    images, masks = rasters.find_images(paths, maps.images), rasters.find_valid_masks(paths, maps.valid_mask)
    seen = 0
    for stem, path in zip(stems, paths, strict=True):
        try:
            with maps.task.open_scores(path, maps.reading, valid_mask=masks.of(path)) as scores:
                for window in sample_windows(stem, scores.height, scores.width, most=_WINDOWS_OF_A_MAP):
                    image = np.empty((0, window.height, window.width), np.float32)
                    if needs.bands:
                        place = images.of(path)
                        assert place is not None  # missing ones raise
                        with open_map("image", place, maps.reading, like=scores.raster, bands=needs.bands) as opened:
                            image = opened.read(window)
                    for plane in maps.task.planes(scores.logits(window)):
                        yield np.asarray(plane, np.float32), image
                        seen += plane.size
        except (PrnError, OSError) as error:  # it fails when its turn comes
            watch.detail(f"{path}: no part of the sample: {error}")
        if seen >= needs.survey:
            return


def _windows(logits: FloatMap, image: FloatMap, needs: Needs) -> Windows:
    sides = [round_up(size, needs.multiple) for size in logits.shape]
    planes = pad(np.concatenate([logits[np.newaxis], image]), *sides, mode=needs.padding)
    image = planes[np.newaxis, 1:]
    return Windows(hold(planes[:1]), image if needs.bands else None, size=(logits.shape[0], logits.shape[1]))


def _refined(logits: FloatMap, image: FloatMap, links: Sequence[Link]) -> FloatMap:
    """The window as the links before have refined it."""
    if not any(link.applied for link in links):
        return logits

    def read_logits(window: Window) -> FloatMap:
        return logits[window.slices]

    def read_image(window: Window) -> FloatMap:
        return image[:, *window.slices]

    height, width = logits.shape
    takes = any(link.refiner.needs.bands for link in links)
    rows = refine_rows(read_logits, height, width, links, read_image=read_image if takes else None)
    return np.concatenate([each.refined for each in rows])
