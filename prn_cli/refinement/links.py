"""What refinement is asked for: refiners in a chain, and how to go about it; and the pieces that it hands on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from prn_cli.errors import UsageError
from prn_cli.maps.tiles import AxisPlan, Window, round_up, smallest_tile
from prn_cli.methods.refiner import FloatMap, Refiner


class Order(Enum):
    """In which order a map of several windows is read, refined and handed out; the result is the same.

    Memory grows with the width of the map in the first two, most in the first, and in the last with the height, least.
    """

    ROWS = "one row of windows after the other"
    ACROSS = "in each row of windows, one stretch of some columns after the other"
    DOWN = "one stretch of some columns after the other, each from the top"


@dataclass(frozen=True, slots=True)
class Link:
    """A refiner in a chain.

    Attributes:
        refiner: the method with its weights.
        strength: of the correction, 0 to 1; what the weights say if None. Without any, the link is left out.
        tile: side of a window, px; the refiner's own if None.
    """

    refiner: Refiner
    strength: float | None = None
    tile: int | None = None

    @property
    def applied(self) -> float:
        """The strength that is applied."""
        return self.refiner.strength if self.strength is None else self.strength

    def plan(self, height: int, width: int, shift: int) -> tuple[AxisPlan, AxisPlan]:
        """The windows along the height and along the width of a map.

        Raises:
            UsageError: the tile is too small.
        """
        check_tile(self.tile or self.refiner.needs.tile, self.refiner)
        return self.refiner.plan(height, width, tile=self.tile, shift=shift)


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """How a map is refined.

    Attributes:
        tta: test-time augmentation: the mean over the eight flips and quarter turns, at eight times the cost.
        batch: windows in one run of the network.
        shift: moves the borders of the windows, see `plan_axis`.
        seed: of the map's random numbers, see `prn_cli.maps.noise.place_seed`.
        plane: number of the class that the map is of, from 0.
        order: stretches are for maps that can be read so.
        read_ahead: bands of some 4 Mpx to read, in a thread of their own, while the network is at work on others; of
            maps that take several rows of windows. A refiner with several runs at once then begins with one row (or
            stretch of it) of windows before the last is put together: the logits of two are in memory, and some fields.
        on_run: called before each run of the network, in its thread; what it raises ends the work.
        on_windows: called with the number of windows that are done, see `count_windows`; perhaps in another thread.
    """

    tta: bool = False
    batch: int = 1
    shift: int = 0
    seed: int = 0
    plane: int = 0
    order: Order = Order.ROWS
    read_ahead: int = 0
    on_run: Callable[[], None] | None = None
    on_windows: Callable[[int], None] | None = None


@dataclass(frozen=True, slots=True)
class Ramp:
    """Rows at the edge of a section, whose result waits for the neighbouring section's.

    Attributes:
        y: first row.
        x: first column.
        field: `(ramp, w)` float32, of this section's windows alone; of several classes, `(C, ramp, w)`.
        base: the logits that the last link of a chain refines, of the same shape; None where there is one link, or
            where the neighbouring section has them.
    """

    y: int
    x: int
    field: FloatMap
    base: FloatMap | None = None

    @property
    def window(self) -> Window:
        """Where it lies on the map."""
        return Window(self.y, self.x, *self.field.shape[-2:])


class Piece(NamedTuple):
    """Rows of a map, or of a stretch of its columns, that a link has finished.

    Attributes:
        y: first row.
        x: first column.
        kept: `(k, h, w)` float32: planes of the input that are handed on.
        refined: `(h, w)` float32, NaN where invalid.
        all_valid: whether it is known that no pixel is invalid.
    """

    y: int
    x: int
    kept: FloatMap
    refined: FloatMap
    all_valid: bool


def check_tile(tile: int, refiner: Refiner) -> None:
    """Check that windows of this side leave room for the refiner's halos.

    Raises:
        UsageError: they do not, or the refiner's windows have another side.
    """
    needs = refiner.needs
    if needs.side:
        if tile not in (needs.side, needs.tile):
            raise UsageError(
                f"a tile of {tile} px, but windows of '{refiner.name}' have {needs.side} px", hint="leave --tile out"
            )
        return
    smallest = smallest_tile(needs.halo, needs.multiple)
    if round_up(max(tile, 1), needs.multiple) < smallest:
        raise UsageError(
            f"a tile of {tile} px is too small for '{refiner.name}', whose windows need {needs.halo} px of context "
            f"on each side",
            hint=f"give --tile {smallest} or more",
        )
