from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
from scipy import ndimage

from prn_cli.maps.probabilities import binarize
from prn_cli.maps.tiles import Window
from prn_cli.metrics.score import summarise
from prn_cli.report import Prediction, Scored, Totals, Viewer, score_page
from prn_cli.report.gallery import MOST_PICTURED
from prn_cli.report.glimpses import Seen, picture_room, zoom
from prn_cli.tasks.binary import Binary

score_image = Binary().score_image

WHAT = Scored("probabilities", "labels", "logits", "probabilities cut at 0.5", "logits cut at 0.5", 0.5)


def page_of(images, kinds=6, shape=(300, 320)):
    """A page of images as busy as aerial photographs; of six kinds, which is faster than all of their own."""
    totals, scores, glimpses = Totals(), [], []
    rows, columns = shape
    for seed in range(kinds):
        random = np.random.default_rng(seed)
        truth, noise = ndimage.gaussian_filter(random.standard_normal((2, *shape)), (0, 3, 3)) * 20
        label = (truth > 0.5).astype(np.uint8)
        base, after = (1 / (1 + np.exp(-z)) for z in (truth + noise - 1, truth + noise / 3 - 0.5))
        base, after = base.astype(np.float32), after.astype(np.float32)
        picture = np.clip(128 + 30 * truth + random.normal(0, 25, (3, *shape)), 0, 255).astype(np.float32)
        viewer = Viewer("", rows, columns, room=picture_room(images, pictured=MOST_PICTURED))
        softs = Prediction(binarize(after, 0.5), after), Prediction(binarize(base, 0.5), base)

        def see(window, label=label, softs=softs, picture=picture):
            parts = [Prediction(soft.mask[window.slices], soft.probabilities[window.slices]) for soft in softs]
            return Seen(label[window.slices], *parts, picture[:, *window.slices])

        viewer.add(0, see(Window(0, 0, *shape)), bias=random.normal(0, 2, shape).astype(np.float32))
        glimpses.append((dataclasses.replace(viewer.finish(), closer=partial(zoom, look=see)), viewer))
        scores.append(score_image(after, label, baseline=base))
    for i in range(images):
        glimpse, viewer = glimpses[i % kinds]
        totals.add(dataclasses.replace(glimpse, name=f"tile_{i:04}"), viewer.before, viewer.after)
    return score_page(summarise([scores[i % kinds] for i in range(images)], resamples=100), totals, WHAT)


def test_a_hundred_busy_images_stay_below_five_megabytes():
    page = page_of(100)
    assert 2e6 < len(page.encode()) < 5e6
    assert page.count("<article") == 100
    assert 9 <= page.count('class="crop"') <= 9 * 2  # of the images that are shown at first


def test_of_many_images_the_worst_the_median_and_the_best_are_shown():
    page = page_of(400)
    assert len(page.encode()) < 5e6
    assert page.count("<article") == MOST_PICTURED
    assert page.count('<li><a href="#image-') == MOST_PICTURED
    assert page.count("tile_0399") >= 1  # in the list of gains, pictured or not
    assert "of 400 images" in page
