"""The steps of `train` in order: options, maps, what is held out, the network and its card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from prn_cli import __version__
from prn_cli.errors import DivergedError, InputError, UsageError
from prn_cli.execution.cores import core_count, keep_freed_memory
from prn_cli.execution.watch import SILENT, Watch
from prn_cli.maps.drift import describe, reference
from prn_cli.maps.tiles import round_up
from prn_cli.methods import METHODS, recipe_of
from prn_cli.methods.weights import find_tensors
from prn_cli.options import Options
from prn_cli.rasters import common_bands, image_files
from prn_cli.tasks import Cut, find_task
from prn_cli.thresholding.decision import TELLING_MAPS
from prn_cli.training import parallel
from prn_cli.training.adapt import Start, load_start, schedule
from prn_cli.training.augment import Jitter
from prn_cli.training.export import export
from prn_cli.training.loop import Settings, base_counts, pooled_iou
from prn_cli.training.runtime import reduced_precision, set_up
from prn_cli.workflows.method_options import given_for, options_for
from prn_cli.workflows.options import folder_beside, labels_beside
from prn_cli.workflows.train import LEAST_CROP, NO_START, TrainOptions, TrainResult
from prn_cli.workflows.training import folder, own_masks
from prn_cli.workflows.training.conclusion import Conclusion, Trained, conclude, conclude_few, evidence_of
from prn_cli.workflows.training.dataset import Dataset, names_of, read_dataset
from prn_cli.workflows.training.holdout import Holdout, hold_out
from prn_cli.workflows.training.own_cut import OwnCuts
from prn_cli.workflows.training.run import Budget, Run
from prn_cli.workflows.training.stages import Outcome, train, untrained
from prn_cli.workflows.weak_plan import SURVEY


def run(options: TrainOptions, watch: Watch, began: float) -> TrainResult:
    """See `prn_cli.workflows.train.train`; `began` is when the clock of the time budget began to run."""
    begun = _begin(options, watch, began)
    options = begun.options
    found, given = _read(begun)
    calibrates, cuts = _calibrates(begun), OwnCuts(free=find_task(options.task).cuts)
    own: Cut | None = None
    if options.of_scores:
        own = 0.5  # of labels that were made of the scores as they are
        if options.unlabelled:
            own = own_masks.choose_cut(found)
            task = replace(find_task(options.task), names=tuple(found.classes))
            found = own_masks.label(found, task, own, options.out)
            begun.watch.note(own_masks.said(own, found.classes))
        else:
            own_masks.check(found)
        holdout = Holdout(found.maps, "nothing: what is learned was made of the scores")
    else:
        _first_figure(begun, found, cuts)
        holdout = _hold_out(begun, found, given, calibrates=calibrates)
    settled = replace(begun, settings=_settled(begun, holdout, len(found.classes)))
    _note(begun, settled, holdout)
    conditions = _conditions(settled, found, holdout)
    ready = replace(settled, fingerprint=_fingerprint(settled, holdout, conditions))
    parallel.check_same(json.dumps(ready.fingerprint, sort_keys=True), "maps or options")
    with _folder(options):
        outcome = untrained(ready, holdout) if calibrates else train(ready, holdout, cuts)
        first = parallel.rank() == 0
        parallel.leave()
        if not first:
            return TrainResult()
        failures = [*found.failures, *(given.failures if given else ())]
        about = {"left_out": [name for name, _ in failures], "unused": found.unused}
        about["not_counted"] = dict(found.account.not_counted)
        card = _export(
            ready, found.classes, holdout, outcome, cuts=cuts, own=own, about={"conditions": conditions, "data": about}
        )
    images = len(names_of([*holdout.learn, *holdout.hold])) + len(failures)
    verdict = f"{len(failures)} of {images} maps could not be used" if failures else ""
    return TrainResult(card=card, failures=failures, verdict=verdict)


def _hold_out(run: Run, found: Dataset, given: Dataset | None, *, calibrates: bool) -> Holdout:
    if calibrates:
        return Holdout(found.maps, "each map in turn, to choose the threshold; no network is trained on so few")
    quick = run.recipe.cross_validates or run.start is not None
    return hold_out(found, run.options, given=given, cross_validate=quick)


def _begin(options: TrainOptions, watch: Watch, began: float) -> Run:
    """Check the options against the method and the folder, and set up torch."""
    keep_freed_memory()
    options, start = _started(options)
    if options.images is None and recipe_of(options.method).bands and options.start_from is None:
        raise UsageError(f"--network {options.method} needs the images", hint="give --images DIR")
    method, budget = options.for_method(), Budget(options.seconds(), began)
    if start is not None:
        method = start.options(method)
        for name, value in given_for(options.method, options).items():
            flag, own = f"--{name.replace('_', '-')}", getattr(method, name)
            if own != value:
                raise UsageError(f"--from {start.name}: these weights have {name} {own}, and {flag} is {value}")
    threads = options.threads or max(core_count() // parallel.local_size(), 1)
    device = set_up(options.device, threads=threads, seed=options.seed)
    if parallel.rank() > 0:
        watch.mute()
        watch = SILENT
    processes = parallel.size()
    if options.batch % processes:
        raise UsageError(f"--batch {options.batch} for {processes} processes, expected a multiple of {processes}")
    if options.images is not None and not recipe_of(options.method).takes_images:
        able = " or ".join(name for name in METHODS if recipe_of(name).takes_images)
        raise UsageError(f"--images is for --network {able}", hint="leave --images out")
    if options.of_scores and not recipe_of(options.method).learns_without_labels:
        able = " or ".join(name for name in METHODS if recipe_of(name).learns_without_labels)
        hint = "leave --network out" if options.start_from is None else f"leave --from out, or name weights of {able}"
        raise UsageError(f"{options.of_scores} is for --network {able}", hint=hint)
    bands = 0 if options.images is None else _image_bands(options, options.images)
    if start is not None and start.bands != bands:
        given = f"and --images gives {_bands(bands)}" if bands else "expected --images"
        hint = "leave --from out, or name weights that see them" if bands else ""
        raise UsageError(f"--from {start.name}: these weights see {_bands(start.bands)}, {given}", hint=hint)
    begun = Run(options, _settings(options, method), start, bands, device, threads, watch, budget)
    network = begun.network()
    if options.contrast and not begun.recipe.feature_channels(network):
        raise UsageError(f"--contrast {options.contrast[0]}: --network {options.method} has no features to look at")
    multiple = network.multiple
    if options.crop % multiple:
        raise UsageError(f"--crop {options.crop}, expected a multiple of {multiple} for --network {options.method}")
    folder.check(options.out, resume=options.resume, overwrite=options.overwrite)
    return begun if begun.recipe.reduced_side(network) else replace(begun, multiple=multiple)


def _started(options: TrainOptions) -> tuple[TrainOptions, Start | None]:
    """The weights to start from, and the options with their method, unless another was asked for."""
    name = options.start_from or recipe_of(options.method).starts_from or NO_START
    if name == NO_START:
        return options, None
    start = load_start(find_tensors(name), options.network)
    return replace(options, network=start.method), start


def _calibrates(run: Run) -> bool:
    """Whether so few maps were asked for, and nothing to start from, that the threshold alone is chosen."""
    options = run.options
    few = options.shots is not None and options.shots < TELLING_MAPS
    return few and run.start is None and not options.ways and find_task(options.task).cuts


def _image_bands(options: TrainOptions, images: Path) -> int:
    """How many bands of the images the network sees."""
    chosen, needed = options.reading().rgb or (), recipe_of(options.method).bands
    found = len(chosen) or common_bands(image_files(images))
    if needed and found not in (1, needed):
        given = f"--rgb names {found} bands" if chosen else _bands(found)
        named = f"name {needed} of them by --rgb" if found > needed or chosen else ""
        other = "" if options.unlabelled else "take --network fast"
        hint = ", or ".join(filter(None, (named, other)))
        raise UsageError(f"{given}, and --network {options.method} sees {needed}", hint=hint, path=images)
    return needed or found


def _bands(count: int) -> str:
    return f"images of {count} band{'s' if count > 1 else ''}" if count else "no images"


def _settings(options: TrainOptions, method: Options) -> Settings:
    same = ("crop", "batch", "steps", "weight_decay", "average", "patience", "seed")
    return Settings(
        network=options.method,
        options=method,
        objectives={name: options_for(name, options) for name in options.contrast},
        epochs=options.epochs or 20,
        rate=recipe_of(options.method).rate if options.rate is None else options.rate,
        jitter=Jitter(scale=options.jitter_scale, shift=options.jitter_shift),
        **{name: getattr(options, name) for name in same},
    )


def _settled(run: Run, holdout: Holdout, classes: int) -> Settings:
    """The settings for these maps; training that starts from weights is short and gentle."""
    options = run.options
    method = run.recipe.for_labels(run.settings.options, of_scores=bool(options.of_scores), classes=classes)
    crop = _crop(run, holdout)
    settings = replace(run.settings, options=method, crop=crop, choose_epoch=bool(holdout.hold))
    maps = len(names_of([*holdout.learn, *holdout.hold]))
    if options.of_scores:  # no figure of other maps is asked for
        maps = max(maps, TELLING_MAPS)
    brief = None if run.start is None else schedule(maps, run.recipe)
    if holdout.scenes or (brief and brief.few):
        # What was learned on some scenes, such as their level, says little of the next one.
        settings = replace(settings, options=run.recipe.gentle(settings.options))
    if brief is None:
        return settings
    return replace(
        settings,
        epochs=options.epochs or brief.epochs,
        steps=options.steps or brief.steps,
        rate=brief.rate if options.rate is None else options.rate,
    )


def _crop(run: Run, holdout: Holdout) -> int:
    """Side of the crops: no larger than the maps, unless the network's windows have a side of their own."""
    if not run.multiple:
        return run.settings.crop
    largest = max(max(m.label.shape) for m in holdout.learn)
    return max(min(run.settings.crop, round_up(largest, run.multiple)), LEAST_CROP)


def _read(run: Run) -> tuple[Dataset, Dataset | None]:
    """The labelled maps, and those of `--validation-logits`."""
    options = run.options
    inputs = options.find_inputs(options.logits, run.watch)
    labels = None if options.unlabelled else labels_beside(options.labels, options.logits)
    if labels == Path("labels") and not labels.exists():
        hint = "give --labels DIR; without labels, --labels none --images DIR learns from the images"
        raise InputError("no such folder", hint=hint, path=labels)
    if labels is not None and not options.of_scores and run.recipe.learns_without_labels:
        beside = {Path(folder).resolve().parent for folder in options.logits}
        if labels.resolve().parent in beside and (labels.parent / SURVEY).exists():
            run.watch.note("these labels were made of these scores: --hide-scores keeps the network from copying them")
    found = read_dataset(run, inputs, labels, options.images, shots=options.shots)
    if options.validation_logits is None:
        return found, None
    inputs = options.find_inputs([str(options.validation_logits)], run.watch)
    labels, images = options.validation_labels or labels, options.validation_images or options.images
    return found, read_dataset(run, inputs, labels, images)


def _note(begun: Run, run: Run, holdout: Holdout) -> None:
    processes = f", {parallel.size()} processes" if parallel.size() > 1 else ""
    learn, hold = len(names_of(holdout.learn)), len(names_of(holdout.hold))
    held_out = f"{hold} held out ({holdout.how})" if hold else f"held out: {holdout.how}"
    if run.options.unlabelled:
        held_out = "without labels: their own masks, scores hidden"
    elif run.options.hide_scores:
        held_out = "scores hidden"
    maps = f"{learn} map{'s' if learn != 1 else ''}"
    start = f" from weights {run.start.name}" if run.start else ""
    run.watch.note(
        f"{maps} to learn from, {held_out}; {run.options.method}{start}, device {run.device.type}{processes}"
    )
    if holdout.note:
        run.watch.note(holdout.note)
    asked, taken = begun.settings.options, run.settings.options
    if getattr(taken, "planes", 1) > 1 and not run.options.of_scores:
        run.watch.note("all classes are found at once, in the images alone, and added to the scores")
    gentle = run.recipe.gentle(asked)
    careful = [n for n in run.recipe.built_with if getattr(taken, n) == getattr(gentle, n) != getattr(asked, n)]
    if careful and not run.options.of_scores:
        why = "what is learned on some scenes may harm others" if holdout.scenes else "few maps say little of others"
        run.watch.note(f"--{careful[0].replace('_', '-')} is on: {why}")
    unused = folder_beside(run.options.logits[0], "images")
    if unused and run.options.network is None and run.start is None and not run.bands:
        run.watch.note(f"the folder {unused} is not used; with --images {unused} the network sees the images, too")


def _conditions(run: Run, found: Dataset, holdout: Holdout) -> dict[str, Any]:
    """What the result depends on, besides settings and maps."""
    options = run.options
    names = ("task", "patch", "grid", "nodata", "label_nodata", "band", "valid_mask", "images", "rgb", "shots")
    given = {name: getattr(options, name) for name in names}
    given |= {} if options.scale is None else {"scale": str(options.scale)}
    return {
        # As text where JSON has nothing of the kind: paths, and numbers that may be NaN.
        **{name: value if isinstance(value, str | int | None) else str(value) for name, value in given.items()},
        "classes": list(found.classes) if len(found.classes) > 1 else [],
        "input_kind": found.kind,
        "labels": "none" if options.unlabelled else "given",
        "from": None if run.start is None else run.start.sha256,
        "folds": [sorted(fold.held_out) for fold in holdout.folds],
        "device": run.device.type,
        "threads": run.threads,  # they decide in which order the CPU adds
        "precision": str(reduced_precision(run.device)),
        "processes": parallel.size(),
    }


def _first_figure(run: Run, found: Dataset, cuts: OwnCuts) -> None:
    """Say what the base model does without a network, before any is trained."""
    if parallel.rank() > 0:
        return
    at_half = pooled_iou(base_counts(found.maps))
    if len(found.classes) > 1:
        run.watch.note(f"base model: mIoU {at_half:.4f}")
        return
    own, said = cuts.of(found.maps).threshold, f"base model: IoU {at_half:.4f} cut at 0.5"
    if own != 0.5:
        at_own = pooled_iou(base_counts(found.maps, own))
        said += f", {at_own:.4f} at {own:g}, its own threshold by these labels"
    run.watch.note(said)


def _fingerprint(run: Run, holdout: Holdout, conditions: dict[str, Any]) -> dict[str, str]:
    """All that the result depends on but time, by what users call it, so that `--resume` never mixes two runs."""
    # What a run has learned fits the layers that it had, and another prn may build others.
    layers = [(name, *tensor.shape) for name, tensor in run.network().state_dict().items()]
    settings = asdict(run.settings)
    settings |= settings.pop("options") | {f"jitter_{name}": each for name, each in settings.pop("jitter").items()}
    settings.pop("planes", None)  # no option: it follows from the classes
    found = {f"--{name.replace('_', '-')}": str(value) for name, value in (settings | conditions).items()}
    maps = hashlib.sha256()
    for role, group in (("learn", holdout.learn), ("hold", holdout.hold)):
        for one in group:
            maps.update(f"{role} {one.name} {one.label.shape}".encode("utf-8", "surrogateescape"))
            for array in (one.logits, one.label, one.pseudo, one.image):
                if array is not None:
                    maps.update(array.tobytes())
    # Options first: a run that differs in one mostly differs in what follows from it, too.
    counted = {"how classes are counted": "by the greatest score"} if conditions["classes"] else {}
    return dict(sorted(found.items())) | counted | {"the network's layers": repr(layers), "the maps": maps.hexdigest()}


@contextmanager
def _folder(options: TrainOptions) -> Iterator[None]:
    """Lock the folder, in the first process of a run. Training that diverges leaves nothing behind."""
    if parallel.rank() > 0:
        yield
        return
    with folder.claimed(options.out):
        # Another run may have ended there meanwhile.
        folder.check(options.out, resume=options.resume, overwrite=options.overwrite)
        if options.overwrite:
            folder.clear(options.out)
        try:
            yield
        except DivergedError:
            # The same line would diverge again, and another rate cannot go on from here. What --resume found stays.
            if not options.resume:
                with suppress(OSError):
                    folder.clear(options.out)
            raise


def _trusted_half(holdout: Holdout, outcome: Outcome) -> bool:
    """Whether the correction is applied by half at most: trained for too short, or seen on one scene of several."""
    held = {holdout.scenes[name] for name in outcome.maps if name in holdout.scenes}
    return outcome.undertrained or (len(held) == 1 and outcome.dropped > 0)


def _export(
    run: Run,
    classes: Sequence[str],
    holdout: Holdout,
    outcome: Outcome,
    *,
    cuts: OwnCuts,
    own: Cut | None,
    about: dict[str, Any],
) -> dict[str, Any]:
    """Choose strength and threshold on the held-out maps, and write the network's files and its card."""
    start, scenes, settings = run.start, holdout.scenes, asdict(run.settings)
    parts_of = len(names_of(holdout.learn)) if holdout.parts else 0
    seed = run.options.seed
    evidence = {}
    conclusion: Conclusion | own_masks.Transfer
    if own is not None:
        learned = {"labelled": not run.options.unlabelled, "undertrained": outcome.undertrained}
        conclusion = own_masks.conclude(outcome.network, holdout.learn, own, **learned)
        evidence = {"prn.level": " ".join(f"{level:.6g}" for level in conclusion.levels)}
    elif _calibrates(run):
        measured = [cuts.measured(m) for m in holdout.learn]
        conclusion = conclude_few(holdout.learn, measured, seed=seed)
        evidence = {"prn.evidence": json.dumps(evidence_of(measured))}
    else:
        conclusion = conclude(
            outcome.counts,
            outcome.maps,
            classes=classes,
            scenes=scenes,
            parts_of=parts_of,
            own=cuts.of(holdout.learn).threshold,
            trained=Trained(outcome.steps, outcome.total, half=_trusted_half(holdout, outcome)),
            any_threshold=find_task(run.options.task).cuts,
            seed=seed,
        )
    known = reference([describe(m.logits) for m in holdout.learn])
    if start is not None and start.reference is not None:
        known = known.joined(start.reference)
    data = {
        "learned_from": names_of(holdout.learn),
        "held_out": list(dict.fromkeys(outcome.maps)),
        "held_out_how": holdout.how,
        "parts_of": parts_of,
        "scenes": len(set(scenes.values())),
        "scenes_held_out": len({scenes[name] for name in outcome.maps if name in scenes}),
        "pixels": int(sum(m.label.size for m in holdout.learn)) // len(classes),
    }
    card = {
        "prn_version": __version__,
        "data": data | about["data"],
        "patch": run.options.patch,
        "from": None if start is None else {"name": start.name, "sha256": start.sha256},
        "settings": settings.pop("options") | settings,
        "conditions": about["conditions"],
        "epochs": outcome.state.epoch,
        "steps": outcome.state.steps,
        "full_steps": max(outcome.total, outcome.state.steps),
        "folds_left_out": outcome.dropped,
        "best_epoch": outcome.state.best_epoch + 1,
        "seconds": round(outcome.seconds, 1),
        **conclusion.card(),
    }
    metadata = {
        "prn.strength": f"{conclusion.strength:g}",
        "prn.threshold": f"{conclusion.threshold:g}",
        "prn.reference": known.to_json(),
        **evidence,
    }
    return export(outcome.network, run.options.out, metadata=metadata, card=card)
