"""`prn train`: learn the correction from labelled logit maps."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prn_cli.commands import console, options
from prn_cli.errors import DivergedError, InputError, MissingExtraError, OutputError, UsageError
from prn_cli.execution import interrupts
from prn_cli.execution.threads import run_batch
from prn_cli.options import parameters

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from prn_cli.commands.training_run import Outcome
    from prn_cli.maps.drift import Reference
    from prn_cli.rasters import Partners, ScoreMap
    from prn_cli.thresholding.strength import Choice
    from prn_cli.training.adapt import Start
    from prn_cli.training.augment import TrainingMap
    from prn_cli.training.loop import Settings
    from prn_cli.training.validation import Box, Fold


class NetworkChoice(StrEnum):
    """What is trained."""

    fast = "fast"
    paper = "paper"


FOLDS, QUARTERS, FEW_MAPS, FEWEST_MAPS = 3, 4, 60, 3
_FEW_GROUPS = 8

_DATA, _METHOD, _LOSS, _SCHEDULE = "Held-out images", "Method", "Loss", "Schedule"


def _option(name: str, help: str, panel: str, **more: Any) -> Any:
    return typer.Option(name, help=help, rich_help_panel=panel, **more)


def train(
    logits: options.OptionalLogits = None,
    labels: options.Labels = Path("labels"),
    images: options.Images = None,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", callback=options.local, help="Folder of the run.", rich_help_panel="Output"),
    ] = Path("run"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the output folder.", rich_help_panel="Output")
    ] = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write a TensorBoard log too.", rich_help_panel="Output")
    ] = False,
    shots: Annotated[
        int | None,
        _option("--shots", "Learn from this many of the labelled maps only, drawn with the seed.", _DATA, min=1),
    ] = None,
    folds: Annotated[
        int | None,
        _option(
            "--folds",
            "Hold out each of this many parts in turn, then learn from all maps; 1 holds out one part only. "
            f"Default: {FOLDS} for fast with fewer than {FEW_MAPS} maps, else 1; of {FEWEST_MAPS} large maps or fewer, "
            f"the parts are of their quarters, {QUARTERS} of them.",
            _DATA,
            min=1,
        ),
    ] = None,
    groups: Annotated[
        str | None,
        _option(
            "--groups",
            "Keep maps of one scene together: a pattern on their stems whose first group names the scene, such as "
            "'^(tile[0-9]+)'. With few scenes, each is held out once.",
            _DATA,
            metavar="PATTERN",
        ),
    ] = None,
    group_distance: Annotated[
        float | None,
        _option(
            "--group-distance",
            "Keep georeferenced maps together that lie within this distance, in units of their reference system.",
            _DATA,
            min=0,
        ),
    ] = None,
    validation_fraction: Annotated[
        float,
        _option("--validation-fraction", "Share of the images held out, with --folds 1.", _DATA, min=0.01, max=0.9),
    ] = 0.2,
    validation_stems: Annotated[
        Path | None, _option("--validation-stems", "Text file of the stems held out, one a line.", _DATA)
    ] = None,
    validation_logits: Annotated[
        Path | None, _option("--validation-logits", "Folder of logit maps held out.", _DATA)
    ] = None,
    validation_labels: Annotated[
        Path | None, _option("--validation-labels", "Folder of their labels. Default: --labels", _DATA)
    ] = None,
    task: options.Task = options.TaskChoice.binary,
    validation_images: Annotated[
        Path | None, _option("--validation-images", "Folder of their images. Default: --images", _DATA)
    ] = None,
    classes: options.Classes = None,
    network: Annotated[
        NetworkChoice, _option("--network", "fast: ours; paper: as published.", _METHOD)
    ] = NetworkChoice.fast,
    width: Annotated[
        int | None,
        _option(
            "--width",
            "Channels of fast at a quarter of the resolution; time grows with the square. Default: 16.",
            _METHOD,
            min=4,
        ),
    ] = None,
    keep_level: Annotated[
        bool,
        _option(
            "--keep-level",
            "Correct scores against their neighbourhood only, never their overall level: for weights that are to carry "
            "over to other base models and scenes.",
            _METHOD,
        ),
    ] = False,
    start_from: Annotated[
        str | None,
        _option(
            "--from",
            "Go on from these weights of fast, in a short schedule: a shipped name, the folder of a run, or "
            "a model.safetensors.",
            _METHOD,
            metavar="NAME|PATH",
        ),
    ] = None,
    patch: options.Patch = 64,
    grid: options.Grid = options.GridChoice.paper,
    crop: Annotated[int, _option("--crop", "Side of the training crops, px.", _METHOD, min=64)] = 256,
    jitter_scale: Annotated[
        float, _option("--jitter-scale", "Spread of the random scaling of logits, e^(x·N).", _METHOD, min=0)
    ] = 0.2,
    jitter_shift: Annotated[
        float, _option("--jitter-shift", "Spread of the random shift of logits.", _METHOD, min=0)
    ] = 0.5,
    ground_truth_only: Annotated[
        bool, _option("--ground-truth-only", "Leave the pseudo-labels out, with --network paper too.", _LOSS)
    ] = False,
    pseudo_weight: Annotated[
        float | None,
        _option(
            "--pseudo-weight",
            "Weight of the pseudo-labels; labels have the rest. Default: 0 for fast, 0.7 for paper.",
            _LOSS,
            min=0,
            max=1,
        ),
    ] = None,
    focal_weight: Annotated[
        float, _option("--focal-weight", "Weight of the focal term; edges have the rest.", _LOSS, min=0, max=1)
    ] = 0.7,
    focal_scale: Annotated[float, _option("--focal-scale", "Factor of the focal term.", _LOSS, min=0)] = 0.75,
    focal_gamma: Annotated[float, _option("--focal-gamma", "Exponent of the focal term.", _LOSS, min=0)] = 2.0,
    positive_weight: Annotated[
        float, _option("--positive-weight", "Weight of foreground pixels of the labels.", _LOSS, min=0)
    ] = 1.12,
    iou_weight: Annotated[
        float,
        _option(
            "--iou-weight",
            "Weight of a soft IoU with the labels, added to the paper's loss; 0 leaves that alone.",
            _LOSS,
            min=0,
        ),
    ] = 2.0,
    epochs: Annotated[
        int | None,
        _option("--epochs", "Epochs at most. Default: 20; with --from 7, or 4 of few maps.", _SCHEDULE, min=1),
    ] = None,
    steps: Annotated[
        int | None,
        _option(
            "--steps",
            "Steps an epoch. Default: half the maps' area, 100 to 250; 25 with --from.",
            _SCHEDULE,
            min=1,
        ),
    ] = None,
    batch: Annotated[int, _option("--batch", "Crops a step.", _SCHEDULE, min=1)] = 8,
    rate: Annotated[
        float | None,
        _option(
            "--rate",
            "Peak learning rate. Default: 0.001; 0.0002 with --from and few maps.",
            _SCHEDULE,
            min=0,
        ),
    ] = None,
    weight_decay: Annotated[float, _option("--weight-decay", "Decay of the weights.", _SCHEDULE, min=0)] = 0.05,
    average: Annotated[
        float, _option("--average", "Decay of the moving average of the weights.", _SCHEDULE, min=0, max=0.9999)
    ] = 0.995,
    patience: Annotated[int, _option("--patience", "Epochs without gain after which to stop.", _SCHEDULE, min=1)] = 8,
    time_budget: Annotated[
        str | None, _option("--time-budget", "Stop after this time: 90, 90s, 10m or 2h.", _SCHEDULE, metavar="TIME")
    ] = None,
    input_kind: options.InputKind = options.InputKindChoice.auto,
    nodata: options.Nodata = None,
    label_nodata: options.LabelNodata = None,
    valid_mask: options.ValidMask = None,
    bidx: options.Band = None,
    key: options.Key = None,
    max_pixels: options.MaxPixels = None,
    null: options.Null = False,
    device: options.Device = options.DeviceChoice.auto,
    threads: options.Threads = 0,
    seed: options.Seed = 0,
    fail_fast: options.FailFast = False,
    settings_file: options.Settings = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Learn where a base model's scores run too high or too low, from a few labelled logit maps.

    In a folder that holds logits/ and labels/, no argument is needed. Every part of a small set is held out in turn; of
    a large one, some images. How strong the correction is to be, down to nothing, is chosen on what was held out, and
    the figures before and after, with their interval, are its. Writes model.onnx, model.safetensors and model.json
    into the run's folder: `prn refine LOGITS -o MASKS --weights run`. With a handful of maps, --from fast goes on from
    the shipped weights.
    """
    try:
        with interrupts.held():
            import prn_cli.training.export  # noqa: F401 (what it lacks is named now, not in the end)
            from prn_cli.commands.training_run import TrainingRun
            from prn_cli.methods import options_of, recipe_of
            from prn_cli.methods.recipe import build
            from prn_cli.training import adapt, parallel
            from prn_cli.training.augment import Jitter
            from prn_cli.training.loop import Settings
            from prn_cli.training.runtime import reduced_precision, set_up
            from prn_cli.training.validation import LEAST_PART, compiled, make_folds
    except ImportError as error:
        raise MissingExtraError(error.name or "torch", "train", "prn train") from error

    if ground_truth_only and pseudo_weight:
        raise UsageError("--ground-truth-only and --pseudo-weight exclude each other")
    start = None if start_from is None else _start(start_from, network, width=width)
    recipe, method_options = recipe_of(network.value), options_of(network.value)
    if keep_level and network is not NetworkChoice.fast:
        raise UsageError("--keep-level is for --network fast")
    asked = {
        "patch": patch,
        "width": width,
        "keep_level": keep_level,
        "pseudo_weight": 0.0 if ground_truth_only else pseudo_weight,
        "focal_weight": focal_weight,
        "focal_scale": focal_scale,
        "focal_gamma": focal_gamma,
        "positive_weight": positive_weight,
        "iou_weight": iou_weight,
    }
    known = {parameter.name for parameter in parameters(method_options)}
    chosen = method_options(**{name: asked[name] for name in known & asked.keys() if asked[name] is not None})
    if start is not None:
        chosen = start.options(chosen)
    settings = Settings(
        network=network.value,
        options=chosen,
        crop=crop,
        batch=batch,
        epochs=epochs or 20,
        steps=steps,
        rate=1e-3 if rate is None else rate,
        weight_decay=weight_decay,
        average=average,
        patience=patience,
        seed=seed,
        time_budget=_seconds(time_budget) if time_budget else None,
        jitter=Jitter(scale=jitter_scale, shift=jitter_shift),
    )
    thread_count = options.thread_count(threads)
    if not threads:
        thread_count = max(thread_count // parallel.local_size(), 1)
    where = set_up(device.value, threads=thread_count, seed=seed)
    if parallel.rank() > 0:
        console.mute()
    if batch % parallel.size():
        raise UsageError(f"--batch {batch} for {parallel.size()} processes, expected a multiple of {parallel.size()}")
    if images is not None and not recipe.takes_images:
        raise UsageError("--images is for --network fast")
    bands = _image_bands(images)
    if start is not None and start.bands != bands:
        raise UsageError(
            f"--from {start.name}: these weights see {_bands(start.bands)}, and --images gives {_bands(bands)}"
            if bands
            else f"--from {start.name}: these weights see {_bands(start.bands)}, expected --images"
        )

    def make(maps: Sequence[TrainingMap]) -> Any:
        if start is not None:  # its weights know images by statistics of their own
            return start.network(settings.options)
        built = build(settings.network, settings.options, bands=bands, seed=seed)
        if bands:
            recipe.observe(built, (m.image for m in maps if m.image is not None))
        return built

    sketch = build(settings.network, settings.options, bands=bands)
    if crop % sketch.multiple:
        raise UsageError(f"--crop {crop}, expected a multiple of {sketch.multiple} for --network {network.value}")
    given = [
        name
        for name, value in (
            ("--validation-stems", validation_stems),
            ("--validation-logits", validation_logits),
            ("--groups", groups),
            ("--group-distance", group_distance),
        )
        if value is not None
    ]
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]} exclude each other")
    if given and given[0].startswith("--validation") and (folds or 1) > 1:
        raise UsageError(f"--folds {folds} and {given[0]} exclude each other")
    if groups is not None:
        compiled(groups)
    options.check_classes(task, classes=classes, band=bidx)
    if shots is not None and validation_stems is not None:
        raise UsageError("--shots and --validation-stems exclude each other", hint="use --validation-logits")
    _check_folder(out, resume=resume, overwrite=overwrite)

    reader = _Reader(
        folder=out,
        task=task,
        classes=classes,
        kind=input_kind.value,
        nodata=nodata,
        label_nodata=label_nodata,
        valid_mask=valid_mask,
        image_bands=bands,
        band=bidx,
        key=key,
        patch=patch,
        grid=grid.value,
        threads=thread_count,
        fail_fast=fail_fast,
    )
    found = reader.read(list(logits or ["logits"]), labels, images, null=null, shots=shots, seed=seed)
    failures = found.failures
    if start is not None:
        plan = adapt.schedule(len(_names(found.maps)))
        settings = replace(
            settings,
            epochs=epochs or plan.epochs,
            steps=steps or plan.steps,
            rate=plan.rate if rate is None else rate,
            options=recipe.gentle(settings.options) if plan.few else settings.options,
        )
    whole = bool(given) or folds == 1 or not recipe.cross_validates
    pieces = [] if whole else _pieces(found.maps)
    if validation_logits is None and not pieces and len(_names(found.maps)) < 2:
        raise InputError(
            "1 labelled map, expected at least 2: one to learn from, one to hold out",
            hint=f"label more maps; quarters of a single one are held out where it is at least {2 * LEAST_PART} px a "
            "side and two of its quarters have labels, unless --folds 1 or scenes are asked for",
        )
    scenes = _scenes(found, groups, group_distance)
    parts: list[Fold] = []
    if validation_logits is not None:
        held = reader.read([str(validation_logits)], validation_labels or labels, validation_images or images)
        both = set(found.paths) & set(held.paths)
        if both:
            raise UsageError(
                f"{len(both)} of the held-out maps are among those to learn from, such as {min(both).name}",
                hint="give --validation-logits maps of other images",
            )
        learn, hold, how = found.maps, held.maps, f"given: {validation_logits}"
        if len(held.classes) != len(found.classes):
            raise InputError(
                f"{len(held.classes)} classes, expected {len(found.classes)} as in the maps to learn from",
                hint="name maps of one model",
                path=validation_logits,
            )
        failures = failures + held.failures
    elif pieces:
        parts = make_folds({m.name: where for m, where in pieces}, folds or QUARTERS, seed=seed)
        learn, hold = found.maps, []
        turns = "each" if len(parts) == QUARTERS else f"{len(parts)} parts, each"
        how = f"quarters of every map, {turns} in turn; then whole maps are learned from"
        settings = replace(settings, choose_epoch=False)
    elif (
        validation_stems is None and (count := _fold_count(folds, found.maps, scenes, quick=recipe.cross_validates)) > 1
    ):
        parts = make_folds(scenes or {m.name: m.name for m in found.maps}, count, seed=seed)
        learn, hold = found.maps, []
        kind = (
            f"each of {len(parts)} scenes in turn"
            if scenes and len(parts) == len(set(scenes.values()))
            else (f"each of {len(parts)} parts in turn, drawn with seed {seed}")
        )
        how = f"{kind}; then all maps are learned from"
        settings = replace(settings, choose_epoch=False)
    else:
        learn, hold, how = _split(found.maps, scenes, validation_fraction, validation_stems, seed)
    processes = f", {parallel.size()} processes" if parallel.size() > 1 else ""
    held_out = f"{len(_names(hold))} held out ({how})" if hold else f"held out: {how}"
    count = len(_names(learn))
    what = f"{count} map{'s' if count != 1 else ''}"
    console.note(f"{what} to learn from, {held_out}; device {where.type}{processes}")
    if not scenes and validation_logits is None:
        _hint_at_scenes(_names(found.maps))
    conditions: dict[str, Any] = {
        "task": task.value,
        "device": where.type,
        "threads": thread_count,
        "precision": str(reduced_precision(where)),
        "processes": parallel.size(),
        "grid": grid.value,
        "input_kind": found.kind,
        "nodata": nodata,
        "label_nodata": label_nodata,
        "valid_mask": None if valid_mask is None else str(valid_mask),
        "bidx": bidx,
        "folds": [sorted(part.held_out) for part in parts],
    }
    if task is options.TaskChoice.multiclass:
        conditions["classes"] = found.classes
    if images is not None:
        conditions["images"] = str(images)
    if start is not None:
        conditions["from"] = start.sha256
    if shots is not None:
        conditions["shots"] = shots
    fingerprint = _fingerprint(sketch, learn, hold, settings, conditions)
    parallel.check_same(fingerprint, "maps or options")
    about = {
        "held_out_how": how,
        "left_out": [name for name, _ in failures],
        "unused": found.unused,
        "parts_of": len(_names(learn)) if pieces else 0,
        "from": None if start is None else {"name": start.name, "sha256": start.sha256},
        "patch": patch,
        "conditions": conditions,
    }
    seen_before = None if start is None else start.reference
    with _claimed(out) if parallel.rank() == 0 else nullcontext():
        if parallel.rank() == 0:
            _check_folder(out, resume=resume, overwrite=overwrite)  # another run may have ended there meanwhile
            if overwrite:
                _clear(out)
        run = TrainingRun(
            make,
            settings,
            where,
            out,
            fingerprint,
            resume=resume,
            tensorboard=tensorboard,
            trained=start is not None,
        )
        try:
            outcome = run.cross_validated(learn, parts, [m for m, _ in pieces]) if parts else run.held_out(learn, hold)
        except DivergedError:
            # The same line would diverge again, and another rate cannot go on from here. What --resume found stays.
            if parallel.rank() == 0 and not resume:
                with suppress(OSError):
                    _clear(out)
            raise
        card = _conclude(outcome, learn, scenes, found.classes, settings, out, about, seen_before)
    if card is None:
        return
    if json:
        console.json_line(card)
    else:
        _show(card, out)
    if failures:
        used = len(_names(learn)) + len(_names(hold))
        console.error(f"{len(failures)} of {len(failures) + used} maps could not be used")
        raise typer.Exit(1)


def _start(name_or_path: str, network: NetworkChoice, *, width: int | None) -> Start:
    """The weights of `--from`; other options must not ask for another network than theirs."""
    from prn_cli.methods.weights import find_tensors
    from prn_cli.training.adapt import load_start

    start = load_start(find_tensors(name_or_path), network.value)
    found = start.options().width
    if width not in (None, found):
        raise UsageError(f"--from {start.name}: these weights have width {found}, and --width is {width}")
    return start


def _bands(count: int) -> str:
    return f"images of {count} band{'s' if count > 1 else ''}" if count else "no images"


def _pieces(maps: list[TrainingMap]) -> list[tuple[TrainingMap, str]]:
    """Quarters of one to three maps, each with its place; none where a map is too small to be cut.

    Those of several classes follow each other under one name, as their maps do.
    """
    from prn_cli.training.validation import quarters

    cut = [quarters(m) for m in maps] if len(_names(maps)) <= FEWEST_MAPS else []
    places = {where for quarter in cut for where in quarter}
    if not all(cut) or len(places) < 2:
        return []
    pieces = [(part, where) for quarter in cut for where, part in quarter.items()]
    return sorted(pieces, key=lambda piece: piece[0].name)


def _image_bands(images: Path | None) -> int:
    """How many bands the images of a folder have; 0 without a folder."""
    from prn_cli.rasters import common_bands, image_files

    return 0 if images is None else common_bands(image_files(images))


def _seconds(text: str) -> float:
    factor = {"s": 1, "m": 60, "h": 3600}.get(text[-1:])
    try:
        value = float(text[:-1]) * factor if factor else float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise UsageError(f"--time-budget {text!r}, expected a time such as 90, 90s, 10m or 2h")
    return value


_STATES = ("state.safetensors", "folds.json")
_WRITTEN = (*_STATES, "model.json", "model.onnx", "model.safetensors", "log.jsonl", "tensorboard")


def _check_folder(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse to replace what is there, unless it was asked for; nothing is deleted before the inputs are read."""
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    if out.exists() and not out.is_dir():
        raise UsageError("is a file, expected a folder", hint="give another --out", path=out)
    found = [name for name in _WRITTEN if (out / name).exists()]
    # A run that was killed in its first epoch may have begun its TensorBoard log, and has written nothing else.
    if resume and not set(found) & set(_STATES) and set(found) - {"tensorboard"}:
        raise UsageError(f"{out} holds {found[0]}, but no state to go on from", hint="give the folder of the run")
    if found and not resume and not overwrite:
        hint = "--resume to go on with it, --overwrite to start anew"
        raise UsageError(f"{out} holds a run" if set(found) & set(_STATES) else f"{out} holds {found[0]}", hint=hint)


@contextmanager
def _claimed(out: Path) -> Iterator[None]:
    """Make the folder, and keep other runs out of it; what was made and stays empty is removed in the end.

    Raises:
        UsageError: another one is at work in it.
        OutputError: it cannot be made.
    """
    from prn_cli.files.temporaries import lock

    missing = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError.because(error, out) from error
    descriptor = None
    with suppress(OSError):  # such as on Windows, where folders cannot be opened
        descriptor = os.open(out, os.O_RDONLY)
    try:
        if descriptor is not None and lock(descriptor, wait=False) is False:
            raise UsageError("another prn train is at work in it", hint="give another --out, or wait", path=out)
        try:
            yield
        finally:
            with suppress(OSError):
                for folder in missing:
                    folder.rmdir()
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _clear(out: Path) -> None:
    import shutil

    for name in _WRITTEN:
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink(missing_ok=True)


class _Store:
    """Arrays in one file without a name: a set may be larger than memory, and a killed run leaves nothing.

    Args:
        folder: on whose disk it is to be. It need not exist.
    """

    def __init__(self, folder: Path) -> None:
        import tempfile
        import threading

        self.folder = folder
        place = next(place for place in (folder, *folder.parents) if place.exists())
        with self._writing():
            self.file = tempfile.TemporaryFile(dir=place)  # noqa: SIM115 (open for as long as the arrays are)
        self.lock = threading.Lock()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError.because(error, self.folder) from error

    def put(self, array: NDArray[Any]) -> _Place:
        """Append an array; safe in threads."""
        with self.lock, self._writing():
            offset = self.file.seek(-self.file.seek(0, 2) % 8, 2)
            self.file.write(array.tobytes())
        return _Place(offset, array.dtype, array.shape)

    def mapped(self) -> NDArray[np.uint8]:
        """All that was put, as bytes, by one memory map: a map an array would need a file descriptor each."""
        import numpy as np

        with self._writing():
            self.file.flush()
        return np.memmap(self.file, dtype=np.uint8, mode="r")


@dataclass(frozen=True)
class _Place:
    """Where an array lies in a store."""

    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def view(self, stored: NDArray[np.uint8]) -> NDArray[Any]:
        """The array."""
        size = self.dtype.itemsize * math.prod(self.shape)
        return stored[self.offset : self.offset + size].view(self.dtype).reshape(self.shape)


@dataclass(frozen=True)
class _Reader:
    """Reads pairs of files into training maps, by the options of the command line."""

    folder: Path
    task: options.TaskChoice
    classes: str | None
    kind: Any
    nodata: float | None
    label_nodata: float | None
    valid_mask: Path | None
    image_bands: int
    band: int | None
    key: str | None
    patch: int
    grid: Any
    threads: int
    fail_fast: bool
    foregrounds: dict[Path, int | None] = field(default_factory=dict)

    def read(
        self,
        arguments: Sequence[str],
        labels: Path,
        images: Path | None,
        *,
        null: bool = False,
        shots: int | None = None,
        seed: int = 0,
    ) -> _Set:
        """All maps of a set, or so many of them, drawn; failures are named and passed over."""
        import sys

        from prn_cli.rasters import (
            Reading,
            class_names,
            count_classes,
            find_images,
            find_inputs,
            find_valid_masks,
            pair_by_stem,
            two_kinds_of_labels,
        )
        from prn_cli.training.augment import TrainingMap

        inputs = find_inputs(arguments, stdin=sys.stdin, null=null)
        pairs = pair_by_stem(inputs, labels)
        console.note_files(pairs.unmatched_inputs, f"maps have no label in {labels} and are left out")
        kind = options.kind_of(self.kind, [path for path, _ in pairs.matched], nodata=self.nodata, key=self.key)
        classes = [""]
        if self.task is options.TaskChoice.multiclass:
            classes = class_names(
                count_classes([path for path, _ in pairs.matched], Reading(key=self.key)), self.classes, None
            )
        matched = pairs.matched if shots is None else _drawn(pairs.matched, shots, seed)
        masks = find_valid_masks([path for path, _ in matched], self.valid_mask)
        pictures = find_images([path for path, _ in matched], images)
        store = _Store(self.folder)
        batch = run_batch(
            matched,
            lambda pair, _: self._read_map(*pair, len(classes), kind=kind, masks=masks, pictures=pictures, store=store),
            name=lambda pair: str(pair[0]),
            label="reading",
            watch=console.Terminal(),
            fail_fast=self.fail_fast,
            threads=self.threads,
            fatal=OutputError,  # of the store: not the map's fault, and the next will find no room either
        )
        if self.fail_fast:
            console.end(batch.verdict)
        if not batch.results:
            raise InputError("none of the maps could be used", hint="see the errors above")
        two_kinds = two_kinds_of_labels(self.foregrounds)
        if two_kinds is not None:
            raise two_kinds
        stored = store.mapped()
        return _Set(
            maps=[
                TrainingMap(path.stem, *(place.view(stored) for place in places))
                for (path, _), found in batch.results
                for places in found
            ],
            paths=[path.resolve() for (path, _), found in batch.results for _ in found],
            classes=classes,
            kind=kind,
            failures=batch.failures,
            unused=len(pairs.matched) - len(matched),
        )

    def _read_map(
        self,
        path: Path,
        label_path: Path,
        classes: int,
        *,
        kind: Any,
        masks: Partners,
        pictures: Partners,
        store: _Store,
    ) -> list[tuple[_Place, ...]]:
        """Logits, label, pseudo-label and perhaps the image of a map; of several classes, one after the other."""
        from prn_cli.files.manifest import unchanged
        from prn_cli.rasters import open_map

        valid_mask, picture = masks.of(path), pictures.of(path)
        with (
            unchanged(path, label_path, valid_mask, picture),
            self._open_scores(path, classes, kind=kind, valid_mask=valid_mask) as scores,
        ):
            logits, probabilities = scores.logits(), scores.probabilities()
            labels = self._labels(label_path, classes)
            image = None
            if picture is not None:
                with open_map("image", picture, like=scores.raster, bands=self.image_bands) as opened:
                    pixels = opened.read()
                    opened.check_valid()
                image = store.put(pixels)
        if labels[0].shape != logits.shape[-2:]:
            raise InputError(f"label has shape {labels[0].shape}, its logit map {logits.shape[-2:]}", path=label_path)
        planes = zip(logits, probabilities, strict=True) if classes > 1 else [(logits, probabilities)]
        found = [self._prepared(path, *pair, label, store) for pair, label in zip(planes, labels, strict=True)]
        return found if image is None else [(*places, image) for places in found]

    def _open_scores(self, path: Path, classes: int, *, kind: Any, valid_mask: Path | None) -> ScoreMap:
        from prn_cli.rasters import Reading, open_map

        reading = Reading(kind=kind, nodata=self.nodata, band=self.band, key=self.key)
        if classes == 1:
            return open_map("scores", path, reading, valid_mask=valid_mask)
        scores = open_map("class scores", path, reading, valid_mask=valid_mask)
        if scores.classes != classes:
            scores.close()
            raise InputError(f"{scores.classes} classes, expected {classes}", hint="name maps of one model", path=path)
        return scores

    def _labels(self, path: Path, classes: int) -> list[NDArray[np.uint8]]:
        """The label, or one against the rest for every class; uint8, 0, 1, 255 ignore."""
        import numpy as np

        from prn_cli.maps.pixels import IGNORE
        from prn_cli.rasters import Reading, open_map, read_label

        reading = Reading(label_nodata=self.label_nodata)
        if self.task is options.TaskChoice.saliency:
            return [read_label(path, reading, role="grey label")]
        if classes == 1:
            with open_map("label", path, reading) as label:
                self.foregrounds[path] = label.foreground
                return [label.read()]
        with open_map("class label", path, reading) as opened:
            opened.check_below(classes)
            numbers = opened.read()
        ignored = numbers == IGNORE
        return [np.where(ignored, np.uint8(IGNORE), (numbers == number).view(np.uint8)) for number in range(classes)]

    def _prepared(
        self,
        path: Path,
        logits: NDArray[np.float32],
        probabilities: NDArray[np.float32],
        label: NDArray[np.uint8],
        store: _Store,
    ) -> tuple[_Place, ...]:
        import numpy as np

        from prn_cli.maps.pixels import IGNORE
        from prn_cli.thresholding.pseudolabels import apply_thresholds, best_thresholds

        label[np.isnan(logits)] = IGNORE  # what no base model scored, no network is to answer for
        if np.all(label == IGNORE):
            raise InputError("no pixel is valid in both the logit map and its label", path=path)
        thresholds = best_thresholds(probabilities, label, patch=self.patch, grid=self.grid)
        pseudo = apply_thresholds(probabilities, thresholds, patch=self.patch)
        pseudo[label == IGNORE] = IGNORE
        return tuple(store.put(array) for array in (logits, label, pseudo))


@dataclass(frozen=True)
class _Set:
    """The maps of a set, their files, what became of the files that could not be used, and how many
    were not drawn.

    Of several classes, the maps of one image follow each other, under one name: so they are held out together.
    """

    maps: list[TrainingMap]
    paths: list[Path]
    classes: list[str]
    kind: str
    failures: list[tuple[str, str]]
    unused: int


def _drawn(pairs: Sequence[tuple[Path, Path]], count: int, seed: int) -> list[tuple[Path, Path]]:
    """So many of the pairs, in their order; those of a smaller count are among those of a larger one."""
    import numpy as np

    if count > len(pairs):
        raise UsageError(f"--shots {count}, but there are {len(pairs)} labelled maps")
    chosen = np.random.default_rng(seed).permutation(len(pairs))[:count]
    drawn = [pairs[index] for index in sorted(chosen)]
    names = ", ".join(path.name for path, _ in drawn[:5])
    console.note(f"{count} of {len(pairs)} maps drawn with seed {seed}: {names}{', …' if count > 5 else ''}")
    return drawn


def _scenes(found: _Set, pattern: str | None, distance: float | None) -> dict[str, str]:
    """The scene of each map by its name; empty where none were asked for."""
    from prn_cli.training.validation import groups_by_distance, groups_by_pattern

    if pattern is not None:
        return groups_by_pattern([m.name for m in found.maps], pattern)
    if distance is not None:
        return groups_by_distance(_boxes(found), distance)
    return {}


def _boxes(found: _Set) -> dict[str, Box]:
    """Where the maps lie on the ground."""
    import numpy as np

    from prn_cli.rasters import open_raster

    boxes: dict[str, Box] = {}
    systems: dict[object, Path] = {}
    for training_map, path in zip(found.maps, found.paths, strict=True):
        with open_raster(path) as raster:
            affine = None if raster.geo is None else raster.geo.affine()
            if raster.geo is None or affine is None:
                raise InputError("has no georeference, which --group-distance needs", hint="use --groups", path=path)
            systems[raster.geo.reference_system()] = path
            corners = affine @ np.array(
                [[0, raster.width, 0, raster.width], [0, 0, raster.height, raster.height], [1, 1, 1, 1]]
            )
        (west, south), (east, north) = corners.min(axis=1), corners.max(axis=1)
        boxes[training_map.name] = (float(west), float(south), float(east), float(north))
    if len(systems) > 1:
        first, second, *_ = systems.values()
        raise InputError(
            f"lies in another reference system than {first.name}", hint="use --groups, or reproject", path=second
        )
    return boxes


def _fold_count(folds: int | None, maps: list[TrainingMap], scenes: dict[str, str], *, quick: bool) -> int:
    """How many folds: as asked; each of few scenes; else by the number of maps. One where training is not quick."""
    if folds is not None:
        return folds
    count = len(set(scenes.values()))
    if scenes and count <= _FEW_GROUPS:
        return max(count, 2)  # one scene is refused where the folds are made
    few = len(_names(maps)) < FEW_MAPS
    return FOLDS if few and quick else 1


def _hint_at_scenes(names: list[str]) -> None:
    """Say so where stems look like the tiles of a few scenes, which a random split would let leak."""
    heads: dict[str, int] = {}
    for name in names:
        head = re.split(r"[_-](?=[^_-]*$)", name)[0]
        heads[head] = heads.get(head, 0) + 1
    if 2 <= len(heads) <= len(names) // 3 and min(heads.values()) > 1:
        console.note(
            f"these look like tiles of {len(heads)} scenes ({', '.join(sorted(heads)[:3])}, …): to know what new "
            "scenes will gain, keep scenes together with --groups '^(.*)[_-]'"
        )


def _split(
    maps: list[TrainingMap], scenes: dict[str, str], fraction: float, stems: Path | None, seed: int
) -> tuple[list[TrainingMap], list[TrainingMap], str]:
    """One part to learn from, one held out."""
    import numpy as np

    from prn_cli.training.validation import make_folds

    if stems is not None:
        try:
            wanted = {line.strip() for line in stems.read_text("utf-8-sig").splitlines() if line.strip()}
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot be read ({error})", path=stems) from error
        unknown = wanted - {m.name for m in maps}
        if unknown:
            raise UsageError(f"{len(unknown)} stems name no map, such as {min(unknown)!r}", path=stems)
        held = wanted
        how = f"by {stems}"
    elif scenes:
        fold = make_folds(scenes, max(round(1 / fraction), 2), seed=seed)[0]
        held = set(fold.held_out)
        how = f"scenes {', '.join(sorted({scenes[name] for name in held}))}"
    else:
        names = _names(maps)
        count = min(max(round(len(names) * fraction), 1), len(names) - 1)
        order = np.random.default_rng(seed).permutation(len(names))
        held = {names[index] for index in order[:count]}
        how = f"{fraction:.0%} of the images, drawn with seed {seed}"
    learn, hold = [m for m in maps if m.name not in held], [m for m in maps if m.name in held]
    if not learn or not hold:
        raise UsageError(f"{len(learn)} maps to learn from and {len(hold)} held out, expected at least 1 of each")
    return learn, hold, how


def _names(maps: Sequence[TrainingMap]) -> list[str]:
    """The names of the images, each once."""
    return list(dict.fromkeys(m.name for m in maps))


def _fingerprint(
    network: Any, learn: list[TrainingMap], hold: list[TrainingMap], settings: Settings, conditions: dict[str, Any]
) -> str:
    """Of all that decides the result, so that `--resume` never mixes two runs."""
    import hashlib
    from dataclasses import asdict

    # Threads are among the conditions: they decide in which order the CPU adds. What a run has learned fits the layers
    # that it had alone, and another prn may build others.
    layers = [(name, *tensor.shape) for name, tensor in network.state_dict().items()]
    digest = hashlib.sha256(repr((layers, sorted(asdict(settings).items()), sorted(conditions.items()))).encode())
    for role, maps in (("learn", learn), ("hold", hold)):
        for training_map in maps:
            digest.update(f"{role} {training_map.name} {training_map.label.shape}".encode("utf-8", "surrogateescape"))
            for array in (training_map.logits, training_map.label, training_map.pseudo, training_map.image):
                if array is not None:
                    digest.update(array.tobytes())
    return digest.hexdigest()


def _conclude(
    outcome: Outcome,
    learn: list[TrainingMap],
    scenes: dict[str, str],
    classes: list[str],
    settings: Settings,
    out: Path,
    about: dict[str, Any],
    seen_before: Reference | None,
) -> dict[str, Any] | None:
    """Choose strength and threshold on the held-out maps, and write the three files; by the first process, if many.

    `seen_before` is what the weights that training went on from have learned from.

    Returns:
        The card; None in the other processes.
    """
    from dataclasses import asdict

    import numpy as np

    from prn_cli import __version__
    from prn_cli.maps.drift import describe, reference
    from prn_cli.metrics.classes import mean_of_present
    from prn_cli.metrics.intervals import compare
    from prn_cli.metrics.regions import iou
    from prn_cli.thresholding.strength import STRENGTHS, THRESHOLDS, choose
    from prn_cli.training import parallel
    from prn_cli.training.export import export

    first = parallel.rank() == 0
    parallel.leave()
    if not first:
        return None
    # Of several classes, each against the rest: the maps of an image follow each other, in the order of the classes.
    several = len(classes) > 1
    groups = [
        ", ".join(filter(None, (scenes.get(name, ""), classes[position % len(classes)])))
        for position, name in enumerate(outcome.maps)
    ]
    # Soft maps are not cut, and of several classes the greatest score counts.
    any_threshold = about["conditions"]["task"] == options.TaskChoice.binary
    images = len(outcome.maps) // len(classes)
    choice = choose(
        outcome.counts, groups, images=about["parts_of"] or images, any_threshold=any_threshold, seed=settings.seed
    )
    chosen = STRENGTHS.index(choice.strength), THRESHOLDS.index(choice.threshold)
    before = outcome.counts[:, 0, THRESHOLDS.index(0.5)].astype(np.float64).reshape(images, -1)
    after = outcome.counts[:, chosen[0], chosen[1]].astype(np.float64).reshape(images, -1)

    def mean_iou(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean over the classes that occur or are predicted, each against the rest; of one foreground, its IoU."""
        by_class = counts.reshape(*counts.shape[:-1], len(classes), 4)
        if not several:
            return iou(by_class[..., 0, :])
        right, false, missed, _ = np.moveaxis(by_class, -1, 0)
        return mean_of_present(right, false, missed)

    figures = {}
    for name, pool in (("pooled_iou", True), ("mean_iou", False)):
        comparison = compare(before, after, mean_iou, pool=pool, seed=settings.seed)
        figures[name] = {
            part: [_number(value) for value in getattr(comparison, part)] for part in ("before", "after", "difference")
        }
    recorded = asdict(settings)
    recorded |= recorded.pop("options")
    known = reference([describe(m.logits) for m in learn])
    if seen_before is not None:
        known = known.joined(seen_before)
    return export(
        outcome.network,
        out,
        metadata={
            "prn.strength": f"{choice.strength:g}",
            "prn.threshold": f"{choice.threshold:g}",
            "prn.reference": known.to_json(),
        },
        card={
            "prn_version": __version__,
            "data": {
                "learned_from": _names(learn),
                "held_out": list(dict.fromkeys(outcome.maps)),
                "held_out_how": about["held_out_how"],
                "parts_of": about["parts_of"],
                "scenes": len(set(scenes.values())),
                "scenes_held_out": len({scenes[name] for name in outcome.maps if name in scenes}),
                "left_out": about["left_out"],
                "unused": about["unused"],
                "pixels": int(sum(m.label.size for m in learn)) // len(classes),
            },
            "patch": about["patch"],
            "from": about["from"],
            "settings": recorded,
            "conditions": about["conditions"],
            "epochs": outcome.state.epoch,
            "best_epoch": outcome.state.best_epoch + 1,
            "seconds": round(outcome.seconds, 1),
            "choice": {key: _rounded(value) for key, value in asdict(choice).items()},
            "held_out_figures": figures,
            "verdict": _verdict(
                choice,
                figures["pooled_iou"]["difference"],
                "classes" if several else "scenes",
                about["parts_of"],
            ),
        },
    )


def _rounded(value: Any) -> Any:
    return {name: _number(gain) for name, gain in value.items()} if isinstance(value, dict) else _number(value)


def _number(value: float) -> float | None:
    return None if value != value else round(float(value), 6)


def _verdict(choice: Choice, difference: list[float | None], noun: str, parts_of: int) -> str:
    """What the held-out maps say, in a line; `difference` is of their pooled IoU."""
    change, low, high = difference
    held_out = "parts of maps" if parts_of else "images"
    if choice.gain <= 0:
        if max(choice.strengths.values()) <= 0:
            return f"refinement does not help on the held-out {held_out}"
        if len(choice.groups) == 2:
            return f"refinement does not help on both of the held-out {noun}, so nothing is corrected; hold out more"
        return f"the gain on the few held-out {held_out} may be chance, so nothing is corrected; label more maps"
    losers = [name for name, gain in choice.groups.items() if gain < 0]
    chance = low is not None and low <= 0
    if losers and len(choice.groups) > 1:
        return (
            f"refinement helps on the mean of the held-out {noun}, and harms {len(losers)} of {len(choice.groups)}: "
            f"{'; '.join(losers[:3])}" + (f"; pooled over the {held_out}, it may be chance" if chance else "")
        )
    if change is None or change <= 0:
        return f"refinement helps on the mean of the held-out {noun}, and not on their pooled {held_out}"
    if low is None or high is None:
        return "one held-out image gains, which says little; hold out more"
    if chance:
        return f"the gain on the held-out {held_out} may be chance: its 95 % interval holds 0"
    if parts_of:
        return (
            f"refinement helps on held-out parts of the {f'{parts_of} maps' if parts_of > 1 else 'one map'} that it "
            "learns from, which says little of other maps"
        )
    return "refinement helps on the held-out images"


def _show(card: dict[str, Any], out: Path) -> None:
    from rich.table import Table

    data = card["data"]
    what = f"held-out parts of {data['parts_of']} map(s)" if data["parts_of"] else "held-out images"
    table = Table(title=f"{len(data['held_out'])} {what}", title_justify="left")
    for heading in ("", "before", "after", "change, points", "95 % interval"):
        table.add_column(heading, justify="left" if not heading else "right")
    several = card["conditions"]["task"] == options.TaskChoice.multiclass
    labels = ("IoU of a class, pooled", "IoU of a class, mean") if several else ("IoU, pooled", "IoU, mean")
    for name, label in zip(("pooled_iou", "mean_iou"), labels, strict=True):
        row = card["held_out_figures"][name]
        change, low, high = row["difference"]
        interval = "–" if low is None else f"{100 * low:+.2f} to {100 * high:+.2f}"
        table.add_row(label, f"{row['before'][0]:.4f}", f"{row['after'][0]:.4f}", f"{100 * change:+.2f}", interval)
    console.show(table)
    choice = card["choice"]
    gains = ", ".join(f"{strength}: {100 * gain:+.2f}" for strength, gain in choice["strengths"].items())
    console.tell(
        f"Strength {choice['strength']:g}, cut at {choice['threshold']:g} (expected gain by strength: {gains})."
    )
    if len(choice["groups"]) > 1:
        console.tell(
            f"By {'class' if several else 'scene'}: "
            + ", ".join(f"{name} {100 * gain:+.2f}" for name, gain in choice["groups"].items())
        )
    console.tell(f"{card['verdict'][0].upper()}{card['verdict'][1:]}.")
    if data["scenes_held_out"] == 1 and data["scenes"] > 1:
        console.tell("One scene was held out: what others can expect, this does not say (--folds).")
    elif data["scenes"] < 2 and not data["parts_of"]:
        console.tell("New images of the same scenes can expect as much; of other scenes, this says nothing (--groups).")
    console.tell(f"Weights: {out / card['files']['onnx']['file']} (epoch {card['best_epoch']} of {card['epochs']})")
