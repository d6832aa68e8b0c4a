"""What `pseudolabel --weak` has to do: which activation maps, tags and partners there are, and what the set says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import InputError, PrnError, UsageError
from prn_cli.execution.watch import Watch
from prn_cli.files.manifest import Manifest, check_outputs
from prn_cli.maps.tiles import Window
from prn_cli.rasters import (
    TIFF_SUFFIXES,
    Partners,
    class_names,
    count_bands,
    find_images,
    find_inputs,
)
from prn_cli.rasters.activations import Activations
from prn_cli.rasters.pairs import spread
from prn_cli.rasters.tags import read_tags
from prn_cli.tasks import Task
from prn_cli.thresholding.weak import USUAL_BACKGROUND, FloatMaps, choose_background, evidence, mean_evidence
from prn_cli.workflows.items import Item
from prn_cli.workflows.options import as_json
from prn_cli.workflows.pseudolabel import PseudolabelOptions
from prn_cli.workflows.work import Work

LABELS, CONFIDENCE, SCORES = "labels", "confidence", "scores"
"""Roles of the outputs, and their folders."""
SURVEY = "weak.json"
"""What a run says of its set, for `--scale-of`."""

_SURVEYED = 400  # maps, evenly spread over the set
_SAMPLE = 32  # rows and columns of each
_USUAL = 0.75  # quantile of the peaks, so that a few odd images do not count


@dataclass(frozen=True, slots=True)
class Source:
    """Where the activations of an image are: by scale and class, None where a class has no file."""

    stem: str
    scales: Sequence[Sequence[Path | None]]
    missing: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """Its first file."""
        return next(path for paths in self.scales for path in paths if path is not None)

    def inputs(self) -> dict[str, Path]:
        """Its files, by their role in a manifest."""
        named = enumerate(path for paths in self.scales for path in paths if path is not None)
        return {f"activations {number}": path for number, path in named}


@dataclass(frozen=True, slots=True)
class Survey:
    """What a set says of its activations, or an earlier one for it.

    Attributes:
        classes: names, the background first if there is one.
        normalise: see `WeakOptions`.
        peaks: of every class but the background, the usual peak: the upper quartile over the images that may have it.
        background: score of the background, None without one.
    """

    classes: tuple[str, ...]
    normalise: str
    peaks: tuple[float, ...]
    background: float | None

    def by_map(self, *, tagged: bool) -> bool:
        """Whether a map's own peaks count: not where no tag says that their classes are there."""
        return self.normalise == "peak" or (self.normalise == "both" and tagged)

    def scale(self, own: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """`(C,)` the activations that are an evidence of 1: in masks, given a map's own peaks; in scores, without."""
        of_set = np.array(self.peaks)
        if self.normalise == "none":
            return np.ones(len(of_set))
        if own is None:
            return of_set
        return own if self.normalise == "peak" else np.sqrt(own * of_set)

    def content(self) -> bytes:
        """Of the file that `--scale-of` reads."""
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def of_run(folder: Path) -> Survey:
        """The survey of an earlier run, by its folder."""
        try:
            record = json.loads((folder / SURVEY).read_text("utf-8"))
            return Survey(**record | {name: tuple(record[name]) for name in ("classes", "peaks")})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError("not of a run with --weak", hint="name its folder", path=folder / SURVEY) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The work, and what it needs to know of each map."""

    options: PseudolabelOptions
    task: Task
    sources: Mapping[Path, Source]
    possible: Mapping[Path, NDArray[np.bool_]]
    survey: Survey
    work: Work

    @property
    def classes(self) -> int:
        """How many have activations."""
        return len(self.survey.peaks)


def prepare(options: PseudolabelOptions, watch: Watch) -> Plan:
    """Find and check everything before the first mask is made."""
    assert options.weak is not None
    task = options.find_task("pseudolabel --weak")
    found, folders = _find_sources(options.weak)
    sources = list(found)
    tags = _find_tags(options, sources, watch)
    sources = [source for source in sources if tags is None or source.stem in tags]
    earlier = None if options.scale_of is None else Survey.of_run(options.scale_of)
    without = options.background == "none" if earlier is None else earlier.background is None
    names, task = _name_classes(options, task, sources, folders, without=without)
    if earlier is not None and earlier.classes != tuple(names):
        found_names, expected = ", ".join(earlier.classes), ", ".join(names)
        raise UsageError(f"--scale-of {options.scale_of}: classes {found_names}, expected {expected}")
    first = 0 if without else 1
    possible = {} if tags is None else _possible(options, tags, names[first:], folders, watch)
    kept = {source.path: _settled(source, possible.get(source.stem), names[first:]) for source in sources}
    by_path = {path: possible[source.stem] for path, source in kept.items() if source.stem in possible}
    paths = list(kept)
    images, labels = find_images(paths, options.images), _find_truth(options, paths)
    saliency = Partners("saliency map", "saliency").among(paths, options.saliency)
    items = []
    for path, source in kept.items():
        partners = {name: part for each in (images, saliency, labels) for name, part in each.role(path).items()}
        grid = partners.get("image", partners.get("saliency", partners.get("label", path)))
        outputs = _outputs(source.stem, options.out, tiff=grid.suffix.lower() in TIFF_SUFFIXES, several=task.several)
        items.append(Item(path, source.inputs() | partners, outputs))
    check_outputs((item.inputs.values(), item.outputs.values()) for item in items)
    every = [output for item in items for output in item.outputs.values()]
    manifest = Manifest(options.out, every)
    if not options.overwrite:
        manifest.refuse_strangers(every)
    survey = earlier or _survey(options, list(kept.values()), by_path, names)
    if options.background == "auto" and earlier is None:
        watch.note(f"background score {survey.background:.2f}{', by the tags' if possible else ''}")
    work = Work(
        items=items,
        partners=[images, saliency],
        manifest=manifest,
        settings=partial(_settings, options=options, task=task, survey=survey, possible=by_path),
        overwrite=options.overwrite,
        verb="label",
    )
    return Plan(options=options, task=task, sources=kept, possible=by_path, survey=survey, work=work)


def _find_sources(folders: Sequence[Path]) -> tuple[list[Source], list[str]]:
    """The images, by the files of the first folder, and the names of the class folders, if there are such."""
    scales: list[dict[str, list[Path | None]]] = []
    names: list[str] = []
    for folder in folders:
        if not folder.is_dir():
            raise InputError("no such folder", hint="name the folder of the activation maps", path=folder)
        parts = sorted(part for part in folder.iterdir() if part.is_dir() and not part.name.startswith("."))
        found = [part.name for part in parts]
        if scales and found != names:
            raise InputError("has not the class folders of the first --weak", hint="name them alike", path=folder)
        names = found
        files = [{path.stem: path for path in find_inputs([str(part)])} for part in parts or [folder]]
        stems = sorted(set().union(*files))
        scales.append({stem: [each.get(stem) for each in files] for stem in stems})
    count = max(len(names), 1)
    sources = []
    for stem in scales[0]:
        of_scales = [scale.get(stem, [None] * count) for scale in scales]
        missing = [
            f"{folder}{f'/{name}' if name else ''}"
            for folder, paths in zip(folders, of_scales, strict=True)
            for name, path in zip(names or [""], paths, strict=True)
            if path is None
        ]
        sources.append(Source(stem, of_scales, tuple(missing)))
    return sources, names


def _find_tags(options: PseudolabelOptions, sources: Sequence[Source], watch: Watch) -> dict[str, set[str]] | None:
    """The tags of each image that has activations. A note names those that lack one of the two."""
    if options.tags is None:
        return None
    stems = {source.stem for source in sources}
    tags = read_tags(options.tags, stems)
    watch.note_files([s.path for s in sources if s.stem not in tags], f"maps have no tags in {options.tags}, left out")
    watch.note_files([Path(s) for s in tags if s not in stems], f"images of {options.tags} have no activation map")
    if not stems & set(tags):
        raise InputError("names none of the activation maps", hint="a line an image: STEM,CLASS", path=options.tags)
    return tags


def _name_classes(
    options: PseudolabelOptions, task: Task, sources: Sequence[Source], folders: Sequence[str], *, without: bool
) -> tuple[list[str], Task]:
    """Names of the classes, the background first if there is one, and the task that knows them."""
    count = len(folders) or count_bands([source.path for source in sources])
    if without and count == 1:
        raise UsageError("--background none of one class: every pixel would be of it", hint="give a score, or auto")
    if not task.several:
        if count > 1:
            raise UsageError(f"activation maps of {count} classes", hint="add --task multiclass")
        return ["background", *(folders or ["foreground"])], task
    if options.classes is None and folders:
        names = list(folders) if without else ["background", *folders]
    else:
        names = class_names(count + (not without), options.classes, None)
    return names, task.with_classes([], given=",".join(names))


def _possible(
    options: PseudolabelOptions,
    tags: Mapping[str, set[str]],
    names: Sequence[str],
    folders: Sequence[str],
    watch: Watch,
) -> dict[str, NDArray[np.bool_]]:
    """`(C,)` which classes each image may have. A warning for each tag that is no class."""
    anything = len(names) == 1 and not folders  # the one class has no name: any tag is it
    if anything:
        return {stem: np.array([bool(found - {"0", "background"})]) for stem, found in tags.items()}
    for stranger in sorted(set().union(*tags.values()) - {*names, "0", "background"}):
        count = sum(stranger in found for found in tags.values())
        watch.warning(f"{options.tags}: no map has the class '{stranger}', a tag of {count} images")
    return {stem: np.array([name in found for name in names]) for stem, found in tags.items()}


def _settled(source: Source, possible: NDArray[np.bool_] | None, names: Sequence[str]) -> Source:
    """The source, which needs no file of a class that is impossible."""
    if possible is None or len(source.scales[0]) != len(names):
        return source
    absent = {name for name, there in zip(names, possible, strict=True) if not there}
    return Source(source.stem, source.scales, tuple(m for m in source.missing if Path(m).name not in absent))


def _find_truth(options: PseudolabelOptions, paths: Sequence[Path]) -> Partners:
    """The true masks, if there are some: `labels/` need not be there."""
    default = PseudolabelOptions().labels
    if options.labels == default and not default.is_dir():
        return Partners("label", "label")
    if (options.out / LABELS).resolve() == options.labels.resolve():
        raise UsageError(f"would put masks among the labels of {options.labels}", hint="choose another -o")
    return Partners("label", "label").among(paths, options.labels)


def _outputs(stem: str, out: Path, *, tiff: bool, several: bool) -> dict[str, Path]:
    return {
        LABELS: out / LABELS / f"{stem}{'.tif' if tiff else '.png'}",
        CONFIDENCE: out / CONFIDENCE / f"{stem}{'.tif' if tiff else '.npy'}",
        SCORES: out / SCORES / f"{stem}{'.tif' if tiff and not several else '.npy'}",
    }


def _settings(
    item: Item,
    *,
    options: PseudolabelOptions,
    task: Task,
    survey: Survey,
    possible: Mapping[Path, NDArray[np.bool_]],
) -> Mapping[str, Any]:
    tags = possible.get(item.path)
    return {
        **task.settings(),
        "tags": None if tags is None else tags.tolist(),
        **asdict(survey if survey.normalise != "none" else replace(survey, peaks=())),
        "undecided": options.undecided,
        "edges": [options.edge_box, options.edge_smoothness] if "image" in item.inputs else None,
        "values": options.values,
        "label_nodata": as_json(options.label_nodata),
        "creation_options": options.creation_options(),
    }


def _survey(
    options: PseudolabelOptions,
    sources: Sequence[Source],
    possible: Mapping[Path, NDArray[np.bool_]],
    names: Sequence[str],
) -> Survey:
    """Read some of the maps for the peaks of the classes and the score of the background."""
    classes = len(names) - (options.background != "none")
    by_tags = options.background == "auto" and bool(possible)
    peaks, samples, tagged = [], [], []
    for source in spread(sources, _SURVEYED):
        try:
            with Activations(source.scales, classes, reading=options.reading()) as activations:
                peak, sample = activations.peaks(), [_sample(activations)] if by_tags else []
        except PrnError:
            continue  # it fails on its own when its turn comes
        peaks.append(peak)
        samples += sample
        tagged.append(possible.get(source.path, np.ones(classes, np.bool_)))
    usual = []
    for number in range(classes):
        some = [peak[number] for peak, may in zip(peaks, tagged, strict=True) if may[number]]
        usual.append(float(np.quantile(some, _USUAL)) if some else 0.0)
    given = None if isinstance(options.background, str) else options.background
    survey = Survey(tuple(names), options.normalise, tuple(usual), given)
    if options.background != "auto":
        return survey
    if not samples:
        return replace(survey, background=USUAL_BACKGROUND)
    found = [mean_evidence(evidence(sample, survey.scale())) for sample in samples]
    return replace(survey, background=choose_background(np.array(found), np.array(tagged)))


def _sample(activations: Activations) -> FloatMaps:
    """Some rows and columns of a map, `(C, h, w)`."""
    height, width = activations.height, activations.width
    down, across = (-(-side // _SAMPLE) for side in (height, width))
    rows = [activations.read(Window(y, 0, 1, width))[:, :, ::across] for y in range(0, height, down)]
    return np.concatenate(rows, axis=1)
