"""The Python interface, `import prn_cli as prn`: the workflows for files, and the same for arrays in memory.

Arrays hold maps of one class as `(H, W)`, and maps of several as `(C, H, W)`. Scores are float32 with NaN where
invalid; labels and masks are uint8: 0 background, 1 foreground, or class numbers; 255 where ignored or invalid.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from prn_cli.execution.watch import SILENT, Watch
from prn_cli.options import Options, parameters, required
from prn_cli.workflows import pseudolabel as _pseudolabel
from prn_cli.workflows import refine as _refine
from prn_cli.workflows import score as _score
from prn_cli.workflows import train as _train
from prn_cli.workflows import weak as _weak

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from prn_cli.methods import Device
    from prn_cli.methods.refiner import Refiner
    from prn_cli.thresholding.pseudolabels import PseudoLabels
    from prn_cli.thresholding.thresholds import Grid

    FloatArray = NDArray[np.float32]

Files: TypeAlias = str | PathLike[str] | Iterable[str | PathLike[str]]
Meaning: TypeAlias = Literal["logits", "probabilities"]
FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def _takes(options: type[Options]) -> Callable[[FunctionT], FunctionT]:
    """Show the options of a class where Python shows a function's parameters and documentation."""

    def decorate(function: FunctionT) -> FunctionT:
        own = inspect.signature(function)
        first, watch, _ = own.parameters.values()
        taken = [
            inspect.Parameter(each.name, watch.kind, default=own.empty if required(each) else each.default)
            for each in parameters(options)
            if each.name != first.name
        ]
        function.__signature__ = own.replace(parameters=[first, *taken, watch])  # type: ignore[attr-defined]
        lines = "".join(f"\n        {each.name}: {each.option.help}" for each in parameters(options))
        function.__doc__ = f"{function.__doc__}\n    Args:{lines}\n        watch: is told what happens.\n    "
        return function

    return decorate


@_takes(_pseudolabel.PseudolabelOptions)
def pseudolabel(
    logits: Files = ("logits",), *, watch: Watch = SILENT, **options: Any
) -> _pseudolabel.PseudolabelResult | _weak.WeakResult:
    """Find the best threshold of every patch, or make masks from activation maps, as `prn pseudolabel` does."""
    return _pseudolabel.pseudolabel(_pseudolabel.PseudolabelOptions(logits, **options), watch)  # type: ignore[arg-type]


@_takes(_refine.RefineOptions)
def refine(logits: Files, *, watch: Watch = SILENT, **options: Any) -> _refine.RefineResult:
    """Refine logit maps into better masks, as `prn refine` does."""
    return _refine.refine(_refine.RefineOptions(logits, **options), watch)  # type: ignore[arg-type]


@_takes(_score.ScoreOptions)
def score(masks: Files, *, watch: Watch = SILENT, **options: Any) -> _score.ScoreResult:
    """Score masks or soft maps against labels, as `prn score` does."""
    return _score.score(_score.ScoreOptions(masks, **options), watch)  # type: ignore[arg-type]


@_takes(_train.train_options())
def train(logits: Files = ("logits",), *, watch: Watch = SILENT, **options: Any) -> _train.TrainResult:
    """Learn the correction from labelled logit maps, as `prn train` does."""
    return _train.train(_train.train_options()(logits, **options), watch)  # type: ignore[arg-type]


def train_maps(
    scores: Sequence[FloatArray],
    labels: Sequence[NDArray[np.uint8]] | None,
    *,
    images: Sequence[NDArray[Any]] | None = None,
    watch: Watch = SILENT,
    **options: Any,
) -> _train.TrainResult:
    """Learn the correction from maps in memory, as `train` does from files.

    Args:
        scores: a map an image, `(H, W)` float32 of one class, or `(C, H, W)` of several with `task="multiclass"`; NaN
            invalid. Sizes may differ.
        labels: `(H, W)` uint8 each: 0, 1 or class numbers, 255 ignore. None to learn from the images and the base
            model's own masks.
        images: `(bands, H, W)` each, of any range and depth; None to go without.
        watch: is told what happens.
        options: of `train`, such as `out="run"`, the folder of the weights, and `input_kind="probabilities"`. Maps are
            named by their numbers, `000000` on, which `groups` sees.

    Raises:
        PrnError: as `train` does.
        ValueError: another number of labels or images than of maps.
    """
    import tempfile
    from pathlib import Path

    import numpy as np

    with tempfile.TemporaryDirectory(prefix="prn-") as folder:
        places: dict[str, Any] = {"labels": "none"}
        for kind, arrays, dtype in (
            ("logits", scores, np.float32),
            ("labels", labels, np.uint8),
            ("images", images, None),
        ):
            if arrays is None:
                continue
            if len(arrays) != len(scores):
                raise ValueError(f"{len(arrays)} {kind}, expected {len(scores)}, one a map")
            places[kind] = Path(folder, kind)
            places[kind].mkdir()
            for number, values in enumerate(arrays):
                np.save(places[kind] / f"{number:06}.npy", np.asarray(values, dtype))
        known = {"input_kind": "logits", "label_nodata": 255, **options}
        return train(places.pop("logits"), **places, watch=watch, **known)


@dataclass(frozen=True, slots=True)
class RefinedArrays:
    """A map that was refined in memory.

    Attributes:
        mask: `(H, W)` uint8: 0, 1, or class numbers; 255 where invalid.
        probabilities: refined, float32, shaped as the map; those of several classes add up to 1. NaN where invalid.
        bias: what was added to the logits, float32, shaped as the map; of several classes, each against the rest.
    """

    mask: NDArray[np.uint8]
    probabilities: FloatArray
    bias: FloatArray


def refine_map(
    scores: FloatArray,
    weights: str | PathLike[str] | Sequence[str | PathLike[str]] = "fast",
    *,
    image: FloatArray | None = None,
    input_kind: Meaning | Literal["mask"] = "logits",
    strength: float | None = None,
    threshold: float | None = None,
    tile: int | None = None,
    tta: bool = False,
    device: Device = "auto",
) -> RefinedArrays:
    """Refine a map in memory. Weights stay loaded for the next one.

    Args:
        scores: `(H, W)` float32 of one class, or `(C, H, W)` of a softmax.
        weights: as `prn refine --weights`; several are applied one after the other.
        image: `(bands, H, W)` float32, values as in the file, for weights that were trained with images.
        input_kind: what the scores are; a mask, `(H, W)`, is foreground where it is above 0, and NaN where invalid.
        strength: of the correction, 0 to 1; as the weights say if None.
        threshold: refined probability above which a pixel is foreground; as the weights say if None.
        tile: side of a window, px; as the weights say if None.
        tta: average over flips and quarter turns.
        device: where the network runs.

    Raises:
        WeightsError: the weights cannot be used.
        UsageError: `tile` does not suit them, or an image is missing or of another shape.
    """
    import numpy as np

    from prn_cli.errors import UsageError
    from prn_cli.maps.certain import find_certain, settle
    from prn_cli.maps.classes import one_versus_rest, one_versus_rest_of
    from prn_cli.maps.pixels import IGNORE
    from prn_cli.maps.probabilities import logit, mask_probabilities
    from prn_cli.refinement.rows import How, Link, check_classes, refine_rows
    from prn_cli.tasks import find_task
    from prn_cli.workflows.survey import cut_at, sample_of_map, survey

    scores = np.asarray(scores, np.float32)
    if input_kind == "mask":
        scores = mask_probabilities(np.where(np.isnan(scores), IGNORE, scores > 0))
    if input_kind == "logits":
        layers = scores if scores.ndim == 3 else scores[np.newaxis]
        scores = settle(layers, find_certain(layers)).reshape(scores.shape)
    if scores.ndim == 3:
        task = replace(find_task("multiclass"), names=tuple(map(str, range(len(scores)))))
        logits = one_versus_rest(scores) if input_kind == "logits" else one_versus_rest_of(scores)
    else:
        task = find_task("binary")
        logits = scores if input_kind == "logits" else logit(scores)
    names = [weights] if isinstance(weights, str | PathLike) else weights
    links: Sequence[Link] = [Link(_load(str(name), device), strength, tile) for name in names]
    check_classes(links, len(task.names))
    threshold = links[-1].refiner.threshold if threshold is None else threshold
    height, width = logits.shape[-2:]
    if image is not None and (np.ndim(image) != 3 or np.shape(image)[1:] != (height, width)):
        raise UsageError(f"image of shape {np.shape(image)}, expected (bands, {height}, {width})")
    links, _ = survey(cut_at(links, threshold), partial(sample_of_map, logits, image), SILENT)
    rows: list[Any] = list(
        task.refine(
            lambda window: logits[..., *window.slices],
            None if image is None else lambda window: image[..., *window.slices],
            lambda read, seen, plane: refine_rows(
                read, height, width, links, How(tta=tta, plane=plane), read_image=seen
            ),
        )
    )

    def joined(parts: Iterable[NDArray[Any]]) -> NDArray[Any]:
        return np.concatenate(list(parts), axis=-2)

    return RefinedArrays(
        mask=joined(task.masks(each, threshold)[0] for each in rows),
        probabilities=joined(each.probabilities for each in rows),
        bias=joined(each.bias for each in rows),
    )


@cache
def _load(weights: str, device: Device) -> Refiner:
    from prn_cli.methods import load_refiner
    from prn_cli.methods.weights import find_weights

    return load_refiner(find_weights(weights), device=device)


def pseudolabel_map(
    scores: FloatArray,
    label: NDArray[np.uint8],
    *,
    input_kind: Meaning = "logits",
    patch: int = 64,
    grid: Grid = "paper",
) -> PseudoLabels:
    """Find the best threshold of every patch of a map in memory, and cut it there.

    Args:
        scores: `(H, W)` float32 of one class.
        label: `(H, W)` uint8: 0, 1, 255 ignore.
        input_kind: what the scores are.
        patch: side of a patch, px.
        grid: thresholds that a patch may take: the paper's 20, or all its values (`exact`).

    Returns:
        `mask`, `(H, W)` uint8; `thresholds`, `(ceil(H / patch), ceil(W / patch))` float32; and `counts` of the mask
        against the label.

    Raises:
        InputError: the shapes differ.
    """
    import numpy as np

    from prn_cli.maps.probabilities import sigmoid
    from prn_cli.thresholding.pseudolabels import make_pseudolabels

    scores = np.asarray(scores, np.float32)
    return make_pseudolabels(sigmoid(scores) if input_kind == "logits" else scores, label, patch=patch, grid=grid)


def score_map(
    prediction: NDArray[Any],
    label: NDArray[np.uint8],
    *,
    baseline: NDArray[Any] | None = None,
    task: Literal["binary", "saliency", "multiclass"] = "binary",
    threshold: float = 0.5,
    baseline_threshold: float = 0.5,
    buffer: float = 3.0,
) -> dict[str, float]:
    """Score a mask or soft map in memory.

    Args:
        prediction: `(H, W)`: uint8 or bool, a mask or class numbers; float32, probabilities in [0, 1].
        label: `(H, W)` uint8, 255 ignore.
        baseline: another prediction of the same image.
        task: what the maps are of.
        threshold: above which a soft map is foreground.
        baseline_threshold: above which a soft baseline is.
        buffer: of relaxed precision and recall, px.

    Returns:
        Figures by name, as in `prn score --csv`; names of the baseline's begin with `baseline_`. NaN where a figure
        does not exist.

    Raises:
        InputError: the shapes differ, values are out of range, or no pixel counts.
    """
    import numpy as np

    from prn_cli.metrics.score import figures
    from prn_cli.tasks import find_task

    def known(values: NDArray[Any]) -> NDArray[Any]:
        return values.astype(np.float32 if values.dtype.kind == "f" else np.uint8, copy=False)

    kind = find_task(task)
    found = kind.score_image(
        known(prediction),
        known(label),
        baseline=None if baseline is None else known(baseline),
        threshold=threshold,
        baseline_threshold=baseline_threshold,
        buffer=buffer,
    )
    metrics = kind.metrics([found])
    result = figures(found.counts, metrics)
    if found.baseline is not None:
        result |= {f"baseline_{name}": value for name, value in figures(found.baseline, metrics).items()}
    return result
