"""The page in a real browser: its looks follow the system, and all of it can be reached from the keyboard."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from prn_cli.maps.probabilities import binarize
from prn_cli.maps.tiles import Window
from prn_cli.metrics.score import summarise
from prn_cli.report import Prediction, Scored, Totals, Viewer, score_page
from prn_cli.report.glimpses import Seen, zoom
from prn_cli.tasks.binary import Binary

score_image = Binary().score_image

IMAGES = 14
HOSTILE = "<img src=x onerror=document.title='taken'>"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A page of fourteen images with crops, one of them with a name that is a trap."""
    rows, columns = np.mgrid[:160, :200] / 2.5
    totals, scores = Totals(), []
    for i in range(IMAGES):
        label = (np.hypot(rows - 32, columns - 40) < 20).astype(np.uint8)
        base = (1 / (1 + np.exp((np.hypot(rows - 32, columns - 44) - 17) / 3))).astype(np.float32)
        after = (1 / (1 + np.exp((np.hypot(rows - 32, columns - 40) - 14 - i / 2) / 3))).astype(np.float32)
        viewer = Viewer(HOSTILE if i == 3 else f"map {i}", *label.shape)

        def see(window, planes=(label, after, base)):
            truth, *soft = (plane[window.slices] for plane in planes)
            return Seen(truth, *(Prediction(binarize(each, 0.5), each) for each in soft))

        viewer.add(0, see(Window(0, 0, *label.shape)), bias=after - base)
        glimpse = dataclasses.replace(viewer.finish(), closer=partial(zoom, look=see))
        totals.add(glimpse, viewer.before, viewer.after)
        scores.append(score_image(after, label, baseline=base, own_threshold=0.4))
    what = Scored("masks", "labels", "logits", "probabilities cut at 0.5", "logits cut at 0.5", 0.5, own="0.4")
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(score_page(summarise(scores, resamples=100), totals, what), encoding="utf-8")
    return path


@pytest.fixture
def page(chromium, report):
    """The page, freshly loaded, in light; it must have nothing to complain about, and load nothing."""
    chromium.media(prefers_color_scheme="light", prefers_reduced_motion="reduce")
    chromium.show(report)
    chromium.run("localStorage.clear()")
    chromium.show(report)
    yield chromium
    assert chromium.complaints() == []
    assert chromium.requests() == [report.resolve().as_uri()]


FOCUSED = "document.activeElement"
GROUND = "getComputedStyle(document.body).backgroundColor"
SHOWN = "[...document.querySelectorAll('article')].filter((a) => a.getClientRects().length).length"
WHO = f"{FOCUSED}.closest('article').querySelector('h3 bdi').textContent"


def tab_to(page, selector, most=40):
    for _ in range(most):
        page.press("Tab")
        if page.run(f"{FOCUSED}.matches({selector!r})"):
            return
    raise AssertionError(f"the Tab key does not lead to {selector}")


def test_every_picture_is_whole_and_names_are_text(page):
    sizes = "[...document.querySelectorAll('article img')].map((i) => i.complete && i.naturalWidth)"
    assert (
        min(page.run(f"Promise.all([...document.images].map((i) => i.decode().catch(() => 0))).then(() => {sizes})"))
        > 0
    )
    assert page.run("document.title") == "prn score: base and refined"
    assert HOSTILE in page.run("[...document.querySelectorAll('article h3 bdi')].map((b) => b.textContent)")


def test_light_dark_and_the_choice_between_them(page):
    assert page.run(GROUND) == "rgb(255, 255, 255)"
    page.media(prefers_color_scheme="dark")
    dark = page.run(GROUND)
    assert dark == "rgb(16, 20, 24)"
    tab_to(page, "#theme")
    page.press("Enter")
    assert page.run("theme.textContent") == "Theme: light"
    assert page.run(GROUND) == "rgb(255, 255, 255)"
    page.press("Enter")
    page.media(prefers_color_scheme="light")
    assert page.run("theme.textContent") == "Theme: dark"
    assert page.run(GROUND) == dark
    page.show(Path(page.run("decodeURI(location.pathname)")))
    assert page.run(GROUND) == dark  # the choice is kept


def test_the_gallery_from_the_keyboard(page):
    assert page.run(SHOWN) == 9
    tab_to(page, "#all")
    page.press("Enter")
    assert page.run(SHOWN) == IMAGES
    assert page.run("document.querySelector('#all').getAttribute('aria-expanded')") == "true"
    page.press("Tab")
    names = page.run("[...document.querySelectorAll('article h3 bdi')].map((b) => b.textContent)")
    assert page.run(WHO) == names[0]
    page.press("ArrowRight", "ArrowRight", "ArrowDown")
    assert page.run(WHO) == names[1]
    assert page.run(f"{FOCUSED}.dataset.title") == "Base mask"
    page.press("ArrowUp", "ArrowUp")
    assert page.run(WHO) == names[0]  # no way beyond the first
    # The gallery is one stop: the next Tab leaves it.
    page.press("Tab")
    assert page.run(f"{FOCUSED}.closest('#images')") is None


def test_a_picture_large_and_back(page):
    tab_to(page, ".panel")
    page.press("ArrowRight", "Enter")
    assert page.run("viewer.open") is True
    assert page.run("document.querySelector('#viewer-title').textContent").startswith("Label: ")
    page.press("ArrowRight", "ArrowRight", "ArrowRight", "ArrowDown")
    title = page.run("document.querySelector('#viewer-title').textContent")
    shown = page.run("[...document.querySelectorAll('article h3 bdi')].map((b) => b.textContent)")
    assert title == f"Won and lost: {shown[1]}"
    assert page.run("document.querySelector('#viewer-image').naturalWidth") == 200
    assert "won" in page.run("document.querySelector('#viewer-line').textContent")
    page.press("Escape")
    assert page.run("viewer.open") is False
    page.wait_for(f"{WHO} === {json.dumps(shown[1])}")
    assert page.run(f"{FOCUSED}.dataset.title") == "Won and lost"


def test_a_crop_is_shown_pixel_for_pixel(page):
    shown = "[...document.querySelectorAll('.close img')].filter((i) => i.getClientRects().length)"
    sizes = f"Promise.all({shown}.map((i) => i.decode().then(() => [i.naturalWidth, i.naturalHeight, i.width])))"
    assert {tuple(size) for size in page.run(sizes)} == {(128, 128, 256)}
    tab_to(page, ".panel")
    page.press(*["ArrowRight"] * 20, "Enter")
    title = page.run("document.querySelector('#viewer-title').textContent")
    assert title.startswith("Won and lost, crop 1: ")
    assert page.run("document.querySelector('#viewer-image').classList.contains('blocks')") is True
    page.press("ArrowDown")
    assert page.run("document.querySelector('#viewer-title').textContent").startswith("Won and lost, crop 1: ")
    assert page.run("document.querySelector('#viewer-title').textContent") != title


def test_the_bars_lead_to_the_pictures(page):
    tab_to(page, ".gains a")
    page.press("End", "ArrowUp", "ArrowUp", "ArrowUp", "ArrowUp")
    name = page.run(f"{FOCUSED}.querySelector('bdi').textContent")
    rank = page.run(f"{FOCUSED}.hash")
    assert page.run(f"document.querySelector('{rank}').getClientRects().length") == 0  # behind the control
    page.press("Enter")
    page.wait_for(f"{FOCUSED}.closest('article') && {WHO} === {json.dumps(name)}")


def test_focus_can_be_seen(page):
    for selector in ("nav a", "#theme", ".gains a", ".panel", "summary"):
        page.show(Path(page.run("decodeURI(location.pathname)")))
        tab_to(page, selector)
        assert page.run(f"getComputedStyle({FOCUSED}).outlineStyle") == "solid", selector
        assert page.run(f"getComputedStyle({FOCUSED}).outlineWidth") == "3px", selector


def test_nothing_moves_where_motion_is_not_wanted(page):
    assert page.run("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    page.media(prefers_reduced_motion="no-preference")
    assert page.run("getComputedStyle(document.documentElement).scrollBehavior") == "smooth"


@pytest.mark.parametrize("width", [320, 390, 768, 1200, 2000])
def test_no_width_needs_scrolling_sideways(page, width):
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600)
    try:
        assert page.run("document.documentElement.scrollWidth") <= width
    finally:
        page.call("Emulation.setDeviceMetricsOverride", width=1200, height=900, deviceScaleFactor=1, mobile=False)


@pytest.mark.parametrize("width", [320, 360, 390])
def test_on_a_phone_no_figure_of_the_summary_is_cut_and_the_verdicts_are_there(page, width):
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=True)
    shown = "[...document.querySelectorAll('#summary td, #summary th[scope=row]')].filter((c) => c.offsetWidth)"
    try:
        assert page.run(f"{shown}.length") > 50
        assert page.run(f"Math.max(...{shown}.map((c) => c.getBoundingClientRect().right))") <= width
        assert page.run(f"Math.max(...{shown}.map((c) => c.scrollWidth - c.clientWidth))") <= 1
        says = "[...document.querySelectorAll('.says')].filter((c) => c.textContent.trim())"
        assert page.run(f"{says}.length") > 0
        assert page.run(f"{says}.every((c) => c.offsetWidth > 0)") is True
    finally:
        page.call("Emulation.setDeviceMetricsOverride", width=1200, height=900, deviceScaleFactor=1, mobile=False)


def test_every_control_has_a_name(page):
    """As assistive tools see the page: what can be focused has a name, and each picture is described."""
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    named = {"button", "link", "image", "dialog", "region"}
    missing = [
        node
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in named and not node.get("name", {}).get("value")
    ]
    assert missing == []
    roles = [node["role"]["value"] for node in nodes if not node["ignored"]]
    assert roles.count("article") == 9
    assert {"main", "navigation", "banner", "contentinfo", "heading", "table"} <= set(roles)
