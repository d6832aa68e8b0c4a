"""What `pseudolabel --weak` takes and gives: masks from activation maps and tags. The work is in `weak_maps`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from prn_cli.errors import UsageError
from prn_cli.options import Option, Options, parameters
from prn_cli.workflows.account import Account
from prn_cli.workflows.items import WrittenResult

if TYPE_CHECKING:
    from prn_cli.metrics.regions import FloatArray
    from prn_cli.workflows.pseudolabel import PseudolabelOptions

_weak = partial(Option, panel="Weak labels")


@dataclass(frozen=True, kw_only=True)
class WeakOptions(Options):
    """Options of `pseudolabel --weak`."""

    weak: Annotated[
        tuple[Path, ...] | None,
        _weak(
            "Make masks from the class activation maps in this folder, without LOGITS: (C, H, W) files, or a folder a "
            "class. Repeat it for other scales of the same images, which are averaged.",
            metavar="ACTIVATIONS",
        ),
    ] = None
    tags: Annotated[
        Path | None,
        _weak("CSV file of the classes of each image: STEM,CLASS;CLASS. Others are impossible there.", metavar="FILE"),
    ] = None
    saliency: Annotated[
        Path | None,
        _weak("Folder of saliency maps, 0 to 1 or 0 to 255: what does not stand out is background.", metavar="DIR"),
    ] = None
    normalise: Annotated[
        Literal["both", "set", "peak", "none"],
        _weak(
            "What evidence of 1 is: a class's usual peak in the set, its peak in the image, or the geometric mean of "
            "both where the image has tags, else that of the set; none: activations are 0 to 1."
        ),
    ] = "both"
    background: Annotated[
        float | Literal["auto", "none"],
        _weak(
            "Score of the background, FBR's paper has 0.1; auto: the lower, the more of the images their tags account "
            "for, 0.3 without tags; none: there is none.",
            metavar="SCORE",
            least=0,
            most=1,
        ),
    ] = "auto"
    scale_of: Annotated[
        Path | None,
        _weak(
            "Take the set's peaks and its background score from the run in this folder, so that scores of new images "
            "mean the same.",
            metavar="DIR",
        ),
    ] = None
    undecided: Annotated[
        float,
        _weak("Ignore a pixel unless its greatest score is this many times the second; 1 decides all.", least=1),
    ] = 1.0
    edge_box: Annotated[
        int, _weak("With --images, side of the boxes in which masks follow edges, in cells of 4 px.", least=1, most=99)
    ] = 11
    edge_smoothness: Annotated[
        float, _weak("With --images, contrast below the root of this, in spreads of the image, is no edge.", least=1e-6)
    ] = 0.01

    def check_weak(self, logits: bool) -> None:
        """Check that options belong together, given whether there are LOGITS."""
        given = self.given()
        if self.weak is None:
            for parameter in parameters(WeakOptions):
                if parameter.flag in given:
                    raise UsageError(f"{parameter.flag} is for --weak", hint="add it, or leave this out")
            return
        if self.scale_of is not None and {"--background", "--normalise"} & given.keys():
            raise UsageError("--scale-of says what --background and --normalise would", hint="leave them out")
        if self.saliency is not None and self.background == "none":
            raise UsageError("--saliency with --background none: it tells the background", hint="leave one out")
        if logits:
            raise UsageError("LOGITS and --weak exclude each other")
        for flag in (
            "--null",
            "--recursive",
            "--figures-only",
            "--patch",
            "--grid",
            "--report",
            "--bidx",
            "--input-kind",
            "--scale",
            "--nodata",
            "--valid-mask",
            "--key",
        ):
            if flag in given:
                raise UsageError(f"{flag} with --weak: activation maps have no use for it", hint=f"leave {flag} out")


@dataclass(frozen=True, slots=True)
class WeakMap:
    """A map of activations that became a mask.

    Attributes:
        input: the map, or its first file.
        outputs: the files written, by role: `labels`, `confidence`, `scores`.
        status: `written`, or `kept` if an earlier run wrote them.
        pixels: that are valid.
        decided: those that are of a class.
        counts: `(3, 765)`, see `prn_cli.metrics.classes.count_classes`: activations alone, all pixels of the mask, and
            the decided ones, against the true mask; None without one.
        invalid: number of pixels that are not valid.
    """

    input: Path
    outputs: Mapping[str, Path]
    status: str
    pixels: int
    decided: int
    counts: FloatArray | None
    invalid: int = 0


@dataclass(frozen=True, kw_only=True)
class WeakResult(WrittenResult):
    """What became of a run.

    Attributes:
        options: of the run.
        classes: names, the background first if there is one.
        background: its score; None without one.
        maps: those that were done, in input order.
    """

    options: PseudolabelOptions
    classes: Sequence[str]
    background: float | None = None
    maps: Sequence[WeakMap] = ()

    @property
    def account(self) -> Account:
        """Of the pixels that do not count."""
        return Account.of((each.pixels + each.invalid, {"invalid": each.invalid}) for each in self.maps)

    def ious(self) -> dict[str, float]:
        """mIoU over the maps that have a true mask: `before`, `after`, `decided`; empty if none has."""
        import numpy as np

        from prn_cli.metrics.classes import mean_iou

        counts = [each.counts for each in self.maps if each.counts is not None]
        if not counts:
            return {}
        found = mean_iou(np.sum(counts, axis=0))
        return dict(zip(("before", "after", "decided"), map(float, found), strict=True))

    def document(self) -> dict[str, Any]:
        """For JSON. `miou` is None without true masks."""
        pixels = sum(each.pixels for each in self.maps)
        return {
            "maps": len(self.maps),
            "not_counted": dict(self.account.not_counted),
            "classes": list(self.classes),
            "background": self.background,
            "decided": round(sum(each.decided for each in self.maps) / max(pixels, 1), 6),
            "true_masks": sum(each.counts is not None for each in self.maps),
            "miou": {name: round(value, 6) for name, value in self.ious().items()} or None,
            "out": str(self.options.out),
            "failures": self.failure_records(),
        }
