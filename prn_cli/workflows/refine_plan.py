"""What `refine` finds and checks before the first map: inputs, outputs, weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from prn_cli import rasters
from prn_cli.errors import UsageError
from prn_cli.execution.watch import Watch
from prn_cli.files.manifest import Manifest, check_outputs, manifest_beside
from prn_cli.methods import load_refiner
from prn_cli.methods.weights import Weights, expected_gain, find_weights
from prn_cli.rasters.pairs import Paths
from prn_cli.refinement.rows import Link, check_classes, check_image, check_tile
from prn_cli.tasks import Cut, Task
from prn_cli.workflows.decide import ClassOffsets, Refined, SetDecision, decide_offsets, decide_threshold, evidence_of
from prn_cli.workflows.items import DRAFT, Item
from prn_cli.workflows.objects import Objects
from prn_cli.workflows.options import recorded, with_kind
from prn_cli.workflows.parts import check_part, select_part
from prn_cli.workflows.refine import RefineOptions
from prn_cli.workflows.refine_map import Masks, Run
from prn_cli.workflows.scenes import Scene, scenes_of, without_drafts
from prn_cli.workflows.survey import Drawn, MapSet, cut_at, survey, warn_of_images
from prn_cli.workflows.work import Work, pass_over_outputs

T = TypeVar("T")

_LARGE_FILE = 1 << 22  # bytes: of a map that surely has several windows
_FLOAT_SUFFIXES = (".npy", *rasters.TIFF_SUFFIXES)
_NOT_WRITTEN = (".npz", ".jpg", ".jpeg", ".jp2", ".bmp", ".gif", ".webp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run that is ready to start: its maps, what is the same for all of them, and the scenes of those that adjoin.

    `own` is the threshold at which training would cut the base model alone; None if it is that of the masks.
    """

    options: RefineOptions
    run: Run
    work: Work
    scenes: Mapping[Path, Scene]
    choice: SetDecision | ClassOffsets | None = None
    own: float | None = None

    def run_of(self, item: Item) -> Run:
        """The run of one map, which may have a threshold of its own."""
        if not isinstance(self.choice, SetDecision) or not self.options.per_image:
            return self.run
        inputs = item.inputs
        one = Drawn(item.path.stem, item.path, partial(inputs.get, "image"), partial(inputs.get, "valid_mask"))
        threshold = self.choice.of_map(one).threshold
        return replace(self.run, threshold=threshold, links=cut_at(self.run.links, threshold))

    def own_threshold(self, run: Run) -> dict[str, Any]:
        """For the figures of a map: where the base model alone would be cut, to tell what that gains by itself."""
        return {"own_threshold": run.threshold if self.own is None else self.own} if run.task.cuts else {}


def prepare(options: RefineOptions, watch: Watch) -> Plan:
    """Find and check everything, and load the weights."""
    check_part(options.num_parts, options.part_id)
    task = options.find_task("refine")
    fixed = _fixed_threshold(options, task)
    objects = Objects(options.polygons, options.min_area, options.fill_holes, options.simplify)
    values, creation = options.mask_values(), options.creation_options()
    if options.dask is not None:
        from prn_cli.execution.cluster import check_cluster

        check_cluster(options.dask)
    reading = options.reading()
    inputs = options.find_inputs(options.logits, watch)
    folder = not options.out.suffix or options.out.is_dir()
    made = Manifest(options.out) if folder else manifest_beside(options.out)
    inputs = pass_over_outputs(inputs, made, [options.out, options.probabilities, options.bias], watch)
    weights = [find_weights(str(name)) for name in options.weights]
    links = _load(weights, options, inputs, watch)
    palette = None
    if options.palette_file is not None:
        palette = rasters.read_palette(options.palette_file, max_pixels=reading.max_pixels)
    task = task.with_classes(inputs, reading, given=options.classes, palette=palette)
    check_classes(links, len(task.names))
    colours = None if palette is None else palette.colours
    masks = Masks(values=values, palette=colours, cog=options.format == "cog", creation=creation)
    single = _is_single_file(options, len(inputs))
    images = _images(options, links, watch)
    outputs = partial(_outputs, options=options, task=task, objects=objects, single=single)
    items, partners = _find_maps(options, inputs, images, outputs, watch)
    _check_tiff_options(items, options)
    for role, path in items[0].rasters.items() if items else ():
        masks.create(role, path, task, (1, 1))  # unknown creation options show before the work
    scenes = scenes_of(items, objects, reading) if len(inputs) > 1 else {}
    manifest = _manifest(options, items, scenes, single=single)
    reading = with_kind(reading, inputs, watch)
    maps = MapSet(inputs=inputs, images=images, valid_mask=options.valid_mask, task=task, reading=reading, watch=watch)
    learned, last = _learned_here(weights, links)
    own_scores = [link for link in links if not (link.refiner.needs.survey or link.refiner.keeps_level)]
    choice = _choose(options, (learned, last), maps, own_scores) if fixed is None else None
    threshold = fixed if choice is None else choice.cut
    own = _own(learned.card) if threshold is None else None
    if threshold is None:
        threshold = last.refiner.threshold if learned.knows_threshold else 0.5  # of hard masks
    _note_new_maps(weights, inputs, watch)
    warn_of_images(links, maps.sample, watch)
    links, surveyed = survey(cut_at(links, threshold), maps.sample, watch)
    _tell(options, weights, links, threshold, choice=choice, own=own, watch=watch)
    run = Run(
        links=links, threshold=threshold, tta=options.tta, task=task, reading=reading, masks=masks, objects=objects
    )
    settings = _settings(options, run, weights, choice) | surveyed

    digest = cache(lambda scene: scene.digest(work))

    def of_scene(item: Item) -> dict[str, Any]:
        scene = scenes.get(item.path)
        if scene is None:
            return {}
        return {"min_area": None, "fill_holes": None} if DRAFT in item.outputs else {"scene": digest(scene)}

    work = Work(
        items=without_drafts(items, scenes),
        drafts={path: scene.drafts[path] for path, scene in scenes.items()},
        partners=partners,
        manifest=manifest,
        settings=lambda item: settings | of_scene(item),
        overwrite=options.overwrite,
        verb="refine",
    )
    return Plan(options=options, run=run, work=work, scenes=scenes, choice=choice, own=own)


def _fixed_threshold(options: RefineOptions, task: Task) -> float | None:
    """The threshold that was given; None if it is to be chosen."""
    fixed = options.threshold
    if fixed is None or fixed == "auto":
        return None
    if options.per_image:
        raise UsageError(f"--per-image with --threshold {fixed:g}", hint="leave one of them out")
    if task.several and fixed != 0.5:
        raise UsageError(
            f"--threshold {fixed:g} with --task {task.name}: the greatest score counts",
            hint="give auto, or 0.5 for the classes as they are",
        )
    return fixed


# Weights.


def _load(weights: Sequence[Weights], options: RefineOptions, inputs: Paths, watch: Watch) -> tuple[Link, ...]:
    """Load the weights, each with its strength and its tile."""
    strengths: Sequence[float | None] = options.strength or [None]
    if len(strengths) == 1:
        strengths = [*strengths] * len(weights)
    if len(strengths) != len(weights):
        raise UsageError(
            f"--strength given {len(strengths)} times for {len(weights)} --weights",
            hint="give one for all, or one each",
        )
    several = len(inputs) > 1 or _size(inputs[0]) > _LARGE_FILE  # runs of the network at once
    threads = options.thread_count() if options.dask is None else 0  # on a cluster, each worker's are its own
    links = []
    for found, strength in zip(weights, strengths, strict=True):
        refiner = load_refiner(found, device=options.device, threads=threads, side_by_side=several, watch=watch)
        tile = options.tile or refiner.needs.tile
        check_tile(tile, refiner)
        links.append(Link(refiner, strength, tile))
    return tuple(links)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # it fails when its turn comes
        return 0


def _learned_here(weights: Sequence[Weights], links: Sequence[Link]) -> tuple[Weights, Link]:
    """The last weights that know where maps of this set are cut, of all that are applied; the last, if none does."""
    known = [pair for pair in zip(weights, links, strict=True) if pair[0].knows_threshold]
    return known[-1] if known else (weights[-1], links[-1])


def _choose(
    options: RefineOptions, learned: tuple[Weights, Link], maps: MapSet, links: Sequence[Link]
) -> SetDecision | ClassOffsets | None:
    """Choose the threshold on the maps of the set, or the offsets of its classes; None if the weights' stands."""
    task, (weights, last) = maps.task, learned
    left_open = not weights.knows_threshold or last.refiner.evidence
    chosen_before = options.threshold is None and not left_open
    if not (task.cuts or task.several) or (chosen_before and not options.per_image):
        return None
    if maps.reading.kind == "mask":  # masks have one threshold
        return None
    sample = Refined(maps, links, options.thread_count())
    if task.several:
        return decide_offsets(sample, options.score)
    return decide_threshold(sample, options.score, evidence_of(last, weights.path))


def _tell(
    options: RefineOptions,
    weights: Sequence[Weights],
    links: Sequence[Link],
    threshold: Cut,
    *,
    choice: SetDecision | ClassOffsets | None,
    own: float | None,
    watch: Watch,
) -> None:
    """Note which weights are applied, their strength, the threshold, and the gain that training expects."""
    for found, link in zip(weights, links, strict=True):
        refiner = link.refiner
        where = f"on {refiner.device} by {refiner.library}"
        watch.detail(f"{found.path} ({refiner.name}) {where}, tile {link.tile}, halo {refiner.needs.halo}")
    if choice is not None:
        watch.note(str(choice))
    if options.probabilities is not None and not isinstance(threshold, tuple):
        own = threshold if own is None else own
        if (own, threshold) != (0.5, 0.5):
            watch.note(
                f"to score the probabilities as the masks are cut: prn score --threshold {threshold:g} "
                f"--own-threshold {own:g}"
            )
    applied = any(link.applied for link in links)
    if options.strength is None and not applied and all(_of_scores(found) for found in weights):
        why = "in training, the images gave too little back of what was learned (--strength 0.5 adds it)"
        watch.note(f"these weights leave scores as they are: {why}")
        return
    if choice is not None and not applied:
        return
    if options.strength is None and threshold == 0.5 and not applied:
        if any(link.refiner.strength for link in links):  # the set does not bear them, and the survey has said so
            return
        why = "in training, no correction helped on held-out images (--strength 1 applies it nevertheless)"
        if all(found.card.get("learned_without_labels") for found in weights):
            why = "they choose the threshold where none is given, and correct on request (--strength 0.5)"
        watch.note(f"these weights leave masks as they are: {why}")
        return
    strengths = [link.applied for link in links]
    said = []
    if threshold != 0.5 or any(strength != 1 for strength in strengths):
        cut = "" if options.task == "multiclass" else f", cut at {threshold:g}"
        said.append(f"strength {', '.join(f'{strength:g}' for strength in strengths)}{cut}")
    refiner = links[0].refiner
    if len(links) == 1 and (strengths[0], threshold) == (refiner.strength, refiner.threshold):
        said.append(expected_gain(weights[0].card))
    if any(said):
        watch.note("; ".join(filter(None, said)))


def _note_new_maps(weights: Sequence[Weights], inputs: Paths, watch: Watch) -> None:
    """Count maps that weights without labels have not learned from: they were made for those that they have."""
    for found in weights:
        data = found.card.get("data")
        if not found.card.get("own_masks") or not isinstance(data, dict):
            continue
        new = len(set(inputs.stems()).difference(data.get("learned_from", ())))
        if new:
            watch.note(
                f"{new} of {len(inputs)} maps are new to {found.name}, and may lose: let it learn from them, too"
            )


def _of_scores(weights: Weights) -> bool:
    """Whether they have learned what was made of scores; cards of earlier versions have no `transfer`."""
    return "transfer" in weights.card or bool(weights.card.get("own_masks"))


def _own(card: Mapping[str, Any]) -> float | None:
    """Where training would cut the base model alone, if the card says so."""
    choice = card.get("choice")
    own = choice.get("own") if isinstance(choice, dict) else None
    return own if isinstance(own, float) else None


# Maps and their partners.


def _find_maps(
    options: RefineOptions,
    inputs: Paths,
    images: Path | None,
    outputs: Callable[[Path], dict[str, Path]],
    watch: Watch,
) -> tuple[list[Item], list[rasters.Partners]]:
    """The maps of this part of the run, with what is read and written for each."""
    chosen, twins = select_part(inputs.stems(), options.num_parts, options.part_id)
    # Only inputs of one stem can share an output. Every part compares all of these, so that all parts agree.
    seen = sorted({*chosen, *twins})
    partners = [
        rasters.find_images(inputs, images, seen),
        rasters.find_valid_masks(inputs, options.valid_mask, seen),
        rasters.find_references(inputs, options.like, seen),
    ]
    items = {}
    for number in seen:
        path = inputs[number]
        read = {"logits": path}
        for kind in partners:
            read |= kind.role(path)
        items[number] = Item(path, read, outputs(path))
    check_outputs((item.inputs.values(), item.outputs.values()) for item in items.values())
    rasters.check_stems(items[number].path for number in twins)
    if options.num_parts is not None:
        watch.note(f"part {options.part_id} of {options.num_parts}: {len(chosen)} of {len(inputs)} inputs")
    return [items[number] for number in chosen], partners


def _images(options: RefineOptions, links: Sequence[Link], watch: Watch) -> Path | None:
    images = options.images
    if images is not None and not any(link.refiner.needs.bands for link in links):
        hint = "prn train learns from images, with labels or --labels none"
        watch.note(f"these weights do not look at images: --images is ignored ({hint})")
        images = None
    check_image(links, given=images is not None)
    return images


def _manifest(options: RefineOptions, items: Sequence[Item], scenes: Mapping[Path, Scene], *, single: bool) -> Manifest:
    layer = [] if options.polygons is None or options.num_parts is not None else [options.polygons]
    paths = [*(path for item in items for path in item.outputs.values()), *layer]
    drafts = (path for key, scene in scenes.items() for path in scene.drafts[key].outputs.values())
    asked = {*paths, *drafts}
    manifest = manifest_beside(options.out, asked) if single else Manifest(options.out, asked)
    if not options.overwrite:
        manifest.refuse_strangers(paths)
    return manifest


def _settings(
    options: RefineOptions, run: Run, weights: Sequence[Weights], choice: SetDecision | ClassOffsets | None
) -> dict[str, Any]:
    """On what the outputs depend, for the manifest."""
    masks = run.masks
    per_image = {"per_image": choice.digest} if isinstance(choice, SetDecision) and options.per_image else {}
    return {
        **run.task.settings(),
        **({} if masks.palette is None else {"palette": masks.palette.tobytes().hex()}),
        **run.objects.settings(),
        **({"cog": True} if masks.cog else {}),
        "weights": _one_or_all(found.sha256 for found in weights),
        "strength": _one_or_all(link.applied for link in run.links),
        "threshold": list(run.threshold) if isinstance(run.threshold, tuple) else run.threshold,
        **per_image,
        "tile": _one_or_all(link.tile for link in run.links),
        "tta": run.tta,
        "values": options.values,
        **recorded(run.reading),
        "creation_options": masks.creation,
    }


def _one_or_all(values: Iterable[T]) -> T | list[T]:
    found = list(values)
    return found[0] if len(found) == 1 else found


# Outputs.


def _outputs(path: Path, options: RefineOptions, task: Task, objects: Objects, *, single: bool) -> dict[str, Path]:
    suffix = _suffix(options) or rasters.tiff_suffix(path) or ".png"
    mask = options.out if single else options.out / (path.stem + suffix)
    outputs = {"mask": mask}
    floats = {"probabilities": options.probabilities, "bias": options.bias}
    for role, place in floats.items():
        if place is None:
            continue
        for name in task.names:  # a single foreground has none
            file = _float_file(role, place / name, path.stem, mask, single=single)
            outputs[f"{role}/{name}" if name else role] = file
    return outputs | objects.part(mask)


def _float_file(role: str, place: Path, stem: str, mask: Path, *, single: bool) -> Path:
    if place.is_dir() or not place.suffix:
        return place / (stem + (rasters.tiff_suffix(mask) or ".npy"))
    if not single or place.suffix.lower() not in _FLOAT_SUFFIXES:
        found = f"'{place.suffix}' for float32 maps" if single else "a file, for masks in a folder"
        raise UsageError(f"--{role} names {found}", hint="give a folder, or a .npy or .tif file", path=place)
    return place


def _suffix(options: RefineOptions) -> str:
    """The suffix of masks in a folder; empty if it depends on the input's."""
    if options.format == "auto":
        return "" if options.like is None else ".tif"
    return ".tif" if options.format == "cog" else f".{options.format}"


def _is_single_file(options: RefineOptions, count: int) -> bool:
    out, suffix = options.out, options.out.suffix.lower()
    if out.is_dir():
        return False
    if suffix in _NOT_WRITTEN:
        raise UsageError(f"cannot write '{suffix}' masks, expected {' '.join(rasters.WRITTEN_SUFFIXES)}", path=out)
    if suffix not in rasters.WRITTEN_SUFFIXES:
        if out.exists():
            raise UsageError("is a file, expected a folder for the masks", hint="give another --out", path=out)
        return False
    if count > 1:
        raise UsageError(f"names one file for the masks of {count} inputs", hint="give a folder", path=out)
    if options.format != "auto" and not suffix.startswith(_suffix(options)):
        raise UsageError(f"does not fit --format {options.format}", hint="leave --format out", path=out)
    return True


def _check_tiff_options(items: Sequence[Item], options: RefineOptions) -> None:
    """Check that a TIFF is written if options for TIFF are given."""
    flag = "--like" if options.like is not None else "--co" if options.co else ""
    if not flag or not items:
        return
    if not any(path.suffix.lower() in rasters.TIFF_SUFFIXES for item in items for path in item.rasters.values()):
        raise UsageError(f"{flag} is for TIFF, and none is written", hint=f"add --format tif, or leave {flag} out")
