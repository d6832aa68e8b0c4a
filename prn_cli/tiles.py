"""Window plans in integers: where tiles lie on a map, and how far they look beyond themselves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of pixels: `height` rows from row `y`, `width` columns from column `x`.

    A plan may place a window partly beyond the map (negative `y`/`x`, or past the far edges); `clip` gives the
    part that exists.
    """

    y: int
    x: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of this window in an `(H, W)` array. Only for windows inside the map."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)

    @property
    def bottom(self) -> int:
        """First row below the window."""
        return self.y + self.height

    @property
    def right(self) -> int:
        """First column right of the window."""
        return self.x + self.width

    def clip(self, height: int, width: int) -> Window:
        """The part of the window that lies on a map of `height` rows and `width` columns (maybe empty)."""
        y, x = max(self.y, 0), max(self.x, 0)
        bottom, right = min(self.bottom, height), min(self.right, width)
        return Window(y, x, max(bottom - y, 0), max(right - x, 0))
