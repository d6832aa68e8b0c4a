"""The best threshold of every patch, the pseudo-labels it makes of each map, and what a set of maps could gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from prn_cli.execution.watch import SILENT, Watch
from prn_cli.options import Option
from prn_cli.workflows.account import Account
from prn_cli.workflows.items import WrittenResult
from prn_cli.workflows.options import (
    DryRun,
    GridName,
    Labels,
    LogitsHere,
    MaskOptions,
    Overwrite,
    PatchSide,
    ReadOptions,
    ReportOptions,
    RunOptions,
    TaskOptions,
)
from prn_cli.workflows.weak import WeakOptions, WeakResult

if TYPE_CHECKING:
    from prn_cli.metrics.regions import RegionCounts
    from prn_cli.thresholding.pseudolabels import Cut, Headroom, ThresholdCurve


@dataclass(frozen=True, kw_only=True)
class PseudolabelOptions(ReadOptions, TaskOptions, MaskOptions, ReportOptions, WeakOptions, RunOptions):
    """Options of `pseudolabel`.

    Raises:
        UsageError: a value is out of range, or options do not go together.
    """

    logits: LogitsHere = field(default=("logits",), kw_only=False)
    labels: Labels = Path("labels")
    out: Annotated[
        Path,
        Option(
            "Folder for labels/ and thresholds/.",
            "Output",
            flags=("-o",),
            aliases=("--output",),
            metavar="DIR",
            common=True,
            output=True,
        ),
    ] = Path("pseudolabels")
    patch: PatchSide = 64
    grid: GridName = "paper"
    figures_only: Annotated[
        bool, Option("Print the figures, and write neither pseudo-labels nor thresholds.", "Output", common=True)
    ] = False
    overwrite: Overwrite = False
    dry_run: DryRun = False
    images: Annotated[
        Path | None,
        Option(
            "Folder of the images, paired by stem: shown in the report; with --weak, masks follow their edges.",
            "Output",
            metavar="DIR",
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_weak(self.logits != ("logits",))


@dataclass(frozen=True, slots=True)
class PseudolabelledMap:
    """A map that was searched, or one class of it against the rest.

    Attributes:
        input: the map.
        class_name: empty for a single foreground.
        outputs: the files written, by role: `labels`, `thresholds`.
        status: `written`, `kept` if an earlier run wrote them, `searched` with `figures_only`.
        curve: the counts of every single threshold.
        counts: the pseudo-labels against the label.
        pixels: of the map.
        not_counted: pixels that do not count, by reason.
    """

    input: Path
    class_name: str
    outputs: Mapping[str, Path]
    status: str
    curve: ThresholdCurve
    counts: RegionCounts
    pixels: int
    not_counted: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class PseudolabelResult(WrittenResult):
    """What became of a run.

    Attributes:
        options: of the run.
        input_kind: what the numbers of the maps mean.
        account: of the pixels that do not count.
        maps: those that were searched, in input order.
        headrooms: what the set could gain, by class; a single foreground has an empty name.
    """

    options: PseudolabelOptions
    input_kind: str
    account: Account = field(default_factory=Account)
    maps: Sequence[PseudolabelledMap] = ()
    headrooms: Mapping[str, Headroom] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """For JSON. Figures are None without images; those of several classes stand under `classes`, by name."""
        found = {name: _figures(headroom) for name, headroom in self.headrooms.items()}
        return {
            **found.get("", {"classes": found}),
            "patch": self.options.patch,
            "grid": self.options.grid,
            "input_kind": self.input_kind,
            "not_counted": dict(self.account.not_counted),
            "out": None if self.options.figures_only else str(self.options.out),
            "failures": self.failure_records(),
        }


def _figures(headroom: Headroom) -> dict[str, Any]:
    def plain(cut: Cut) -> dict[str, Any]:
        record = {"pooled": round(cut.pooled, 6), "mean": round(cut.mean, 6)}
        return record if cut.threshold is None else {"threshold": cut.threshold} | record

    found: dict[str, Any] = dict.fromkeys(("at_half", "best_single", "oracle", "headroom"))
    if headroom.images:
        cuts = (headroom.at(0.5), headroom.best_single(), headroom.oracle(), headroom.gain())
        found = dict(zip(found, map(plain, cuts), strict=True))
    return {"images": headroom.images, "with_foreground": headroom.with_foreground, "pixels": headroom.pixels, **found}


def pseudolabel(options: PseudolabelOptions, watch: Watch = SILENT) -> PseudolabelResult | WeakResult:
    """Find the best threshold of every patch of labelled maps, and write the pseudo-labels.

    With `weak`, make masks from activation maps.

    A map whose outputs are current is searched again for its figures, but not written again. A map that fails does not
    stop the others; the result names it.

    Raises:
        PrnError: nothing could be started.
    """
    if options.weak is not None:
        from prn_cli.workflows import weak_maps

        return weak_maps.run(options, watch)
    from prn_cli.workflows import pseudolabel_maps

    return pseudolabel_maps.run(options, watch)
