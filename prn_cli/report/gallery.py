"""The images of a page, from the worst to the best: what was there, what came out, what changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prn_cli.maps.tiles import Window
from prn_cli.rasters.pictures import PICTURE_KIND, encode_picture
from prn_cli.report import colours
from prn_cli.report.glimpses import LOGIT_REACH, PICTURE_SIDE, Glimpse
from prn_cli.report.page import data_uri

_FEATURED = 3
_SHOWN_AT_ONCE = 12
_MAP_ROOM = 3000  # bytes of a heat map
MOST_PICTURED = 120
"""With more images than that, only the worst, the median and the best are shown."""


@dataclass(frozen=True, slots=True)
class Words:
    """What a page calls things.

    Attributes:
        before: the base's mask; None without a base.
        after: the other mask.
        scores: the picture of soft maps, shown if there is no image.
        change: the picture of what changed, or of errors.
        rank: what images are sorted by, as in "sorted by …".
        figure: what the figures of an image are.
        mask: what the colours of masks mean; empty if the page says it elsewhere.
        right: what the colours of a picture of what changed mean, of pixels that are right.
    """

    before: str | None
    after: str
    scores: str
    change: str
    rank: str
    figure: str = "IoU"
    mask: str = "light: foreground, dark: background"
    right: str = "light and dark: right both times"

    @property
    def of_classes(self) -> bool:
        """Whether pixels are right or wrong, and no foreground is found or missed."""
        return not self.mask


@dataclass(frozen=True, slots=True)
class Panel:
    """A kind of picture.

    Attributes:
        key: of the picture in a glimpse.
        title: below it.
        legend: what its colours mean.
    """

    key: str
    title: str
    legend: str = ""


Picture = tuple[Panel, str]


@dataclass(frozen=True, slots=True)
class Entry:
    """An image.

    Attributes:
        rank: its place among all, from the worst on.
        glimpse: what is known of it.
        figure: the change of its IoU, or its IoU without a base.
        tag: `worst`, `median` or `best` if it is an example of these.
        pictures: panels with the addresses of their pictures; empty if the page has no room for them.
        crops: where they lie, and the same of them; empty of images that are not shown at first.
    """

    rank: int
    glimpse: Glimpse
    figure: float
    tag: str | None
    pictures: Sequence[Picture]
    crops: Sequence[tuple[Window, Sequence[Picture]]]


@dataclass(frozen=True, slots=True)
class Gallery:
    """All images.

    Attributes:
        words: what the page calls things.
        panels: the kinds of pictures.
        entries: the images, the worst first.
    """

    words: Words
    panels: Sequence[Panel]
    entries: Sequence[Entry]

    @property
    def pictured(self) -> list[Entry]:
        """The images that have pictures."""
        return [entry for entry in self.entries if entry.pictures]

    @property
    def folds(self) -> bool:
        """Whether only examples are shown at first."""
        return len(self.entries) > _SHOWN_AT_ONCE


def make_gallery(glimpses: Sequence[Glimpse], words: Words, *, bias_reach: float, cut: float) -> Gallery:
    """Sort images by gain, or by IoU without a base, and draw their pictures; look closer at those shown at first.

    Args:
        glimpses: of the images.
        words: what the page calls things.
        bias_reach: bias of the darkest colours.
        cut: the threshold that those of the patches are compared with.
    """
    figures = [(g.regions_after().iou() if words.before is None else g.gain, g.name, g) for g in glimpses]
    figures.sort(key=lambda figure: figure[:2])
    panels = _panels(glimpses, words, bias_reach, cut)
    tags = _examples(len(figures), _FEATURED if len(figures) > 3 * _FEATURED else 1)
    pictured = _examples(len(figures), MOST_PICTURED // 3) if len(figures) > MOST_PICTURED else range(len(figures))
    entries = []
    for rank, (figure, _, glimpse) in enumerate(figures):
        pictures = {panel.key: _picture(glimpse, panel.key, bias_reach, cut) for panel in panels if rank in pictured}
        closer = glimpse.closer(glimpse) if rank in tags or len(figures) <= _SHOWN_AT_ONCE else ()
        crops = [(crop.window, _addresses(panels, crop.pictures)) for crop in closer]
        entries.append(Entry(rank, glimpse, figure, tags.get(rank), _addresses(panels, pictures), crops))
    return Gallery(words, panels, entries)


def _examples(images: int, count: int) -> dict[int, str]:
    """The ranks of `count` images each that are the worst, the median and the best. Of two, none is the median."""
    if images == 1:
        return {}
    middle = (images - count) // 2 if count > 1 else images // 2
    ranks = {} if images == 2 else dict.fromkeys(range(middle, middle + count), "median")
    return ranks | dict.fromkeys(range(count), "worst") | dict.fromkeys(range(images - count, images), "best")


def _panels(glimpses: Sequence[Glimpse], words: Words, bias_reach: float, cut: float) -> list[Panel]:
    change = (
        "blue: won (wrong before, right now), orange: lost (right before, wrong now), grey: wrong both times, "
        + words.right
    )
    if words.before is None:
        masks = "blue: missed, orange: spurious, light: found, dark: right background"
        change = "blue: wrong, light: right" if words.of_classes else masks
    far = f"purple: below {cut:g}, scores too low; green: above, scores too high; white: {cut:g} is as good"
    panels = (
        Panel("image", "Image"),
        Panel("scores", words.scores, f"purple: background, green: foreground, ±{LOGIT_REACH:g} logits"),
        Panel("label", "Label", words.mask),
        Panel("before", words.before or "", words.mask),
        Panel("after", words.after, words.mask),
        Panel("change", words.change, change),
        Panel("bias", "Bias map", f"green: scores raised, purple: lowered, up to ±{bias_reach:.2g} logits"),
        Panel("thresholds", "Best thresholds", far),
    )
    keys = {key for glimpse in glimpses for key in glimpse.pictures}
    keys |= {"bias" for glimpse in glimpses if glimpse.bias is not None}
    keys |= {"thresholds" for glimpse in glimpses if glimpse.thresholds is not None}
    return [panel for panel in panels if panel.key in keys]


def _addresses(panels: Sequence[Panel], pictures: Mapping[str, bytes | None]) -> list[Picture]:
    return [(panel, data_uri(data, PICTURE_KIND)) for panel in panels if (data := pictures.get(panel.key)) is not None]


def _picture(glimpse: Glimpse, key: str, bias_reach: float, cut: float) -> bytes | None:
    if key == "bias" and glimpse.bias is not None:
        pixels = colours.diverging(glimpse.bias, centre=0, reach=bias_reach)
        return encode_picture(pixels, most=_MAP_ROOM, drawing=False)
    if key == "thresholds" and glimpse.thresholds is not None:
        scale = PICTURE_SIDE / max(glimpse.height, glimpse.width)
        shape = (max(1, round(glimpse.height * scale)), max(1, round(glimpse.width * scale)))
        pixels = colours.diverging(glimpse.thresholds.sampled(*shape), centre=cut, reach=max(cut, 1 - cut))
        return encode_picture(pixels, most=_MAP_ROOM)
    return glimpse.pictures.get(key)
