"""`train`: learn the correction from labelled logit maps. The work is in `training/`, with torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from prn_cli.errors import UsageError
from prn_cli.execution.clock import now
from prn_cli.execution.extras import needs_extra
from prn_cli.execution.watch import SILENT, Watch
from prn_cli.methods import METHODS
from prn_cli.options import Option, Options
from prn_cli.workflows.items import Result
from prn_cli.workflows.method_options import composed, given_for, options_for, refuse_strangers
from prn_cli.workflows.options import (
    Device,
    GridName,
    LogitsHere,
    PatchSide,
    ReadOptions,
    Rgb,
    RunOptions,
    Seed,
    TaskOptions,
    shipped_names,
)

FOLDS, QUARTERS = 3, 4
LEAST_CROP = 64
FEW_MAPS, FEWEST_MAPS = 60, 3
NO_GROUPS = NO_START = NO_LABELS = "none"

_held_out, _method, _schedule = (partial(Option, panel=name) for name in ("Held-out images", "Method", "Schedule"))


@dataclass(frozen=True, kw_only=True)
class TrainOptions(ReadOptions, TaskOptions, RunOptions):
    """Options of `train`; `train_options` adds those of the methods.

    Raises:
        UsageError: a value is out of range, or options do not go together.
    """

    logits: LogitsHere = field(default=("logits",), kw_only=False)
    labels: Annotated[
        Path,
        Option(
            "Folder of labels, paired with the inputs by stem; none to learn from the images and the base "
            "model's own masks.",
            "Input",
            flags=("-l",),
            metavar="DIR|none",
            common=True,
        ),
    ] = Path("labels")
    images: Annotated[
        Path | None,
        Option(
            "Folder of the images, paired by stem: the network sees them, too.", "Input", metavar="DIR", common=True
        ),
    ] = None
    rgb: Rgb = None
    hide_scores: Annotated[
        bool,
        Option(
            "Learn from the images alone, for labels that were made of the scores, which would be copied.",
            "Input",
        ),
    ] = False
    out: Annotated[
        Path, Option("Folder of the run.", "Output", flags=("-o",), aliases=("--output",), common=True, output=True)
    ] = Path("run")
    resume: Annotated[bool, Option("Resume the run in the output folder.", "Output", common=True)] = False
    overwrite: Annotated[bool, Option("Start anew where the folder holds a run.", "Output", common=True)] = False
    tensorboard: Annotated[bool, Option("Also write a TensorBoard log.", "Output")] = False
    device: Device = "auto"
    seed: Seed = 0
    patch: PatchSide = 64
    grid: GridName = "paper"
    shots: Annotated[
        int | None, _held_out("Learn from only this many of the labelled maps, drawn with the seed.", least=1)
    ] = None
    folds: Annotated[
        int | None,
        _held_out(
            "Hold out each of this many parts in turn, then learn from all maps; 1 holds out one part only. Default: "
            f"{FOLDS} for fast, and from weights, with fewer than {FEW_MAPS} maps, else 1; {QUARTERS} for "
            f"{FEWEST_MAPS} large maps or fewer, each part a quarter of every map.",
            common=True,
            least=1,
        ),
    ] = None
    groups: Annotated[
        str | None,
        _held_out(
            "Keep maps of one scene together: a regular expression on their stems whose first group names the scene, "
            "such as '^(tile[0-9]+)'. With few scenes, each is held out once. Default: what names and georeferences "
            "show; none for maps of their own.",
            metavar="PATTERN|none",
            common=True,
        ),
    ] = None
    group_distance: Annotated[
        float | None,
        _held_out(
            "Keep georeferenced maps together that lie within this distance, in units of their reference system.",
            least=0,
        ),
    ] = None
    validation_fraction: Annotated[
        float, _held_out("Fraction of the images to hold out, with --folds 1.", least=0.01, most=0.9)
    ] = 0.2
    validation_stems: Annotated[Path | None, _held_out("Text file of the stems to hold out, one per line.")] = None
    validation_logits: Annotated[Path | None, _held_out("Folder of logit maps to hold out.")] = None
    validation_labels: Annotated[Path | None, _held_out("Folder of their labels. Default: --labels")] = None
    validation_images: Annotated[Path | None, _held_out("Folder of their images. Default: --images")] = None

    network: Annotated[
        str | None,
        _method(
            "Method to train: fast or image, ours; paper and segrefiner, as published. Default: that of --from; else "
            "image with --images, and fast without.",
            aliases=("--model",),
            common=True,
        ),
    ] = None
    start_from: Annotated[
        str | None,
        _method(
            "Start from these weights, with a short schedule: a shipped name, a run's folder or a model.safetensors; "
            "none for random ones. Default: the shipped ones for image, else none.",
            flags=("--from",),
            metavar="NAME|PATH",
            common=True,
            complete=shipped_names,
        ),
    ] = None
    contrast: tuple[str, ...] = ()  # an option where there are any, see `composed`
    crop: Annotated[int, _method("Side of training crops, px; less if maps are smaller.", least=LEAST_CROP)] = 256
    jitter_scale: Annotated[float, _method("Spread of the random scaling of logits, e^(x·N).", least=0)] = 0.2
    jitter_shift: Annotated[float, _method("Spread of the random shift of logits.", least=0)] = 0.5
    ground_truth_only: Annotated[bool, Option("No pseudo-labels, even with --network paper.", "Loss")] = False
    epochs: Annotated[
        int | None,
        _schedule("Epochs at most. Default: 20; from weights 7, or 5 for image, or 4 for few maps.", least=1),
    ] = None
    steps: Annotated[
        int | None,
        _schedule(
            "Steps per epoch. Default: as many as see half the maps' area, 100 to 250; 25 from weights but image's.",
            least=1,
        ),
    ] = None
    batch: Annotated[int, _schedule("Crops per step.", aliases=("--batch-size",), least=1)] = 8
    rate: Annotated[
        float | None,
        _schedule(
            "Peak learning rate. Default: 0.001, or 0.0004 for segrefiner; 0.0002 from weights with few maps.",
            aliases=("--lr", "--learning-rate"),
            least=0,
        ),
    ] = None
    weight_decay: Annotated[float, _schedule("Weight decay.", least=0)] = 0.05
    average: Annotated[float, _schedule("Decay of the moving average of the weights.", least=0, most=0.9999)] = 0.995
    patience: Annotated[int, _schedule("Stop after this many epochs without gain.", least=1)] = 8
    time_budget: Annotated[
        str | None, _schedule("Stop after this time: 90, 90s, 10m or 2h.", metavar="TIME", common=True)
    ] = None

    def __post_init__(self) -> None:
        """Check options against each other."""
        super().__post_init__()
        if self.resume and self.overwrite:
            raise UsageError("--resume and --overwrite exclude each other")
        ways = self.ways
        if len(ways) > 1:
            raise UsageError(f"{ways[0]} and {ways[1]} exclude each other")
        if ways and ways[0].startswith("--validation") and (self.folds or 1) > 1:
            raise UsageError(f"--folds {self.folds} and {ways[0]} exclude each other")
        if self.groups is not None:
            compiled(self.groups)
        if self.shots is not None and self.validation_stems is not None:
            raise UsageError("--shots and --validation-stems exclude each other", hint="use --validation-logits")
        if self.validation_images is not None and self.images is None:
            raise UsageError("--validation-images without --images")
        # Weights that are to be gone on from may be of any method, which their file says.
        told = self.network is not None or self.start_from in (None, NO_START)
        refuse_strangers(TrainOptions, self, (*((self.method,) if told else METHODS), *self.contrast))
        self.for_method()
        self.seconds()
        self.find_task("train")
        self._check_of_scores()

    @property
    def method(self) -> str:
        """Name of the method to train."""
        return self.network or ("fast" if self.images is None else "image")

    @property
    def unlabelled(self) -> bool:
        """Whether there are no labels."""
        return self.labels == Path(NO_LABELS) and not self.labels.exists()

    @property
    def of_scores(self) -> str:
        """The option that says that what is learned was made of the scores, here or before; empty if it was not."""
        return "--labels none" if self.unlabelled else "--hide-scores" if self.hide_scores else ""

    def _check_of_scores(self) -> None:
        """Refuse what needs labels that know more than the scores, where there are none."""
        what = self.of_scores
        if not what:
            return
        if self.images is None:
            raise UsageError(f"{what} learns from the images", hint="give --images DIR")
        if self.task == "saliency":
            raise UsageError(f"{what} with --task saliency, expected masks")
        others = ("shots", "folds", "validation_labels", "validation_images", *(["contrast"] * self.unlabelled))
        given = [*self.ways, *(_flag(name) for name in others if getattr(self, name) not in (None, ()))]
        if given:
            raise UsageError(f"{what} and {given[0]} exclude each other")

    @property
    def ways(self) -> tuple[str, ...]:
        """The options given that say which maps to hold out, or to keep together."""
        names = ("validation_stems", "validation_logits", "groups", "group_distance")
        return tuple(_flag(name) for name in names if getattr(self, name) not in (None, NO_GROUPS))

    def for_method(self) -> Options:
        """The options of the method.

        Raises:
            UsageError: they do not go together.
        """
        if not self.ground_truth_only:
            return options_for(self.method, self)
        if given_for(self.method, self).get("pseudo_weight"):
            raise UsageError("--ground-truth-only and --pseudo-weight exclude each other")
        return options_for(self.method, self, pseudo_weight=0.0)

    def seconds(self) -> float | None:
        """The time budget, s.

        Raises:
            UsageError: it is no time.
        """
        text = self.time_budget
        if text is None:
            return None
        factor = {"s": 1, "m": 60, "h": 3600}.get(text[-1:])
        try:
            value = float(text[:-1]) * factor if factor else float(text)
        except ValueError:
            value = 0.0
        if not value > 0:
            raise UsageError(f"--time-budget {text!r}, expected a time such as 90, 90s, 10m or 2h")
        return value


@dataclass(frozen=True, kw_only=True)
class TrainResult(Result):
    """What came of training: the card of the weights, as in `model.json`; None in all processes but the first."""

    card: Mapping[str, Any] | None = None

    def document(self) -> dict[str, Any]:
        """For JSON: the card."""
        return dict(self.card or {})


def train_options() -> type[TrainOptions]:
    """`TrainOptions` with those of every method and objective that is registered now."""
    return composed(TrainOptions)


def train(options: TrainOptions, watch: Watch = SILENT) -> TrainResult:
    """Learn the correction from labelled logit maps, and measure it on held-out ones.

    Files that cannot be used are left out, and named in the result. `options` is of the class that `train_options`
    returns.

    Raises:
        DivergedError: training diverged.
        InputError: no map can be used, or too few can.
        MissingExtraError: PyTorch, or ONNX, is not installed.
        OutputError: the folder cannot be written to.
        UsageError: options that do not suit the maps, the weights or the machine.
    """
    began = now()
    with needs_extra("prn train"):
        from prn_cli.workflows.training import steps
    return steps.run(options, watch, began)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def compiled(pattern: str) -> re.Pattern[str]:
    """The regular expression of `--groups`.

    Raises:
        UsageError: it is none.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UsageError(f"--groups {pattern!r} is not a regular expression: {error}") from error
