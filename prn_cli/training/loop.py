"""The training loop: epochs of random crops, an average of the weights, the best epoch by validation IoU."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prn_cli.errors import DivergedError
from prn_cli.execution.ahead import ahead
from prn_cli.execution.clock import now
from prn_cli.execution.watch import Epoch
from prn_cli.maps.classes import choose, masks_of
from prn_cli.maps.noise import place_seed
from prn_cli.maps.tiles import row_bands
from prn_cli.methods import objective_of, options_of, recipe_of, refiner_of
from prn_cli.methods.objective import Objective
from prn_cli.methods.recipe import Batch, Outputs
from prn_cli.methods.refiner import FloatMap
from prn_cli.methods.torch_runner import TorchRunner
from prn_cli.metrics.classes import mean_region_iou
from prn_cli.metrics.intervals import compare
from prn_cli.metrics.regions import FloatArray, count_regions
from prn_cli.options import Options
from prn_cli.refinement.rows import How, Link, Rows, cut, refine_rows
from prn_cli.training import parallel
from prn_cli.training.augment import Jitter, TrainingMap, by_image, draw_batch, reduced_copies
from prn_cli.training.choice import tally, tally_classes
from prn_cli.training.runtime import reduced_precision

T = TypeVar("T")

_BATCHES_AHEAD = 2
_RESAMPLES = 400  # for a look; the verdict has more
_TRIED = 3  # steps
SEEDED = threading.Lock()
"""Held by whoever seeds torch's generator and draws from it: it is one for all threads."""


@dataclass(frozen=True)
class Settings:
    """Everything that decides what a run learns.

    Attributes:
        network: name of the method.
        options: of the method; its defaults if None.
        objectives: options of each objective that is added to the method's own, by name.
        crop: side of the training crops, px.
        batch: crops a step.
        epochs: at most.
        steps: an epoch; None: enough to see half the maps' area, between 100 and 250.
        rate: peak learning rate.
        weight_decay: of convolutions.
        average: decay a step of the moving average of the weights, which is what is validated and kept.
        patience: epochs without a better validation IoU after which training ends.
        choose_epoch: keep the epoch with the best validation IoU; if not, the last, and patience has no say.
        seed: of everything that is drawn.
        time_budget: seconds after which training ends; the learning rate falls in time for it.
        report: steps after which held-out maps are looked at, if these are fewer than an epoch's.
        jitter: of the scores.
    """

    network: str = "fast"
    options: Options | None = None
    objectives: Mapping[str, Options] = field(default_factory=dict)
    crop: int = 256
    batch: int = 8
    epochs: int = 20
    steps: int | None = None
    rate: float = 1e-3
    weight_decay: float = 0.05
    average: float = 0.995
    patience: int = 8
    choose_epoch: bool = True
    seed: int = 0
    time_budget: float | None = None
    report: int | None = None
    jitter: Jitter = field(default_factory=Jitter)


@dataclass
class State:
    """Everything that a later process needs to go on as if there had been no break.

    Attributes:
        network: weights after the last step.
        average: moving average of the weights.
        best: the weights to keep.
        objective: what the objective has learned.
        optimizer: moments, by number of the parameter.
        epoch: rounds of training done, each followed by a look at held-out maps: epochs, or less with `report`.
        steps: done.
        best_epoch: round of the best weights; -1 for those of the start.
        best_iou: of the best weights.
        seconds: of training.
        history: of the rounds.
        total: steps of the whole training.
        late: whether time has ended it before.
        counts: `(maps, S, 3, 4)` int64 of all held-out maps at the end, see `choice.tally`; None before.
    """

    network: dict[str, Tensor]
    average: dict[str, Tensor]
    best: dict[str, Tensor]
    objective: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    epoch: int = 0
    steps: int = 0
    best_epoch: int = -1
    best_iou: float = -1.0
    seconds: float = 0.0
    history: list[Epoch] = field(default_factory=list)
    total: int = 0
    late: bool = False
    counts: NDArray[np.int64] | None = None


def steps_per_epoch(maps: Sequence[TrainingMap], settings: Settings) -> int:
    """How many batches an epoch has."""
    if settings.steps is not None:
        return settings.steps
    crops = sum(math.ceil(m.label.size / settings.crop**2) for m in maps)
    return min(max(math.ceil(crops / settings.batch / 2), 100), 250)


def learning_rate(progress: float, peak: float) -> float:
    """A short linear rise, then half a cosine down to 1 % of the peak; `progress` goes from 0 to 1."""
    warm = 0.05
    if progress < warm:
        return peak * max(progress / warm, 0.01)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min((progress - warm) / (1 - warm), 1.0))))


def ended(state: State, settings: Settings) -> bool:
    """Whether a run in this state is at its end: by its steps, without gain for too long, or out of time."""
    waited = state.epoch - 1 - state.best_epoch if settings.choose_epoch else 0
    late = settings.time_budget is not None and state.seconds >= settings.time_budget
    patience = settings.patience if settings.report is None else settings.epochs * settings.patience
    return state.steps >= state.total or waited >= patience or (late and state.epoch > 0)


def fit(
    network: Any,
    maps: Sequence[TrainingMap],
    validation: Sequence[TrainingMap],
    settings: Settings,
    device: torch.device | None = None,
    *,
    state: State | None = None,
    trained: bool = False,
    check: Callable[[], object] = lambda: None,
) -> Iterator[tuple[Epoch, State]]:
    """Train, one epoch an iteration; by several processes, if there are, all of which give the same.

    Args:
        network: of any method; trained in place.
        maps: to learn from.
        validation: to choose the best epoch on, by pooled IoU; of other images than `maps`. May be empty where the
            settings keep the last epoch.
        settings: of the run.
        device: where to train; the CPU if None.
        state: of an earlier run to go on from. On the CPU, the result is that of an unbroken run.
        trained: whether the network's weights have been trained before.
        check: is called before every step; what it raises ends the training.

    Yields:
        What the epoch gave, and the state after it.

    Raises:
        DivergedError: the weights, or what the network gives, are not finite.
    """
    device = device or torch.device("cpu")
    before = base_counts(validation)
    if state is None:
        weights = _on_cpu(network.state_dict())
        state = State(network=weights, average=weights, best=weights)
        # An epoch must beat on the validation maps what there was before: the trained weights, or the base model.
        if settings.choose_epoch and trained:
            state.best_iou = pooled_iou(evaluate(network.to(device), validation, device))
        elif settings.choose_epoch and recipe_of(network.name).identity_at_start:
            state.best_iou = pooled_iou(before)
    steps = steps_per_epoch(maps, settings)
    total = settings.epochs * steps
    with SEEDED:
        trainer = _Trainer(network, settings, device, state, steps=min(steps, settings.report or steps), total=total)
    side = trainer.recipe.reduced_side(network)
    maps = [*maps, *(reduced_copies(maps, side) if side else ())]
    state.total = total
    while not ended(state, settings):
        began = now()
        losses = trainer.epoch(maps, state, began, check)
        trainer.check_finite(losses, state.epoch)
        network.load_state_dict(trainer.average)
        after = evaluate(network, validation, device)
        network.load_state_dict(trainer.current)
        reached = pooled_iou(after) if validation else None
        better = not settings.choose_epoch or (reached is not None and reached > state.best_iou)
        state.steps += len(losses)
        state.seconds = parallel.agreed(state.seconds + now() - began)
        by_time = 0.0 if settings.time_budget is None else state.seconds / settings.time_budget
        gain = None
        if validation:
            gain = compare(before, after, mean_region_iou, pool=True, resamples=_RESAMPLES).difference
        epoch = Epoch(
            number=state.epoch,
            loss=float(losses.mean()),
            iou=reached,
            best=better,
            seconds=state.seconds,
            steps=state.steps,
            done=min(max(state.steps / total, by_time), 1.0),
            gain=None if gain is None or np.isnan(gain.low) else tuple(round(value, 6) for value in gain),
        )
        trainer.save(state)
        if better:
            state.best, state.best_epoch = _on_cpu(state.average), state.epoch
            state.best_iou = -1.0 if reached is None else reached
        state.epoch += 1
        state.late, state.counts = by_time >= 1 and state.steps < total, None
        state.history.append(epoch)
        yield epoch, state


class _Trainer:
    """A network, its objective and its optimiser, as they stand between epochs.

    Attributes:
        average: of the network's weights, by name.
        current: the network's weights after the last epoch, by name.
    """

    def __init__(
        self, network: Any, settings: Settings, device: torch.device, state: State, *, steps: int, total: int
    ) -> None:
        self.network, self.settings, self.device = network, settings, device
        self.steps, self.total = steps, total
        self.recipe = recipe_of(network.name)
        self.options = settings.options or options_of(network.name)()
        network.load_state_dict(state.network)
        network.to(device, memory_format=torch.channels_last)
        torch.manual_seed(settings.seed)
        self.objective = _objective(network, self.options, settings.objectives).to(device)
        if state.objective:
            self.objective.load_state_dict(state.objective)
        # Weight decay for convolutions, none for biases and normalisation.
        self.parameters = [p for p in (*network.parameters(), *self.objective.parameters()) if p.requires_grad]
        kinds = ([p for p in self.parameters if p.ndim > 1], [p for p in self.parameters if p.ndim < 2])
        decays = settings.weight_decay, 0.0
        groups = [{"params": kind, "weight_decay": decay} for kind, decay in zip(kinds, decays, strict=True) if kind]
        fused = device.type == "cuda"
        self.optimizer = torch.optim.AdamW(groups, lr=settings.rate, fused=fused)
        for index, saved in state.optimizer.items():
            parameter = self.parameters[index]
            self.optimizer.state[parameter] = {
                key: value.clone().to("cpu" if key == "step" and not fused else parameter.device)
                for key, value in saved.items()
            }
        self.average = {name: tensor.clone().to(device) for name, tensor in state.average.items()}
        self.current: dict[str, Tensor] = {}
        self.reduced = reduced_precision(device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.reduced == torch.float16)
        self.loss_of = parallel.data_parallel(network, self._loss)

    def epoch(self, maps: Sequence[TrainingMap], state: State, began: float, check: Callable[[], object]) -> Tensor:
        """Train for an epoch; the losses of its steps."""
        settings = self.settings
        self.network.train()
        # One generator an epoch, from the seed and the epoch's number: a resumed run draws the same crops.
        random = np.random.default_rng([settings.seed, state.epoch])
        with SEEDED:  # else a network that is built beside this one would begin with other weights
            torch.manual_seed(place_seed(settings.seed, state.epoch))
        losses = []
        with closing(ahead(self._batches(maps, random, state.steps), _BATCHES_AHEAD)) as batches:
            for step, batch in enumerate(batches):
                check()
                taken = state.steps + step
                progress = taken / self.total
                if settings.time_budget is not None:
                    elapsed = parallel.agreed(state.seconds + now() - began)
                    progress = max(progress, elapsed / settings.time_budget)
                for group in self.optimizer.param_groups:
                    group["lr"] = learning_rate(progress, settings.rate)
                losses.append(self._step(batch))
                self._follow(min(settings.average, (1 + taken) / (10 + taken)))
                if progress >= 1:
                    break
        self.current = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
        for name, tensor in self.current.items():
            if not tensor.is_floating_point():
                self.average[name].copy_(tensor)
        return torch.stack(losses)

    def _batches(
        self, maps: Sequence[TrainingMap], random: np.random.Generator, taken: int
    ) -> Generator[Batch[Tensor]]:
        """An epoch's batches, drawn while the device is at work on others."""
        settings, planes = self.settings, self.recipe.planes(self.network)
        for _ in range(min(self.steps, self.total - taken)):
            drawn = draw_batch(maps, settings.batch, settings.crop, settings.jitter, random, planes=planes)
            batch = self.recipe.prepare(drawn, self.options, random).mapped(torch.from_numpy)
            yield batch.mapped(Tensor.pin_memory) if self.device.type == "cuda" else batch

    def _step(self, drawn: Batch[Tensor]) -> Tensor:
        batch = drawn.mapped(lambda tensor: tensor.to(self.device, non_blocking=True))
        with torch.autocast(self.device.type, dtype=self.reduced, enabled=self.reduced is not None):
            loss = self.loss_of(batch)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        parallel.average_gradients(self.objective)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()

    def _loss(self, batch: Batch[Tensor]) -> Tensor:
        """The loss of a batch; where several processes train, each runs the network on its rows of it."""
        paths, features = self.recipe.outputs(self.network, batch.mapped(parallel.share))
        seen = parallel.whole(features) if self.objective.needs_features and features is not None else None
        return self.objective(Outputs(tuple(parallel.whole(path) for path in paths), seen), batch)

    @torch.no_grad()
    def _follow(self, decay: float) -> None:
        values = {name: value for name, value in self.network.state_dict().items() if value.is_floating_point()}
        torch._foreach_lerp_([self.average[name] for name in values], list(values.values()), 1 - decay)

    def check_finite(self, losses: Tensor, epoch: int) -> None:
        """Check what an epoch has left.

        Raises:
            DivergedError: the weights, or all losses, are not finite.
        """
        if not all(torch.isfinite(tensor).all() for tensor in (*self.current.values(), *self.average.values())):
            raise DivergedError(f"the weights are not finite after epoch {epoch + 1}")
        if not losses.isfinite().any():  # steps in float16 that were all left out
            raise DivergedError(f"no loss of epoch {epoch + 1} is finite")

    def save(self, state: State) -> None:
        """Put everything that training goes on from into the state."""
        state.network, state.average = _on_cpu(self.current), _on_cpu(self.average)
        state.objective = _on_cpu(self.objective.state_dict())
        moments = ((index, self.optimizer.state.get(p)) for index, p in enumerate(self.parameters))
        state.optimizer = {index: _on_cpu(values) for index, values in moments if values}


def _objective(network: Any, options: Options, more: Mapping[str, Options]) -> Objective:
    total = recipe_of(network.name).objective(options, network)
    for name, of_objective in more.items():
        total = total + objective_of(name, of_objective, network)
    return total


def seconds_per_step(network: Any, maps: Sequence[TrainingMap], settings: Settings, device: torch.device) -> float:
    """How long a step of training takes, by a few that are forgotten."""
    weights = _on_cpu(network.state_dict())
    fresh = State(network=weights, average=weights, best=weights)
    with SEEDED:
        trainer = _Trainer(network, settings, device, fresh, steps=1, total=1 << 30)
    taken = []
    for _ in range(_TRIED):
        began = now()
        trainer.epoch(maps, fresh, began, lambda: None).tolist()  # waits for the device
        taken.append(now() - began)
    return min(taken)


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


class _TrainingRunner(TorchRunner):
    """Runs a network in training, which may have diverged."""

    def run(self, outputs: Sequence[str], inputs: Mapping[str, FloatMap]) -> list[FloatMap]:
        found = super().run(outputs, inputs)
        if not all(np.isfinite(output).all() for output in found):
            raise DivergedError("the network gives numbers that are not finite")
        return found


Planes: TypeAlias = Sequence[TrainingMap]
"""The maps of an image, one a class."""
Count: TypeAlias = Callable[[FloatMap, FloatMap, NDArray[np.uint8]], NDArray[np.int64]]
"""Counts `(C, ...)` of some rows: of base logits, refined logits and labels, `(C, h, w)` each. Those of rows add up."""


def _refined(
    network: Any, maps: Sequence[TrainingMap], device: torch.device | None, count: Count
) -> list[NDArray[np.int64]]:
    """Refine the maps of every image by the road that `prn refine` takes, and count what came out, image by image."""
    refiner = refiner_of(_TrainingRunner(network.to(device or torch.device("cpu"))))
    return parallel.spread(lambda planes: _counted(planes, _bands(planes, refiner), count), by_image(maps))


def _counted(planes: Planes, bands: Iterable[tuple[slice, FloatMap]], count: Count) -> NDArray[np.int64]:
    """Count an image, of all of whose classes `bands` gives the refined logits of some rows."""
    total: NDArray[np.int64] | int = 0
    for rows, refined in bands:
        logits, labels = (np.stack([getattr(m, part)[rows] for m in planes]) for part in ("logits", "label"))
        total = total + count(logits, refined, labels)
    return np.asarray(total)


def _bands(planes: Planes, refiner: Any) -> Iterator[tuple[slice, FloatMap]]:
    """The rows of an image, and their refined logits; classes take turns, so that windows are run once for all."""

    def refine(m: TrainingMap) -> Generator[Rows]:
        image, (height, width) = m.image, m.label.shape
        return refine_rows(
            lambda window: m.logits[window.slices],
            height,
            width,
            [Link(refiner)],
            How(seed=place_seed(0, m.name), plane=m.plane),
            read_image=None if image is None else lambda window: image[:, *window.slices],
        )

    for pieces in zip(*map(refine, planes), strict=True):
        refined = np.stack([rows.refined for rows in pieces])
        yield slice(pieces[0].y, pieces[0].y + refined.shape[1]), refined


def _count_masks(logits: FloatMap, labels: NDArray[np.uint8], threshold: float = 0.5) -> NDArray[np.int64]:
    """Region counts, `(C, 4)`, of masks: of one class by the threshold, of several by the greatest score."""
    masks = [cut(logits[0], threshold)] if len(labels) == 1 else masks_of(choose(logits), len(labels))
    counts = [count_regions(mask, label).array() for mask, label in zip(masks, labels, strict=True)]
    return np.array(counts, np.int64)


def evaluate(network: Any, maps: Sequence[TrainingMap], device: torch.device | None = None) -> FloatArray:
    """Region counts of each image's refined masks, `(images, 4 C)`.

    A mask is cut at 0.5; of several classes, it is where its score is the greatest.
    """
    return _by_image(_refined(network, maps, device, lambda _, refined, labels: _count_masks(refined, labels)))


def _by_image(counts: Sequence[NDArray[np.int64]]) -> FloatArray:
    return np.array([each.ravel() for each in counts], np.float64).reshape(len(counts), counts[0].size if counts else 4)


def tallies(
    network: Any, maps: Sequence[TrainingMap], device: torch.device | None = None, *, own: float = 0.5
) -> NDArray[np.int64]:
    """What every strength would give on each map, `(maps, S, 3, 4)`, with this threshold for the base: see `tally`."""

    def count(logits: FloatMap, refined: FloatMap, labels: NDArray[np.uint8]) -> NDArray[np.int64]:
        if len(labels) > 1:
            return tally_classes(logits, refined, labels)
        return tally(logits[0], refined[0], labels[0], own)[np.newaxis]

    return np.concatenate(_refined(network, maps, device, count))


def base_counts(maps: Sequence[TrainingMap], threshold: float = 0.5) -> FloatArray:
    """Region counts of each image's base masks, see `evaluate`; of one class, it is cut at this threshold."""

    def rows(planes: Planes) -> Iterator[tuple[slice, FloatMap]]:
        for band in row_bands(*planes[0].label.shape):
            yield band.slices[0], np.stack([m.logits[band.slices[0]] for m in planes])

    def count(_: FloatMap, logits: FloatMap, labels: NDArray[np.uint8]) -> NDArray[np.int64]:
        return _count_masks(logits, labels, threshold)

    return _by_image([_counted(planes, rows(planes), count) for planes in by_image(maps)])


def pooled_iou(counts: FloatArray) -> float:
    """IoU over all pixels of the images that were counted; of several classes, the mean over those that are there."""
    return float(mean_region_iou(counts.sum(axis=0)))
