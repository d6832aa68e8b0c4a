"""The training loop: epochs of random crops, an average of the weights, the best epoch by validation IoU."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prn_cli.errors import DivergedError
from prn_cli.methods.losses import LossWeights, joint_loss
from prn_cli.methods.networks import Network
from prn_cli.metrics.regions import RegionCounts, count_regions
from prn_cli.refinement.rows import cut, refine_map
from prn_cli.thresholding.strength import tally
from prn_cli.training import parallel
from prn_cli.training.augment import Batch, Jitter, TrainingMap, draw_batch
from prn_cli.training.refiner import NetworkRefiner
from prn_cli.training.runtime import reduced_precision


@dataclass(frozen=True)
class Settings:
    """Everything that decides what a run learns."""

    network: str = "fast"
    patch: int = 64
    width: int = 16
    keep_level: bool = False
    crop: int = 256
    batch: int = 8
    epochs: int = 20
    steps: int | None = None
    """Steps an epoch; None: enough to see half the maps' area, between 100 and 250."""
    rate: float = 1e-3
    weight_decay: float = 0.05
    average: float = 0.995
    """Decay a step of the moving average of the weights, which is what is validated and kept."""
    patience: int = 8
    """Epochs without a better validation IoU after which training ends."""
    choose_epoch: bool = True
    """Keep the epoch with the best validation IoU; if not, the last, and patience has no say."""
    seed: int = 0
    time_budget: float | None = None
    """Seconds after which training ends; the learning rate falls in time for it."""
    jitter: Jitter = field(default_factory=Jitter)
    loss: LossWeights = field(default_factory=LossWeights)


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave. The IoU is pooled over the validation maps, cut at 0.5; None without any."""

    number: int
    loss: float
    iou: float | None
    best: bool
    seconds: float


@dataclass
class State:
    """Everything that a later process needs to go on as if there had been no break."""

    network: dict[str, Tensor]
    average: dict[str, Tensor]
    best: dict[str, Tensor]
    optimizer: dict[int, dict[str, Tensor]]
    epoch: int = 0
    best_epoch: int = -1
    best_iou: float = -1.0
    seconds: float = 0.0
    history: list[Epoch] = field(default_factory=list)


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
    """Whether a run in this state is at its end: by its epochs, without gain for too long, or out of time."""
    waited = state.epoch - 1 - state.best_epoch if settings.choose_epoch else 0
    late = settings.time_budget is not None and state.seconds >= settings.time_budget
    return state.epoch >= settings.epochs or waited >= settings.patience or late


def start(network: Network) -> State:
    """The state before the first epoch."""
    weights = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    return State(
        network=weights,
        average={k: v.clone() for k, v in weights.items()},
        best={k: v.clone() for k, v in weights.items()},
        optimizer={},
    )


def fit(
    network: Network,
    maps: Sequence[TrainingMap],
    validation: Sequence[TrainingMap],
    settings: Settings,
    *,
    device: torch.device | None = None,
    state: State | None = None,
    trained: bool = False,
) -> Iterator[tuple[Epoch, State]]:
    """Train, one epoch an iteration; by several processes, if there are, all of which give the same.

    Args:
        network: trained in place.
        maps: to learn from.
        validation: to choose the best epoch on, by pooled IoU; of other images than `maps`. May be empty where the
            settings keep the last epoch.
        settings: of the run.
        device: where to train; the CPU if None.
        state: of an earlier run to go on from. On the CPU, the result is that of an unbroken run.
        trained: whether the network's weights have been trained before.

    Yields:
        What the epoch gave, and the state after it.

    Raises:
        DivergedError: the weights, or what the network gives, are not finite.
    """
    device = device or torch.device("cpu")
    if state is None:
        state = start(network)
        if settings.choose_epoch and (trained or network.starts_as_identity):
            # An epoch must beat on the validation maps what there was before: the trained weights, or the base model.
            state.best_iou = pooled(evaluate(network.to(device), validation, device)).iou()
    network.load_state_dict(state.network)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(_decayed(network, settings.weight_decay), lr=settings.rate)
    _restore(optimizer, parameters, state.optimizer)
    average = {name: tensor.to(device) for name, tensor in state.average.items()}
    loss_of = _loss(network, settings.loss, device)
    steps = steps_per_epoch(maps, settings)
    reduced = reduced_precision(device)
    scaler = torch.amp.GradScaler(device.type, enabled=reduced == torch.float16)
    while not ended(state, settings):
        began = time.monotonic()
        network.train()
        # One generator an epoch, from the seed and the epoch's number: a resumed run draws the same crops.
        random = np.random.default_rng([settings.seed, state.epoch])
        losses = []
        for step in range(steps):
            taken = state.epoch * steps + step
            progress = taken / (settings.epochs * steps)
            if settings.time_budget:
                elapsed = parallel.agreed(state.seconds + time.monotonic() - began)
                progress = max(progress, elapsed / settings.time_budget)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(progress, settings.rate)
            batch = draw_batch(maps, settings.batch, settings.crop, settings.jitter, random)
            with torch.autocast(device.type, dtype=reduced, enabled=reduced is not None):
                loss = loss_of(batch)
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            scaler.step(optimizer)
            scaler.update()
            _follow(average, network, min(settings.average, (1 + taken) / (10 + taken)))
            losses.append(loss.detach())
            if progress >= 1:
                break
        current = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        if not all(torch.isfinite(tensor).all() for tensor in (*current.values(), *average.values())):
            raise DivergedError(f"the weights are not finite after epoch {state.epoch + 1}")
        if not torch.stack(losses).isfinite().any():  # steps in float16 that were all left out
            raise DivergedError(f"no loss of epoch {state.epoch + 1} is finite")
        network.load_state_dict(average)
        iou = pooled(evaluate(network, validation, device)).iou() if validation else None
        network.load_state_dict(current)
        better = not settings.choose_epoch or (iou is not None and iou > state.best_iou)
        state.seconds = parallel.agreed(state.seconds + time.monotonic() - began)
        epoch = Epoch(state.epoch, float(torch.stack(losses).mean()), iou, better, state.seconds)
        state.network = _on_cpu(current)
        state.average = _on_cpu(average)
        state.optimizer = {i: _on_cpu(optimizer.state[p]) for i, p in enumerate(parameters) if p in optimizer.state}
        if better:
            state.best, state.best_epoch = _on_cpu(average), state.epoch
            state.best_iou = -1.0 if iou is None else iou
        state.epoch += 1
        state.history.append(epoch)
        yield epoch, state


def _loss(network: Network, weights: LossWeights, device: torch.device) -> Callable[[Batch], Tensor]:
    """The loss of a batch; where several processes train, each runs the network on its rows of it."""

    def loss(planes: Tensor, pseudo: Tensor, target: Tensor) -> Tensor:
        pred = [parallel.whole(path) for path in network.supervised(planes)]
        return joint_loss(pred=pred, pseudo=pseudo, target=target, weights=weights)

    shared = parallel.data_parallel(network, loss)

    def of_batch(batch: Batch) -> Tensor:
        arrays = (parallel.share(batch.logits), batch.pseudo, batch.label)
        return shared(*(torch.from_numpy(array).to(device, non_blocking=True) for array in arrays))

    return of_batch


def _decayed(network: Network, decay: float) -> list[dict[str, object]]:
    """Weight decay for convolutions, none for biases and normalisation."""
    return [{"params": [p], "weight_decay": decay if p.ndim > 1 else 0.0} for p in network.parameters()]


def _restore(
    optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter], saved: dict[int, dict[str, Tensor]]
) -> None:
    for index, values in saved.items():
        parameter = parameters[index]
        optimizer.state[parameter] = {
            key: value.clone() if key == "step" else value.clone().to(parameter.device) for key, value in values.items()
        }


@torch.no_grad()
def _follow(average: dict[str, Tensor], network: Network, decay: float) -> None:
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - decay)
        else:
            average[name].copy_(value)


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


@torch.no_grad()
def evaluate(network: Network, maps: Sequence[TrainingMap], device: torch.device | None = None) -> list[RegionCounts]:
    """Counts of each map's refined mask, cut at 0.5, by the road that `prn refine` takes."""
    refiner = NetworkRefiner(network, device or torch.device("cpu"))
    return parallel.spread(
        lambda m: count_regions(cut(refine_map(m.logits, refiner, image=m.image), 0.5), m.label), maps
    )


@torch.no_grad()
def tallies(network: Network, maps: Sequence[TrainingMap], device: torch.device | None = None) -> NDArray[np.int64]:
    """What every strength and threshold would give on each map, `(maps, S, T, 4)`: see `strength.tally`."""
    refiner = NetworkRefiner(network, device or torch.device("cpu"))
    return np.stack(
        parallel.spread(lambda m: tally(m.logits, refine_map(m.logits, refiner, image=m.image), m.label), maps)
    )


def base_counts(maps: Sequence[TrainingMap]) -> list[RegionCounts]:
    """Counts of each map's base mask, cut at 0.5."""
    return [count_regions(cut(m.logits, 0.5), m.label) for m in maps]


def pooled(counts: Sequence[RegionCounts]) -> RegionCounts:
    """The sum."""
    return sum(counts[1:], counts[0])
