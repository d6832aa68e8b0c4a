"""Images one below the other: what was there, what came out, what changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prn_cli.rasters.pictures import PICTURE_KIND, encode_picture
from prn_cli.report import charts, colours
from prn_cli.report.glimpses import LOGIT_REACH, PICTURE_SIDE, Glimpse
from prn_cli.report.markup import count, data_uri, name, number, points, text

_FEATURED = 3
_SHOWN_AT_ONCE = 12
_MAP_ROOM = 3000  # bytes of a heat map
MOST_PICTURED = 120
"""With more images than that, only the worst, the median and the best are shown."""


@dataclass(frozen=True, slots=True)
class Words:
    """How a page calls things.

    Attributes:
        before: the base's mask; None if there is none.
        after: the other mask.
        scores: the picture of soft maps without an image.
        change: the panel of what changed, or of errors.
        rank: what images are sorted by, as in "sorted by …".
    """

    before: str | None
    after: str
    scores: str
    change: str
    rank: str


@dataclass(frozen=True, slots=True)
class Panel:
    """A kind of picture.

    Attributes:
        key: of the picture in a glimpse.
        title: below it.
        legend: what its colours mean, plain text.
    """

    key: str
    title: str
    legend: str


def ranked(glimpses: Sequence[Glimpse], words: Words) -> list[Glimpse]:
    """From the worst to the best: by gain, or without a base by IoU; by name where these are the same."""
    if words.before is None:
        return sorted(glimpses, key=lambda g: (g.regions_after().iou(), g.name))
    return sorted(glimpses, key=lambda g: (g.gain, g.name))


def tags(images: int) -> dict[int, str]:
    """By place in the ranking, what an image is an example of: worst, median, best; each place once."""
    if images <= 3 * _FEATURED:
        places = {0: "worst", images - 1: "best"} if images > 1 else {}
        return places | ({images // 2: "median"} if images > 2 else {})
    middle = (images - _FEATURED) // 2
    result = dict.fromkeys(range(_FEATURED), "worst")
    result |= dict.fromkeys(range(middle, middle + _FEATURED), "median")
    return result | dict.fromkeys(range(images - _FEATURED, images), "best")


def gains(order: Sequence[Glimpse], words: Words) -> str:
    """Every image's gain as a bar, the best first, each a link to its pictures."""
    values = [_figure(glimpse, words) for glimpse in order]
    reach = max((abs(value) for value in values), default=0.0)
    pictured = _pictured(len(order))
    rows = []
    for rank in reversed(range(len(order))):
        glimpse, value = order[rank], values[rank]
        bar = charts.share_bar(value) if words.before is None else charts.gain_bar(value, reach)
        figure = number(value, 3) if words.before is None else points(value)
        tag, target = ("a", f' href="#image-{rank}"') if rank in pictured else ("span", ' role="note"')
        rows.append(
            f'<li><{tag}{target} data-stop><span class="who">{name(glimpse.name)}</span>{bar}'
            f'<span class="figure">{figure}</span></{tag}></li>'
        )
    unit = "IoU" if words.before is None else "points of IoU"
    return (
        f'<ol class="gains" data-roving="vertical" aria-label="{text(words.rank)}, {unit}, the highest first">'
        f"{''.join(rows)}</ol>"
    )


def gallery(order: Sequence[Glimpse], words: Words, *, bias_reach: float, cut: float) -> str:
    """The pictures of the images, the worst first."""
    examples = tags(len(order))
    pictured = _pictured(len(order))
    panels = _panels(order, words, bias_reach, cut)
    hide = len(order) > _SHOWN_AT_ONCE
    articles = [
        _article(order[rank], rank, len(order), examples.get(rank), panels, words, bias_reach, cut, hide=hide)
        for rank in sorted(pictured)
    ]
    control = ""
    if hide:
        rest = len(pictured) - len(examples)
        control = (
            f'<p class="more"><button type="button" id="all" aria-expanded="false" aria-controls="images" '
            f'data-more="Show all {len(pictured)}" data-less="Show only worst, median and best">'
            f"Show all {len(pictured)}</button> <span>{rest} more behind it, from the worst to the best.</span></p>"
        )
    if len(pictured) < len(order):
        third = MOST_PICTURED // 3
        control += f"<p>Pictures of the {third} worst, median and best of {count(len(order))} images.</p>"
    return (
        _legends(panels)
        + '<p class="keys">Keys: <kbd>←</kbd> <kbd>→</kbd> other panel, <kbd>↑</kbd> <kbd>↓</kbd> other image, '
        "<kbd>Enter</kbd> large, <kbd>Esc</kbd> back.</p>"
        + control
        + f'<div id="images" data-roving="grid">{"".join(articles)}</div>'
    )


def _pictured(images: int) -> set[int]:
    if images <= MOST_PICTURED:
        return set(range(images))
    third = MOST_PICTURED // 3
    middle = (images - third) // 2
    return {*range(third), *range(middle, middle + third), *range(images - third, images)}


def _figure(glimpse: Glimpse, words: Words) -> float:
    return glimpse.regions_after().iou() if words.before is None else glimpse.gain


def _panels(order: Sequence[Glimpse], words: Words, bias_reach: float, cut: float) -> list[Panel]:
    light, dark = "light: foreground", "dark: background"
    change = (
        "blue: won (wrong before, right now), orange: lost (right before, wrong now), grey: wrong both times, "
        "light and dark: right both times"
    )
    if words.before is None:
        change = "blue: missed, orange: spurious, light: found, dark: right background"
    scores = f"purple: background, green: foreground, ±{LOGIT_REACH:g} logits"
    found = [
        Panel("image", "Image", ""),
        Panel("scores", words.scores, scores),
        Panel("label", "Label", f"{light}, {dark}"),
    ]
    if words.before is not None:
        found.append(Panel("before", words.before, f"{light}, {dark}"))
    found += [Panel("after", words.after, f"{light}, {dark}"), Panel("change", words.change, change)]
    keys = {key for glimpse in order for key in glimpse.pictures}
    found = [panel for panel in found if panel.key in keys]
    if any(glimpse.bias is not None for glimpse in order):
        reach = f"{bias_reach:.2g} logits"
        found.append(Panel("bias", "Bias map", f"green: scores raised, purple: lowered, up to ±{reach}"))
    if any(glimpse.thresholds is not None for glimpse in order):
        meaning = f"purple: below {cut:g}, scores too low; green: above, scores too high; white: {cut:g} is as good"
        found.append(Panel("thresholds", "Best thresholds", meaning))
    return found


def _legends(panels: Sequence[Panel]) -> str:
    rows = "".join(f"<dt>{panel.title}</dt><dd>{panel.legend}</dd>" for panel in panels if panel.legend)
    grey = "<dt>Everywhere</dt><dd>grey stripes: not counted (invalid in the map, or ignored in the label)</dd>"
    return f'<details class="key"><summary>What the colours mean</summary><dl>{rows}{grey}</dl></details>'


def _article(
    glimpse: Glimpse,
    rank: int,
    images: int,
    tag: str | None,
    panels: Sequence[Panel],
    words: Words,
    bias_reach: float,
    cut: float,
    *,
    hide: bool,
) -> str:
    after = glimpse.regions_after()
    if words.before is None:
        line = f"IoU {number(after.iou(), 3)} · missed {count(after.fn)} px · spurious {count(after.fp)} px"
    else:
        before = glimpse.regions_before()
        line = (
            f"IoU {number(before.iou(), 3)} → {number(after.iou(), 3)} (<b>{points(glimpse.gain)}</b> points) · "
            f'<span class="won">▲ won {count(glimpse.found + glimpse.cleared)} px</span> '
            f"({count(glimpse.found)} found, {count(glimpse.cleared)} cleared) · "
            f'<span class="lost">▼ lost {count(glimpse.missed + glimpse.spurious)} px</span> '
            f"({count(glimpse.missed)} missed, {count(glimpse.spurious)} spurious)"
        )
    figures = []
    for panel in panels:
        picture = _picture(glimpse, panel.key, bias_reach, cut)
        if picture is None:
            continue
        what = f"{panel.title}, {text(glimpse.name)}"
        shape = f'width="{glimpse.width}" height="{glimpse.height}"'
        look = " blocks" if panel.key == "thresholds" else ""
        figures.append(
            f'<figure><button type="button" class="panel{look}" data-stop data-title="{panel.title}" '
            f'data-legend="{text(panel.legend)}"><img {shape} decoding="async" alt="{what}" '
            f'src="{picture}"></button><figcaption>{panel.title}</figcaption></figure>'
        )
    badge = f'<span class="tag {tag}">{tag}</span> ' if tag else ""
    rest = ' data-rest=""' if hide and tag is None else ""
    return (
        f'<article id="image-{rank}" tabindex="-1"{rest} aria-label="{text(glimpse.name)}, {rank + 1} of {images}">'
        f'<h3>{badge}{name(glimpse.name)}</h3><p class="line">{line}</p><div class="strip">{"".join(figures)}</div>'
        "</article>"
    )


def _picture(glimpse: Glimpse, key: str, bias_reach: float, cut: float) -> str | None:
    if key == "bias":
        if glimpse.bias is None:
            return None
        return _encoded(colours.diverging(glimpse.bias, centre=0, reach=bias_reach), drawing=False)
    if key == "thresholds":
        if glimpse.thresholds is None:
            return None
        reach = max(cut, 1 - cut)
        scale = PICTURE_SIDE / max(glimpse.height, glimpse.width)
        shape = (max(1, round(glimpse.height * scale)), max(1, round(glimpse.width * scale)))
        pixels = colours.diverging(glimpse.thresholds.sampled(*shape), centre=cut, reach=reach)
        return _encoded(pixels, drawing=True)
    data = glimpse.pictures.get(key)
    return None if data is None else data_uri(data, PICTURE_KIND)


def _encoded(pixels: NDArray[np.uint8], *, drawing: bool) -> str:
    return data_uri(encode_picture(pixels, most=_MAP_ROOM, drawing=drawing), PICTURE_KIND)
