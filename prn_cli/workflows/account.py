"""The pixels of a set that do not count, and why; and classes that never do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from prn_cli.errors import percent
from prn_cli.execution.watch import Watch

_WORDS = {
    "nan": "NaN",
    "infinite": "infinite values",
    "nodata": "nodata values",
    "mask": "masks",
    "ignored": "ignored labels",
    "outside": "outside of files",
    "invalid": "invalid activations",
}
_MUCH = 0.5


@dataclass(frozen=True, slots=True)
class Account:
    """How many pixels there are, and how many do not count, by reason (see `prn_cli.rasters.valid.REASONS`)."""

    pixels: int = 0
    not_counted: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, maps: Iterable[tuple[int, Mapping[str, int]]]) -> Account:
        """The sum over maps: of each, its pixels and those that do not count."""
        pixels, total = 0, Counter[str]()
        for size, lost in maps:
            pixels += size
            total.update(lost)
        return cls(pixels, +total)

    @property
    def share(self) -> float:
        """Of the pixels that do not count."""
        return self.not_counted.total() / max(self.pixels, 1)

    def __str__(self) -> str:
        """In words; empty if all pixels count."""
        if not self.not_counted:
            return ""
        parts = [(_WORDS[name], percent(count / self.pixels)) for name, count in self.not_counted.most_common()]
        said = parts[0][0] if len(parts) == 1 else ", ".join(map(" ".join, parts))
        return f"{percent(self.share)} of the pixels do not count: {said}"

    def tell(self, watch: Watch) -> None:
        """Say it once, as a warning if more than half do not count."""
        if self.not_counted:
            (watch.warning if self.share > _MUCH else watch.note)(str(self))


def warn_of_absent(
    counts: Mapping[str, int], watch: Watch, *, ignored: Collection[float] = (), noun: str = "label"
) -> None:
    """Warn of classes of which no label has a pixel that counts, and name the values that labels ignore."""
    absent = [name for name, count in counts.items() if not count]
    if absent:
        values = ", ".join(f"{value:g}" for value in sorted(ignored))
        why = f"; {noun}s ignore the value{'s' if len(ignored) > 1 else ''} {values}" if ignored else ""
        watch.warning(f"no pixel of {', '.join(absent)} counts in any {noun}{why}")
