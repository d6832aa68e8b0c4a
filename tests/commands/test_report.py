"""`prn score --report` and `prn pseudolabel --report`, as a user runs them."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

import prn_cli

VOID = {"meta", "link", "img"}
HOSTILE = ["<script>alert(1)<／script>", "\"'onerror='alert(1)'", "&lt;b&gt;", "\u202egnp.exe"]


class Page(HTMLParser):
    """A page's elements, its text, and whether everything that is opened is closed."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(self.words))

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def read_page(path):
    """Read a page, and check what must hold of every one."""
    text = path.read_text("utf-8")
    page = Page(text)
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    for _, attributes in page.elements:
        for name in ("src", "href"):
            target = attributes.get(name)
            if target is None:
                continue
            assert target.startswith(("data:", "#"))  # nothing from outside
            if len(target) > 1 and target.startswith("#"):
                assert target[1:] in identifiers
        for name in ("aria-labelledby", "aria-controls"):
            assert attributes.get(name, identifiers[0]) in identifiers
        assert not [name for name in attributes if name.startswith("on")]
    assert all("alt" in image for image in page.all("img"))
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in page.all("svg"))
    assert len(page.all("script")) == 1
    assert "url(" not in text.split("<style>")[1].split("</style>")[0]
    assert "nan" not in text.split("</style>")[1].replace("data:", "").split("<script>")[0].split('src="')[0].lower()
    return page


def write_folder(root, names, shape=(96, 120)):
    for folder in ("logits", "labels", "better", "masks", "images"):
        (root / folder).mkdir()
    for seed, name in enumerate(names):
        random = np.random.default_rng(seed)
        truth, noise = ndimage.gaussian_filter(random.standard_normal((2, *shape)), (0, 5, 5)) * 25
        logits = (truth + noise - 1).astype(np.float32)
        better = (truth + noise / 3 - 0.5).astype(np.float32)
        np.save(root / "logits" / f"{name}.npy", logits)
        np.save(root / "better" / f"{name}.npy", better)
        Image.fromarray((truth > 0.5).astype(np.uint8) * 255).save(root / "labels" / f"{name}.png")
        Image.fromarray((better > 0).astype(np.uint8) * 255).save(root / "masks" / f"{name}.png")
        picture = np.clip(128 + 40 * np.stack([truth, noise, truth - noise], axis=-1), 0, 255)
        Image.fromarray(picture.astype(np.uint8)).save(root / "images" / f"{name}.png")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_folder(tmp_path, [f"tile_{i}" for i in range(14)])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_of_two_soft_maps_shows_everything(folder, prn):
    line = ["score", "better", "-l", "labels", "--baseline", "logits", "--json", "--report", "out/report.html"]
    code, out, err = prn(*line, "--images", "images")
    assert code == 0
    assert "report → out/report.html" in err
    document = json.loads(out)
    page = read_page(folder / "out" / "report.html")
    for kind in ("pooled", "mean"):
        assert f"{document[kind]['iou']['value']:.4f}" in page.text
        assert f"{100 * document[kind]['iou']['difference']['value']:+.2f} points" in page.text
    for words in ("Gain per image", "Bias added, by position", "Best threshold of each patch", "Precision and recall"):
        assert words in page.text
    assert "Reliability" in page.text
    assert len(page.all("article")) == 14
    titles = [b["data-title"] for b in page.all("button") if "data-title" in b]
    expected = ["Image", "Label", "Base mask", "Refined mask", "Won and lost", "Bias map", "Best thresholds"]
    assert titles == expected * 14
    assert page.text.count("worst ") == 4  # three images, and the text of the control
    gains = [a["href"] for a in page.all("a") if a["href"].startswith("#image-")]
    assert gains == [f"#image-{rank}" for rank in reversed(range(14))]
    first = (folder / "out" / "report.html").read_bytes()
    assert prn(*line, "--images", "images")[0] == 0  # its own page may be written over
    assert (folder / "out" / "report.html").read_bytes() == first


def test_large_images_have_crops_at_full_resolution(tmp_path, prn, monkeypatch):
    write_folder(tmp_path, ["a", "b"], shape=(200, 400))
    monkeypatch.chdir(tmp_path)
    line = ["score", "better", "-l", "labels", "--baseline", "logits", "--report", "report.html"]
    assert prn(*line, "--images", "images")[0] == 0
    page = read_page(tmp_path / "report.html")
    shown = [b["data-title"] for b in page.all("button") if ", crop" in b.get("data-title", "")]
    panels = ["Image", "Base mask", "Refined mask", "Won and lost"]
    assert shown == [f"{panel}, crop {number}" for number in (1, 2) for panel in panels] * 2
    assert page.text.count("at full resolution: 128 × 128 px") == 4
    assert [i["width"] for i in page.all("img") if ", crop" in i["alt"]] == ["128"] * 16
    assert prn("score", "masks", "-l", "labels", "--report", "report.html")[0] == 0
    shown = {b["data-title"] for b in read_page(tmp_path / "report.html").all("button") if "data-title" in b}
    assert shown == {"Label", "Mask", "Errors", "Mask, crop 1", "Errors, crop 1", "Mask, crop 2", "Errors, crop 2"}


class Between(prn_cli.Watch):
    """Does something when all images are scored, before the page is written; hears notes and warnings."""

    def __init__(self, meddle):
        self.meddle, self.heard = meddle, []
        self.note = self.warning = self.heard.append

    @contextmanager
    def progress(self, label, total):
        with super().progress(label, total) as advance:
            yield advance
        self.meddle()


def test_of_many_images_those_shown_at_first_are_opened_again(tmp_path, monkeypatch):
    """The worst, the median and the best are; what became of the others in the meantime is of no account."""
    write_folder(tmp_path, [f"tile_{i:02}" for i in range(14)], shape=(100, 160))
    monkeypatch.chdir(tmp_path)
    options = {"labels": "labels", "baseline": "logits", "resamples": 100}
    scored = prn_cli.score("better", **options, report="whole.html")
    rows = sorted(scored.rows(), key=lambda row: row["iou"] - row["baseline_iou"])
    shown = {row["file"].stem for row in [*rows[:3], *rows[5:8], *rows[-3:]]}

    def remove():
        for path in (tmp_path / "better").iterdir():
            if path.stem not in shown:
                path.unlink()

    watch = Between(remove)
    prn_cli.score("better", **options, report="report.html", watch=watch)
    assert len(list((tmp_path / "better").iterdir())) == 9
    assert not [message for message in watch.heard if "crops" in message]
    assert (tmp_path / "report.html").read_bytes() == (tmp_path / "whole.html").read_bytes()


def test_what_vanished_or_changed_in_between_costs_the_crops_only(tmp_path, monkeypatch):
    write_folder(tmp_path, ["a", "b", "c", "d"], shape=(200, 300))
    monkeypatch.chdir(tmp_path)
    options = {"labels": "labels", "baseline": "logits", "images": "images", "report": "report.html", "resamples": 100}
    prn_cli.score("better", **options)
    before = read_page(tmp_path / "report.html")

    def meddle():
        (tmp_path / "better" / "a.npy").unlink()
        np.save(tmp_path / "labels" / "b.npy", np.zeros((3, 4)))
        (tmp_path / "labels" / "b.npy").replace(tmp_path / "labels" / "b.png")
        (tmp_path / "logits" / "d.npy").touch()
        (tmp_path / "images" / "c.png").touch()

    watch = Between(meddle)
    scored = prn_cli.score("better", **options, watch=watch)
    assert not scored.failures
    (note,) = [message for message in watch.heard if "crops" in message]
    assert note.startswith("3 shown without crops: ")
    (warning,) = [message for message in watch.heard if "shown without it" in message]
    assert "images/c.png: changed while it was read" in warning
    page = read_page(tmp_path / "report.html")
    pictures = [[i["src"] for i in each.all("img")[:-1] if ", crop" not in i["alt"]] for each in (before, page)]
    assert pictures[0] == pictures[1]
    closer = [i["alt"].split(", ", 1) for i in page.all("img") if ", crop" in i["alt"]]
    assert {alt for _, alt in closer} == {"crop 1, c", "crop 2, c"}
    assert {panel for panel, _ in closer} == {"Base mask", "Refined mask", "Won and lost"}


def test_masks_alone_leave_out_what_is_not_known(folder, prn):
    code, _, _ = prn("score", "masks", "-l", "labels", "--report", "report.html")
    page = read_page(folder / "report.html")
    assert code == 0
    titles = {b["data-title"] for b in page.all("button") if "data-title" in b}
    assert titles == {"Label", "Mask", "Errors"}
    for words in ("Reliability", "Bias", "threshold of each patch", "Won", "Base"):
        assert words not in page.text


def test_hard_masks_beside_a_soft_base_say_how_to_see_more(folder, prn):
    assert prn("refine", "logits", "-o", "refined", "--bias", "bias", "-q")[0] == 0
    line = ["score", "refined", "-l", "labels", "--baseline", "logits", "--report", "report.html"]
    assert prn(*line)[0] == 0
    page = read_page(folder / "report.html")
    assert "prn refine --probabilities" in page.text
    assert "Bias" not in page.text
    assert prn(*line, "--bias", "bias")[0] == 0
    page = read_page(folder / "report.html")
    assert "Bias added, by position" in page.text


def test_the_headroom_page_has_the_figures_of_the_command(folder, prn):
    code, out, _ = prn("pseudolabel", "--patch", 32, "--json", "--report", "headroom.html", "--images", "images")
    document = json.loads(out)
    page = read_page(folder / "headroom.html")
    assert code == 0
    for key in ("at_half", "best_single", "oracle"):
        for kind in ("pooled", "mean"):
            assert f"{document[key][kind]:.4f}" in page.text
    assert f"Headroom: {100 * document['headroom']['pooled']:+.2f} points" in page.text
    for size in (16, 32, 64, 128):
        assert f"Oracle, {size} px patches" in page.text
    assert "Oracle mask" in page.text
    # Again: all is kept, and the page is the same.
    first = (folder / "headroom.html").read_bytes()
    assert prn("pseudolabel", "--patch", 32, "--report", "headroom.html", "--images", "images")[0] == 0
    assert (folder / "headroom.html").read_bytes() == first


def test_hostile_names_are_shown_as_they_are(tmp_path, prn, monkeypatch):
    write_folder(tmp_path, HOSTILE, shape=(40, 40))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels" / "<i>.png").write_bytes(b"no PNG")
    np.save(tmp_path / "logits" / "<i>.npy", np.zeros((4, 4), np.float32))
    np.save(tmp_path / "better" / "<i>.npy", np.zeros((4, 4), np.float32))
    for line in (
        ["score", "better", "-l", "labels", "--baseline", "logits", "--input-kind", "logits"],
        ["pseudolabel", "logits", "-l", "labels", "-o", "<o>", "--input-kind", "logits"],
    ):
        code, _, _ = prn(*line, "--report", "<r>.html")
        assert code == 1
        page = read_page(tmp_path / "<r>.html")
        (tmp_path / "<r>.html").unlink()
        for name in HOSTILE[:3]:
            assert name in page.text
        assert "\u202e" not in page.text
        assert "�gnp.exe" in page.text
        assert "1 file could not be used" in page.text
        assert not {tag for tag, _ in page.elements} & {"i", "b"} - {"b"}


@pytest.mark.slow
def test_a_hundred_images_take_less_than_five_megabytes(tmp_path, prn, monkeypatch):
    """Images as busy as aerial photographs; ten of them, ten times each."""
    write_folder(tmp_path, [f"tile_{i}" for i in range(10)], shape=(288, 320))
    fine = np.random.default_rng(0).normal(0, 25, (288, 320, 3))
    for path in sorted((tmp_path / "images").iterdir()):
        picture = np.asarray(Image.open(path)) + fine
        Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(path, compress_level=1)
    for path in [*tmp_path.glob("*/tile_?.*")]:
        for copy in range(1, 10):
            path.with_stem(f"{path.stem}{copy}").hardlink_to(path)
    monkeypatch.chdir(tmp_path)
    line = ["score", "better", "-l", "labels", "--baseline", "logits", "--input-kind", "logits"]
    code, _, _ = prn(*line, "--report", "report.html", "--images", "images", "--resamples", 100)
    assert code == 0
    size = (tmp_path / "report.html").stat().st_size
    assert 1e6 < size < 5e6
    page = read_page(tmp_path / "report.html")
    assert len(page.all("article")) == 100
    assert len(page.all("img")) == 100 * 7 + 4 * page.text.count("at full resolution") + 1


def test_what_is_not_a_report_is_not_written_over(folder, prn):
    (folder / "notes.html").write_text("<p>mine</p>", encoding="utf-8")
    for command in (["score", "masks", "-l", "labels"], ["pseudolabel", "-l", "labels"]):
        code, out, err = prn(*command, "--report", "notes.html")
        assert (code, out) == (1, "")
        assert "notes.html: is there already and is no report" in err
        code, _, err = prn(*command, "--report", "labels")
        assert (code, "is a folder" in err) == (1, True)
        code, _, err = prn(*command, "--report", "labels/tile_0.png")
        assert (code, "is an input" in err) == (2, True)
    assert (folder / "notes.html").read_text("utf-8") == "<p>mine</p>"
    assert not (folder / "pseudolabels").exists()


def test_pictures_without_a_page_are_refused(prn, folder):
    for line in (
        ["score", "masks", "-l", "labels", "--bias", "logits"],
        ["score", "masks", "-l", "labels", "--images", "images"],
        ["pseudolabel", "--images", "images"],
    ):
        code, out, err = prn(*line)
        assert (code, out) == (2, "")
        assert "--report" in err


@pytest.mark.parametrize("task", ["saliency"])
def test_soft_maps_have_no_page(folder, prn, task):
    code, out, err = prn("score", "better", "-l", "labels", "--task", task, "--report", "report.html")
    assert (code, out) == (2, "")
    assert f"--report with --task {task}: it shows masks of one class; leave --report out" in err
    assert not (folder / "report.html").exists()


def test_images_that_are_missing_or_broken_cost_the_picture_only(folder, prn):
    (folder / "images" / "tile_0.png").unlink()
    (folder / "images" / "tile_1.png").write_bytes(b"no PNG")
    code, _, err = prn("score", "better", "-l", "labels", "--report", "report.html", "--images", "images")
    assert code == 0
    assert "1 of 14 have no image in images, tile_0.npy first" in err
    assert "images/tile_1.png: " in err
    page = read_page(folder / "report.html")
    titles = [b["data-title"] for b in page.all("button") if "data-title" in b]
    assert (titles.count("Image"), titles.count("Scores")) == (12, 2)


def test_one_image_has_a_page_without_intervals(folder, prn):
    code, _, _ = prn("score", "better/tile_3.npy", "-l", "labels", "--baseline", "logits", "--report", "report.html")
    assert code == 0
    page = read_page(folder / "report.html")
    assert "One image: no interval." in page.text
    code, _, _ = prn("pseudolabel", "logits/tile_3.npy", "--report", "headroom.html")
    assert code == 0
    read_page(folder / "headroom.html")


def test_no_image_no_page(folder, prn):
    for path in (folder / "labels").iterdir():
        path.write_bytes(b"no PNG")
    for command in ("score", "pseudolabel"):
        code, _, _ = prn(command, "logits", "-l", "labels", "--report", "report.html")
        assert code == 1
        assert not (folder / "report.html").exists()
