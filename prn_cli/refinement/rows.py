"""Logits to refined logits, by rows of windows and by stretches of columns, so that memory does not grow."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import UsageError
from prn_cli.maps.blend import mix_rows
from prn_cli.maps.classes import recombine
from prn_cli.maps.pixels import IGNORE
from prn_cli.maps.probabilities import sigmoid
from prn_cli.maps.tiles import Span, Window, row_bands
from prn_cli.methods.refiner import FloatMap, Refiner
from prn_cli.refinement.chain import Chain
from prn_cli.refinement.links import How, Link, Order, Ramp, check_tile
from prn_cli.refinement.strips import finished

__all__ = [
    "How",
    "Link",
    "Order",
    "Ramp",
    "Rows",
    "check_classes",
    "check_image",
    "check_tile",
    "count_windows",
    "cut",
    "finish_ramp",
    "join_sections",
    "look_over",
    "refine_map",
    "refine_rows",
    "refine_section",
    "window_rows",
]

AS_USUAL = How()
Read = Callable[[Window], FloatMap]

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Rows:
    """Finished rows of a map: of its whole width, or of some columns.

    Arrays are `(h, w)` float32, or `(C, h, w)` one-versus-rest of several classes; NaN where invalid.

    Attributes:
        y: first row.
        logits: the base model's; may be the very array that was read.
        refined: refined logits.
        x: first column.
        all_valid: whether it is known that no pixel is invalid.
    """

    y: int
    logits: FloatMap
    refined: FloatMap
    x: int = 0
    all_valid: bool = False

    @property
    def bias(self) -> FloatMap:
        """What was added to the base model's logits."""
        return self.refined - self.logits

    @property
    def probabilities(self) -> FloatMap:
        """The refined probabilities, in [0, 1]; those of several classes add up to 1."""
        return recombine(self.refined) if self.refined.ndim == 3 else sigmoid(self.refined)


def check_image(links: Sequence[Link], *, given: bool) -> None:
    """Check that refiners that take an image beside the logits get one, and no others.

    Raises:
        UsageError: they do not, or they take images of different numbers of bands.
    """
    bands = sorted({link.refiner.needs.bands for link in links} - {0})
    if len(bands) > 1:
        raise UsageError(f"these weights take images of {bands[0]} and of {bands[1]} bands, expected one number")
    if bands and not given:
        raise UsageError(
            f"these weights take an image of {bands[0]} bands beside the logits, and there is none",
            hint="give --images, the folder of the images, or other weights",
        )
    if given and not bands:
        raise UsageError("these weights take no image", hint="leave the image out")


def check_classes(links: Sequence[Link], count: int) -> None:
    """Check that refiners that find all classes at once find as many as the maps have.

    Raises:
        UsageError: they do not.
    """
    for link in links:
        known = link.refiner.needs.classes
        if known not in (0, count):
            raise UsageError(
                f"these weights find {known} class{'es' * (known > 1)}, and the maps have {count}",
                hint="give weights of this base model, and the --task that they learned",
            )


def refine_rows(
    read_logits: Read,
    height: int,
    width: int,
    links: Sequence[Link],
    how: How = AS_USUAL,
    *,
    read_image: Read | None = None,
) -> Generator[Rows]:
    """Refine a map of any size, see `refine_section`.

    Yields:
        Bands of consecutive rows, from the top, that together are the map. By stretches, the bands come in their
        order, and are cut alike in all stretches of a row of windows.
    """
    for piece in refine_section(read_logits, height, width, links, how, read_image=read_image):
        if isinstance(piece, Rows):
            yield piece


def refine_section(
    read_logits: Read,
    height: int,
    width: int,
    links: Sequence[Link],
    how: How = AS_USUAL,
    *,
    section: slice = slice(None),
    read_image: Read | None = None,
    overviews: Sequence[Any] | None = None,
) -> Generator[Rows | Ramp]:
    """Refine some of the rows of windows of a map; `join_sections` puts sections together.

    Of each link, little more than one row of windows is in memory, or a few windows of it, see `refine_link`.

    Args:
        read_logits: gives the logits of a window inside the map, `(h, w)` float32, NaN where invalid.
        height: rows of the map.
        width: columns of the map.
        links: refiners; each refines what the one before it has made.
        how: to go about it.
        section: of the rows of windows, as `window_rows` counts them.
        read_image: gives the image of a window, `(bands, h, w)` float32, NaN where invalid; for refiners that take one.
        overviews: what `look_over` gave, where several processes refine sections; None to look here.

    Yields:
        The finished rows of the section; before them, if there is a section above, and after them, if there is one
        below, the rows that the two share.

    Raises:
        UsageError: a tile is too small, or an image is missing or not wanted.
        PrnError: a network failed, or gave numbers that are not finite.
    """
    check_image(links, given=read_image is not None)
    applied = _applied(links)
    if not applied:
        rows, _ = links[-1].plan(height, width, how.shift)
        spans = rows.spans[section]
        end = height if spans[-1].stop == height else spans[-1].stop - rows.ramp
        yield from _unchanged(read_logits, spans[0].keep, end, width)
        return
    chain = _chain(read_logits, (height, width), applied, how, read_image)
    with closing(chain.pieces(section, chain.overviews() if overviews is None else overviews)) as pieces:
        for piece in pieces:
            if not isinstance(piece, Ramp):
                yield Rows(piece.y, piece.kept[0], piece.refined, piece.x, piece.all_valid)
            elif len(applied) == 1:
                yield Ramp(piece.y, piece.x, piece.field)  # its logits are the map's, and need not be sent
            else:
                yield piece


def _applied(links: Sequence[Link]) -> list[Link]:
    return [link for link in links if link.applied > 0]


def _chain(read_logits: Read, size: tuple[int, int], links: Sequence[Link], how: How, read_image: Read | None) -> Chain:
    bands = max(link.refiner.needs.bands for link in links)
    several = len(links) > 1

    def read(window: Window) -> Sequence[FloatMap]:
        logits = read_logits(window)
        image = read_image(window) if bands and read_image is not None else ()
        return [logits, *image, *((logits,) if several else ())]

    return Chain(read, 1 + bands + several, size, links, how)


def look_over(
    read_logits: Read,
    height: int,
    width: int,
    links: Sequence[Link],
    how: How = AS_USUAL,
    *,
    read_image: Read | None = None,
) -> tuple[Any, ...]:
    """What the links must know of the whole map, once for all sections of it; see `refine_section`."""
    applied = _applied(links)
    return _chain(read_logits, (height, width), applied, how, read_image).overviews() if applied else ()


def _unchanged(read_logits: Read, start: int, end: int, width: int) -> Iterator[Rows]:
    for band in row_bands(end - start, width):
        y = start + band.y
        logits = read_logits(Window(y, 0, band.height, width))
        yield Rows(y, logits, logits)


def window_rows(height: int, width: int, links: Sequence[Link], *, shift: int = 0) -> tuple[Span, ...]:
    """The rows of windows into which the last link that is applied cuts a map, of which sections are made."""
    last = (_applied(links) or links)[-1]
    return last.plan(height, width, shift)[0].spans


def count_windows(height: int, width: int, links: Sequence[Link], *, shift: int = 0) -> int:
    """How many windows all links together have on a map."""
    plans = (link.plan(height, width, shift) for link in _applied(links))
    return sum(len(rows.spans) * len(columns.spans) for rows, columns in plans)


def join_sections(pieces: Iterable[T | Ramp], finish: Callable[[Ramp], R]) -> Iterator[T | R]:
    """Finish the rows that sections share.

    Args:
        pieces: all that `refine_section` gave for each section of a map, from the top; anything may stand for rows.
        finish: gives the rows of a ramp whose field is that of both sections, see `finish_ramp`.

    Yields:
        The pieces, with rows in the place of ramps, the same as `refine_rows` gives them.
    """
    above: dict[int, Ramp] = {}  # by column
    for piece in pieces:
        if not isinstance(piece, Ramp):
            yield piece
        elif piece.x not in above:
            above[piece.x] = piece
        else:
            field = mix_rows(above.pop(piece.x).field, piece.field)
            yield finish(Ramp(piece.y, piece.x, field, piece.base))


def finish_ramp(ramp: Ramp, logits: FloatMap, links: Sequence[Link]) -> Rows:
    """Refine rows that two sections share.

    Args:
        ramp: with the field of both, `(ramp, w)`; its memory may be taken.
        logits: the map's, of its window, `(ramp, w)` float32, NaN where invalid.
        links: as in `refine_section`.

    Raises:
        PrnError: the network gave numbers that are not finite.
    """
    base = logits if ramp.base is None else ramp.base
    refined, all_valid = finished(_applied(links)[-1], ramp.y, ramp.x, base, ramp.field)
    return Rows(ramp.y, logits, refined, ramp.x, all_valid)


def refine_map(
    logits: FloatMap,
    refiner: Refiner,
    *,
    image: FloatMap | None = None,
    tile: int | None = None,
    tta: bool = False,
    shift: int = 0,
    strength: float | None = None,
    seed: int = 0,
    plane: int = 0,
) -> FloatMap:
    """Refine a map in memory.

    Args:
        logits: `(H, W)` float32, NaN where invalid.
        refiner: the method.
        image: `(refiner.needs.bands, H, W)` float32, NaN where invalid, for refiners that take one.
        tile: side of a window, px; the refiner's own if None.
        tta: test-time augmentation by flips and quarter turns.
        shift: moves the borders of the windows.
        strength: of the correction, 0 to 1; what the weights say if None.
        seed: of the map's random numbers, see `prn_cli.maps.noise.place_seed`.
        plane: number of the class that the map is of, from 0.

    Returns:
        Refined logits, `(H, W)` float32, NaN where invalid.
    """
    bands = refine_rows(
        lambda window: logits[window.slices],
        logits.shape[0],
        logits.shape[1],
        [Link(refiner, strength, tile)],
        How(tta=tta, shift=shift, seed=seed, plane=plane),
        read_image=None if image is None else lambda window: image[:, *window.slices],
    )
    return np.concatenate([rows.refined for rows in bands])


def cut(refined: FloatMap, threshold: float, *, all_valid: bool = False) -> NDArray[np.uint8]:
    """Cut refined logits into a mask.

    Args:
        refined: `(h, W)` float32, NaN where invalid.
        threshold: probability above which a pixel is foreground, 0 to 1.
        all_valid: no pixel is invalid, so that none needs to be looked for.

    Returns:
        `(h, W)` uint8: 0 background, 1 foreground, 255 invalid.
    """
    # In logits, where probabilities close to 0 and 1 are still apart.
    with np.errstate(divide="ignore"):
        least = np.float32(np.log(threshold) - np.log1p(-threshold))
    mask: NDArray[np.uint8] = np.asarray(refined > least).view(np.uint8)
    if all_valid:
        return mask
    invalid = np.isnan(refined)
    if invalid.any():
        mask[invalid] = IGNORE
    return mask
