"""Masks or probability maps against labels: figures of the set, with intervals, and of every image."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from prn_cli.errors import one_line
from prn_cli.execution.watch import SILENT, Watch
from prn_cli.options import Option
from prn_cli.workflows.account import Account
from prn_cli.workflows.items import Result
from prn_cli.workflows.options import Labels, ReadOptions, ReportOptions, RunOptions, ScoreKind, Seed, TaskOptions

if TYPE_CHECKING:
    from prn_cli.metrics.intervals import Estimate
    from prn_cli.metrics.score import Figure, ImageScore, Metric, Summary
    from prn_cli.tasks import Task

HEADING = ("file", "label", "height", "width", "pixels")
"""The first columns of the rows."""

_CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], "?")


_baseline, _method, _output = (partial(Option, panel=name) for name in ("Baseline", "Method", "Output"))


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(ReadOptions, TaskOptions, ReportOptions, RunOptions):
    """Options of `score`."""

    masks: Annotated[
        tuple[str, ...],
        Option(
            "Files, folders or globs of masks or probability maps; '-' reads paths from stdin.",
            metavar="MASKS",
            argument=True,
        ),
    ] = field(kw_only=False)
    labels: Labels
    baseline: Annotated[
        Path | None,
        _baseline(
            "Folder of the base model's logit maps or masks, paired by stem: adds its figures.",
            aliases=("--base",),
            metavar="LOGITS",
            common=True,
        ),
    ] = None
    baseline_input_kind: Annotated[ScoreKind, _baseline("What the baseline's numbers mean.")] = "auto"
    baseline_threshold: Annotated[
        float, _baseline("Probability above which the baseline is foreground.", common=True, least=0, most=1)
    ] = 0.5
    own_threshold: Annotated[
        float | None,
        _baseline(
            "A second threshold for the baseline, to tell what a threshold gains without a network.",
            least=0,
            most=1,
            default="as the manifest of the masks says",
        ),
    ] = None
    baseline_nodata: Annotated[float | None, _baseline("As --nodata, for the baseline.", default="as --nodata")] = None
    baseline_band: Annotated[
        int | None,
        _baseline(
            "As --bidx, for the baseline.",
            flags=("--baseline-bidx",),
            aliases=("--baseline-band",),
            least=1,
            default="as --bidx",
        ),
    ] = None
    baseline_scale: Annotated[float | None, _baseline("As --scale, for the baseline.", least=1e-6)] = None
    threshold: Annotated[
        float, _method("Probability above which a soft map is foreground.", flags=("-t",), common=True, least=0, most=1)
    ] = 0.5
    buffer: Annotated[float, _method("Buffer of relaxed precision and recall, px.", least=0)] = 3.0
    resamples: Annotated[int, _method("Bootstrap resamples of the intervals.", least=100)] = 2000
    seed: Seed = 0
    csv: Annotated[
        str | None,
        _output(
            "Write a row per image; '-': on stdout instead of the table.", metavar="FILE", common=True, output=True
        ),
    ] = None
    bias: Annotated[
        Path | None,
        _output("Folder of bias maps, shown in the report, as prn refine --bias writes them.", metavar="DIR"),
    ] = None

    @property
    def csv_file(self) -> Path | None:
        """Where the rows are written; None if nowhere, or on stdout."""
        return None if self.csv in (None, "-") else Path(str(self.csv))


@dataclass(frozen=True, slots=True)
class ScoredImage:
    """An image that was scored: its files, and what was counted."""

    masks: Path
    label: Path
    score: ImageScore


@dataclass(frozen=True, kw_only=True)
class ScoreResult(Result):
    """What became of a run.

    Attributes:
        task: that was scored.
        images: those that were scored, in input order.
        summary: the figures of the set; None without images.
        settings: on which the figures depend.
        account: of the pixels that do not count.
        masks_read: how the masks were read, such as "probabilities cut at 0.5".
        baseline_read: the same of the baseline; None without one.
        own: where the baseline is cut a second time, such as "0.407" or "0.4 to 0.45"; empty if nowhere.
    """

    task: Task
    images: Sequence[ScoredImage]
    summary: Summary | None
    settings: Mapping[str, Any]
    account: Account
    masks_read: str
    baseline_read: str | None
    own: str = ""

    @property
    def metrics(self) -> Sequence[Metric]:
        """The metrics, in table order."""
        return self.task.metrics([image.score for image in self.images])

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row per image: its files and size, counts if the task has some, and figures by metric.

        Names of the baseline's figures begin with `baseline_`, and with `own_` where it is cut at its own threshold. A
        figure that does not exist is NaN.
        """
        from prn_cli.metrics.score import figures

        metrics = self.metrics
        for image in self.images:
            score = image.score
            size = (image.masks, image.label, score.height, score.width, score.pixels)
            row: dict[str, Any] = dict(zip(HEADING, size, strict=True))
            row |= dict(zip(self.task.counts, map(int, score.counts), strict=False))
            row |= figures(score.counts, metrics)
            for prefix, counts in (("baseline", score.baseline), ("own", score.own)):
                if counts is not None:
                    row |= {f"{prefix}_{name}": value for name, value in figures(counts, metrics).items()}
            yield row

    @property
    def is_own(self) -> bool:
        """Whether the masks are the baseline's at its own threshold: no network has changed them."""
        return all(image.score.is_own for image in self.images)

    def changed_images(self, before: str = "baseline") -> tuple[int, int]:
        """How many images are better, and how many worse than the baseline by the first metric.

        A change too small for its last digit is none. `before` is `baseline`, or `own` for that at its own threshold.
        """
        first = self.metrics[0]
        pairs = [(image.score.counts, getattr(image.score, before)) for image in self.images]
        changes = [float(first.figure(after) - first.figure(counts)) for after, counts in pairs if counts is not None]
        signs = [round(-change if first.lower_is_better else change, 4) for change in changes]
        return sum(sign > 0 for sign in signs), sum(sign < 0 for sign in signs)

    def csv(self, *, shown: bool = False) -> str:
        """The rows as CSV; an empty cell where a figure does not exist.

        Names are kept, even bytes that are not text, so that tables can be joined by them. Control characters are
        replaced: they would break lines, or control the terminal of `cat`.

        Args:
            shown: make names readable, see `prn_cli.errors.one_line`.
        """

        def cell(value: Any) -> Any:
            if isinstance(value, Path):
                return one_line(str(value)) if shown else str(value).translate(_CONTROLS)
            if isinstance(value, float):
                return f"{value:.6f}" if math.isfinite(value) else ""
            return value

        rows = list(self.rows())
        heading = [*HEADING, *self.task.counts, *(metric.name for metric in self.metrics)]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(rows[0] if rows else heading)
        writer.writerows(map(cell, row.values()) for row in rows)
        return text.getvalue()

    def document(self) -> dict[str, Any]:
        """For JSON: figures under `mean` and `pooled` by metric; None where a figure does not exist."""
        if self.summary is None:
            record: dict[str, Any] = {"images": 0, "pixels": 0, "mean": {}, "pooled": {}}
        else:
            record = asdict(self.summary)
            for aggregate in ("mean", "pooled"):
                figures = getattr(self.summary, aggregate)
                record[aggregate] = {name: _plain(figure, self.summary.images) for name, figure in figures.items()}
        lost = {"not_counted": dict(self.account.not_counted)}
        compared = [name for name, there in (("baseline", self.baseline_read), ("own", self.own)) if there]
        changed = {name: dict(zip(("better", "worse"), self.changed_images(name), strict=True)) for name in compared}
        more = {"changed_images": changed} if changed else {}
        return {**record, **lost, **more, **self.settings, "failures": self.failure_records()}


def _plain(figure: Figure, images: int) -> dict[str, Any]:
    result: dict[str, Any] = {**_finite(figure.masks)}
    if figure.images < images:
        result["images"] = figure.images
    others = {name: getattr(figure, name) for name in ("baseline", "difference", "own", "added")}
    return result | {name: _finite(estimate) for name, estimate in others.items() if estimate is not None}


def _finite(estimate: Estimate) -> dict[str, float | None]:
    return {name: round(value, 6) if math.isfinite(value) else None for name, value in estimate._asdict().items()}


def score(options: ScoreOptions, watch: Watch = SILENT) -> ScoreResult:
    """Score masks or soft maps against labels.

    Files that fail do not stop the others; the result names them.

    Raises:
        PrnError: nothing could be started.
    """
    from prn_cli.workflows import score_images

    return score_images.run(options, watch)
