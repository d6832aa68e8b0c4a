from __future__ import annotations

import html

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prn_cli.metrics.intervals import Estimate
from prn_cli.report import charts, colours, page


@given(st.text())
def test_text_cannot_leave_its_place(value):
    safe = page.environment().from_string("{{ value }}").render(value=value)
    assert not set(safe) & set("<>\"'")
    printable = "".join(c if c.isprintable() else "�" for c in value)
    assert html.unescape(safe) == printable.encode("utf-8", "replace").decode()
    safe.encode("utf-8")  # whatever bytes a file name holds, the page can be written


@pytest.mark.parametrize(
    ("value", "expected"), [(0.0123, "+1.23"), (-0.00004, "0.00"), (0.0, "0.00"), (float("nan"), "–")]
)
def test_points(value, expected):
    assert page.points(value) == expected


@given(st.floats(-5, 5), st.floats(0.001, 50))
def test_ticks_are_few_and_inside(low, span):
    found = charts.Axis(low, low + span, 0, 1).ticks()
    assert 2 <= len(found) <= 8
    assert min(found) >= low - 1e-6 * span - 1e-9
    assert max(found) <= low + span * (1 + 1e-6) + 1e-9


def test_the_diverging_colours_are_white_in_the_middle_and_distinct_at_the_ends():
    low, middle, high, unknown = colours.diverging(np.array([-9.0, 2.0, 13.0, np.nan]), centre=2, reach=3).astype(int)
    assert middle.min() > 240
    assert low[0] > low[1] < low[2]  # purple
    assert high[1] > high[0]  # green
    assert high[1] > high[2]
    assert np.ptp(unknown) < 20


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_has_enough_contrast_in_light_and_dark():
    """WCAG 2.2, AA: 4.5 for text, on the page and on the cards."""
    from importlib import resources

    style = resources.files("prn_cli.report").joinpath("page.css").read_text("utf-8")
    blocks = [block for block in style.split("}") if "--ground:" in block]
    assert len(blocks) == 3
    for block in blocks:
        pairs = (part.split(":", 1) for part in block.split("{")[-1].split(";") if part.strip().startswith("--"))
        variables = {name.strip(): value.strip() for name, value in pairs}
        for ground in ("--ground", "--raised"):
            for ink in ("--ink", "--soft", "--won", "--lost", "--after", "--before"):
                assert contrast(variables[ink], variables[ground]) >= 4.5, (ink, ground)


def test_won_and_lost_stay_distinct_without_colour_vision():
    """Protan and deutan eyes (Viénot et al. 1999) see red and green alike; blue against orange stays."""
    to_lms = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    blind = {
        "protan": np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]]),
        "deutan": np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]]),
    }
    for pair in ((colours.WON, colours.LOST), (colours.LESS, colours.MORE)):
        rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in pair]) ** 2.2
        for matrix in blind.values():
            seen = np.linalg.inv(to_lms) @ matrix @ to_lms @ rgb.T
            one, other = (np.clip(seen, 0, 1) ** (1 / 2.2)).T
            assert np.abs(one - other).max() > 0.2


def test_an_interval_that_excludes_zero_is_drawn_as_such():
    draw = page.environment().get_template("charts.html.j2").module.interval
    assert 'class="won"' in draw(Estimate(0.2, 0.1, 0.3), 0.3)
    assert 'class="lost"' in draw(Estimate(-0.2, -0.3, -0.1), 0.3)
    assert 'class="even"' in draw(Estimate(0.1, -0.1, 0.3), 0.3)
    assert draw(Estimate(0.1, float("nan"), float("nan")), 0.3) == ""
