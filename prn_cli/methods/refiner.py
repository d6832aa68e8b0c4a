"""What a refiner is: windows of logits to a field that can be blended, and a field to refined logits. NumPy alone.

Tiling, padding, blending and writing are not its business; see `prn_cli.refinement`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from prn_cli.errors import WeightsError
from prn_cli.maps.blend import strengthen
from prn_cli.maps.drift import Reference
from prn_cli.maps.noise import place_noise
from prn_cli.maps.probabilities import logit
from prn_cli.maps.tiles import AxisPlan, Window, plan_axis

FloatMap = NDArray[np.float32]
Value = TypeVar("Value", bound=np.generic)
Padding = Literal["nan", "mirror"]
T = TypeVar("T")

_LARGEST_NUMBER = 1 << 16  # px, of tiles and halos
_WIDTH_OVER_HEIGHT = 2  # of the windows of maps that need several


class Runner(Protocol):
    """A network ready to run, in onnxruntime (`Session`) or in torch (`TorchRunner`).

    Attributes:
        path: the file, if there is one.
        device: where it runs: `cpu` or `cuda`.
        library: that runs it, with its version, and the card's name.
        runs: how many runs may go on at once; more of them wait.
        metadata: what the weights say of themselves.
        inputs: names of the network's inputs.
        outputs: names of its outputs.
    """

    device: str
    library: str
    runs: int
    metadata: Mapping[str, str]
    inputs: list[str]
    outputs: list[str]

    @property
    def path(self) -> Path | None: ...  # noqa: D102 (an attribute that is only read)

    def run(self, outputs: Sequence[str], inputs: Mapping[str, FloatMap]) -> list[FloatMap]:
        """Run the network on a batch, which is the first axis of every input and output. Safe in threads.

        A network may have several graphs, such as an encoder that runs once and a decoder that runs in steps; only what
        leads to the outputs asked for is run, and only its inputs need to be given.

        Raises:
            PrnError: the network failed, or there is not enough memory.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What the tiler must know of a refiner.

    Attributes:
        multiple: window sides and positions are multiples of this, px.
        halo: context that a pixel needs on each side, px.
        tile: default side of a window, px.
        side: the only side that windows may have, px; 0 if they may have any.
        bands: of the image beside the logits; 0 without one.
        classes: that maps must have; 0 if it makes no difference.
        padding: what surrounds the map where a window reaches beyond it: NaN, or the map mirrored.
        overview: longest side of a reduced copy of the whole map that the refiner looks at first, px; 0 without.
        survey: pixels of a sample of the whole set that the refiner looks at first, at most; 0 without.
    """

    multiple: int = 1
    halo: int = 0
    tile: int = 1024
    side: int = 0
    bands: int = 0
    classes: int = 0
    padding: Padding = "nan"
    overview: int = 0
    survey: int = 0


@dataclass(frozen=True, slots=True)
class Windows:
    """A batch of windows of one shape.

    Attributes:
        logits: `(N, h, w)` float32, NaN where invalid.
        image: `(N, C, h, w)` float32, the file's numbers, NaN where invalid; None for refiners that take none.
        places: first row and column of each window on the map.
        size: height and width of the map, px.
        seed: of the map, see `prn_cli.maps.noise.place_seed`.
        overview: what the refiner's `overview` gave.
        plane: number of the class that the map is of, from 0.
        view: whether the windows were flipped left to right, and by how many quarter turns they were turned then.
    """

    logits: FloatMap
    image: FloatMap | None = None
    places: Sequence[tuple[int, int]] = ((0, 0),)
    size: tuple[int, int] = (0, 0)
    seed: int = 0
    overview: Any = None
    plane: int = 0
    view: tuple[bool, int] = (False, 0)

    def turned(self, flipped: bool, turns: int) -> Windows:
        """The same windows, flipped left to right and then turned."""
        image = None if self.image is None else _turn(self.image, flipped, turns)
        return replace(self, logits=_turn(self.logits, flipped, turns), image=image, view=(flipped, turns))

    def some(self, chosen: Sequence[int] | NDArray[np.intp]) -> Windows:
        """Some of the windows."""
        image = None if self.image is None else self.image[chosen]
        return replace(self, logits=self.logits[chosen], image=image, places=[self.places[int(i)] for i in chosen])

    def noise(self, draw: int = 0) -> FloatMap:
        """Uniform random numbers, `(N, h, w)` float32 in [0, 1); the same for a pixel of the map in every window."""
        return self.of_places(lambda window: place_noise(self.seed, window, draw=draw))

    def of_places(self, give: Callable[[Window], NDArray[Value]]) -> NDArray[Value]:
        """What is known of the map under each window, `(h, w)` each, turned as the windows are."""
        height, width = self.logits.shape[1:] if self.view[1] % 2 == 0 else self.logits.shape[:0:-1]
        return _turn(np.stack([give(Window(y, x, height, width)) for y, x in self.places]), *self.view)


def _turn(maps: NDArray[Value], flipped: bool, turns: int) -> NDArray[Value]:
    return np.ascontiguousarray(np.rot90(maps[..., ::-1] if flipped else maps, turns, axes=(-2, -1)))


class Survey(NamedTuple):
    """What a refiner makes of a sample of a set.

    Attributes:
        refiner: for this set.
        strength: that the set bears, 0 to 1; what the weights say if None.
        said: for people, in a line; empty if there is nothing to say.
        settings: what the outputs depend on by it, for the manifest, as JSON.
    """

    refiner: Refiner
    strength: float | None = None
    said: str = ""
    settings: Mapping[str, Any] = {}


class Refiner:
    """Base of the refiners, with what most of them share.

    Attributes:
        name: of the method.
        needs: see there.
        device: where it runs: `cpu` or `cuda`.
        library: that runs its network, for people.
        runs: how many calls of `field` go on at once; more of them wait.
        strength: of the correction that training found to be best, 0 to 1.
        threshold: probability above which a refined pixel is foreground.
        reference: of the logits that the weights were trained on, if they say.
        keeps_level: masks are cut where those of the scores before it are.
        evidence: what a few labelled maps said of their base model, as JSON; empty if the weights know of none.
    """

    name: str
    needs: Needs
    device: str = "cpu"
    library: str = ""
    runs: int = 1
    strength: float = 1.0
    threshold: float = 0.5
    reference: Reference | None = None
    keeps_level: bool = False
    evidence: str = ""

    def plan(self, height: int, width: int, *, tile: int | None = None, shift: int = 0) -> tuple[AxisPlan, AxisPlan]:
        """The windows of a map of this size, along its height and along its width.

        Args:
            height: rows of the map.
            width: columns of the map.
            tile: side of a window, px; the refiner's own if None.
            shift: moves the borders of the windows, see `plan_axis`.
        """
        needs = self.needs
        side = needs.side or tile or needs.tile
        # Memory grows with the height of the windows alone, and wide ones share less of their work with neighbours.
        wide = side * (_WIDTH_OVER_HEIGHT if height > side and not needs.side else 1)
        rows, columns = (
            plan_axis(size, tile=longest, halo=needs.halo, multiple=needs.multiple, shift=shift, fixed=needs.side > 0)
            for size, longest in ((height, side), (width, wide))
        )
        return rows, columns

    def overview_side(self, height: int, width: int) -> int:  # noqa: ARG002
        """Longest side of the reduced copy of a map of this size that `overview` sees, px; 0 to do without."""
        return self.needs.overview

    def overview(self, reduced: Windows) -> Any:  # noqa: ARG002
        """What to know of the whole map before its windows come, from a copy of at most `overview_side` px a side.

        It is given to every window, and to other processes, so it must be small and able to be pickled.
        """
        return None

    def survey(self, sample: Sequence[Windows]) -> Survey:  # noqa: ARG002
        """What to know of a whole set before its maps come, from a sample of at most about `needs.survey` pixels.

        The sample is bounded and the same in any order of the maps. Each of its windows is of one map.
        """
        return Survey(self)

    def doubt(self, sample: Sequence[Windows]) -> str:  # noqa: ARG002
        """Why images like these may be others than those that were learned from, for people; empty if they may not."""
        return ""

    def field(self, windows: Windows) -> FloatMap:
        """What the method makes of windows.

        Returns:
            `(N, h, w)` float32, finite everywhere, smooth enough to be averaged with a neighbouring window's; an array
            of its own, which is written to.
        """
        raise NotImplementedError

    def cut_at(self, threshold: float) -> Refiner:  # noqa: ARG002
        """The refiner of base masks that are cut at another threshold than 0.5, if that makes a difference to it."""
        return self

    def refined(self, logits: FloatMap, field: FloatMap, strength: float) -> FloatMap:
        """Refined logits from base logits and the blended field, `(h, w)` each; may take the field's memory.

        They are NaN where the base logits are, and nowhere else. `strength` scales the correction, 0 to 1. Unless a
        method has another field, it is a bias in logits.
        """
        if strength != 1:
            field *= np.float32(strength)
        field += logits
        return field


class NetworkRefiner(Refiner):
    """A refiner whose network a runner runs; what the tiler must know stands in the weights' metadata.

    Args:
        runner: of the network.

    Raises:
        WeightsError: the metadata, or the names of inputs and outputs, are not those of such a network.
    """

    padding: ClassVar[Padding] = "nan"

    def __init__(self, runner: Runner) -> None:
        known = Metadata(runner.metadata, runner.path)
        self.runner, self.device, self.library, self.runs = runner, runner.device, runner.library, runner.runs
        self.needs = Needs(
            multiple=known.number("prn.multiple", least=1),
            halo=known.number("prn.halo", least=0),
            tile=known.number("prn.tile", least=1),
            side=known.number("prn.side", least=0, default=0),
            bands=known.number("prn.image_channels", least=0, default=0),
            overview=known.number("prn.overview", least=0, default=0),
            padding=self.padding,
        )
        self.strength = known.probability("prn.strength", default=1.0)
        self.threshold = known.probability("prn.threshold", default=0.5)
        self.reference = known.parsed("prn.reference", Reference.from_json, "a reference of logits")
        self.evidence = known.entries.get("prn.evidence", "")

    def expect(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Check the names of the network's inputs and outputs.

        Raises:
            WeightsError: others are found.
        """
        runner = self.runner
        if runner.inputs != list(inputs) or not set(outputs) <= set(runner.outputs):
            raise WeightsError(
                f"maps {', '.join(runner.inputs)} to {', '.join(runner.outputs)}, "
                f"expected {', '.join(inputs)} to {', '.join(outputs)}",
                hint="export it again",
                path=runner.path,
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the runner and the strength: device and runs are those of the process that unpickles it."""
        return type(self), (self.runner,), {"strength": self.strength}


class ProbabilityRefiner(NetworkRefiner):
    """Field: probabilities. Invalid pixels count as background; beyond its border the map is mirrored."""

    padding = "mirror"

    def refined(self, logits: FloatMap, field: FloatMap, strength: float) -> FloatMap:
        """Logits of the blended probabilities, mixed with the base logits; NaN where these are."""
        refined = logit(field)
        refined[np.isnan(logits)] = np.nan
        return strengthen(logits, refined, strength)


@dataclass(frozen=True, slots=True)
class Metadata:
    """Metadata of weights, read with care: the file may come from anywhere."""

    entries: Mapping[str, str]
    path: Path | None = field(default=None)

    def number(self, key: str, *, least: int, default: int | None = None) -> int:
        """A whole number.

        Raises:
            WeightsError: it is missing, no whole number, below `least`, or absurdly great.
        """
        text = self.entries.get(key, "nothing" if default is None else str(default))
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= _LARGEST_NUMBER:
            raise self._wrong(key, text[:40], f"a whole number from {least} to {_LARGEST_NUMBER}")
        return value

    def probability(self, key: str, *, default: float) -> float:
        """A number between 0 and 1.

        Raises:
            WeightsError: it is no such number.
        """
        text = self.entries.get(key, str(default))
        try:
            value = float(text)
        except ValueError:
            value = -1
        if not 0 <= value <= 1:
            raise self._wrong(key, text, "0 to 1")
        return value

    def numbers(self, key: str, count: int) -> tuple[float, ...] | None:
        """So many numbers; None if there is no such entry.

        Raises:
            WeightsError: it holds something else.
        """

        def read(text: str) -> tuple[float, ...]:
            found = tuple(map(float, text.split()))
            if len(found) != count or not np.isfinite(found).all():
                raise ValueError(key)
            return found

        return self.parsed(key, read, f"{count} numbers")

    def parsed(self, key: str, read: Callable[[str], T], expected: str) -> T | None:
        """What `read` makes of an entry; None if there is no such entry.

        Raises:
            WeightsError: `read` raised a `ValueError`.
        """
        text = self.entries.get(key)
        try:
            return None if text is None else read(text)
        except ValueError as error:
            raise self._wrong(key, (text or "")[:40], expected) from error

    def _wrong(self, key: str, found: str, expected: str) -> WeightsError:
        return WeightsError(f"its {key} is {found}, expected {expected}", hint="export it again", path=self.path)
