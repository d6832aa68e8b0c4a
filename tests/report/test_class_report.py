"""The page of maps of several classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import prn_cli as prn
from prn_cli.maps.pixels import IGNORE
from prn_cli.report import Viewer
from prn_cli.report.class_glimpses import class_colours, see_classes
from prn_cli.report.shrinking import Cells, Picked

GREEN = (0, 128, 0)


@pytest.mark.parametrize(("height", "width", "side", "band"), [(50, 70, 16, 7), (9, 12, 256, 4), (33, 20, 20, 33)])
def test_the_middle_of_each_cell_is_picked(height, width, side, band):
    values = np.random.default_rng(0).integers(0, 200, (height, width)).astype(np.uint8)
    picked = Picked(Cells(height, width, side))
    for first in range(0, height, band):
        picked.add(first, values[first : first + band])
    rows, columns = picked.result().shape
    expected = [
        [values[int((r + 0.5) * height / rows), int((c + 0.5) * width / columns)] for c in range(columns)]
        for r in range(rows)
    ]
    np.testing.assert_array_equal(picked.result(), expected)


def test_an_image_counts_what_is_right():
    rng = np.random.default_rng(1)
    label, before, after = (rng.integers(0, 4, (40, 30)).astype(np.uint8) for _ in range(3))
    label[:5], after[-3:] = IGNORE, IGNORE
    viewer = Viewer("a", 40, 30, table=class_colours())
    for first in (0, 16):
        rows = slice(first, first + 24 if first else 16)
        viewer.add(first, see_classes(label[rows], after[rows], before[rows]))
    glimpse = viewer.finish()
    valid = (label != IGNORE) & (after != IGNORE)
    accuracy = [(mask == label)[valid].mean() for mask in (before, after)]
    assert glimpse.regions_before().iou() == pytest.approx(accuracy[0])
    assert glimpse.gain == pytest.approx(accuracy[1] - accuracy[0])
    assert glimpse.found == ((before != label) & (after == label) & valid).sum()
    assert glimpse.missed == ((before == label) & (after != label) & valid).sum()


def test_colours_are_the_palettes_and_apart():
    table = class_colours(np.array([(0, 0, 0), GREEN], np.uint8))
    assert tuple(table[1]) == GREEN
    assert len({tuple(colour) for colour in table[:40]}) == 40


def test_the_page_of_several_classes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows, columns = np.mgrid[:48, :64]
    for folder in ("logits", "labels", "masks"):
        Path(folder).mkdir()
    for number in range(3):
        scores = np.stack([np.sin(rows / 9 + number), np.cos(columns / 8), 0.2 * np.ones(rows.shape)]) * 3
        label = scores.argmax(axis=0).astype(np.uint8)
        label[:6] = (label[:6] + 1) % 3
        np.save(f"logits/{number}.npy", scores.astype(np.float32))
        picture = Image.fromarray(label, mode="P")
        picture.putpalette([10, 20, 30, *GREEN, 200, 100, 0])
        picture.save(f"labels/{number}.png")
        better = np.where(rows < 3, label, scores.argmax(axis=0)).astype(np.uint8)
        Image.fromarray(better).save(f"masks/{number}.png")
    names = "street,<b>tree,sky"
    scored = prn.score(
        "masks", labels="labels", baseline="logits", task="multiclass", classes=names, report="page.html"
    )
    page = Path("page.html").read_text("utf-8").replace("&#39;", "'")
    miou = scored.summary.pooled["miou"]
    assert f"{miou.baseline.value:.4f} → {miou.masks.value:.4f}" in page
    assert "The refined masks are better than the base's." in page
    assert "Of 3 images, 3 became better, <b>0 worse</b> by accuracy." in page
    assert "&lt;b&gt;tree" in page
    assert "<b>tree" not in page
    assert 'fill="#008000"' in page
    assert "Best thresholds" not in page
    assert "found" not in page.partition('id="images"')[2].partition("<footer>")[0]
    assert page.count("<article") == 3
    alone = prn.score("masks", labels="labels", task="multiclass", report="alone.html")
    assert not alone.failures
    assert "Accuracy of each image" in Path("alone.html").read_text("utf-8")
    with pytest.raises(prn.PrnError, match="--bias"):
        prn.score("masks", labels="labels", task="multiclass", report="page.html", bias="logits")
