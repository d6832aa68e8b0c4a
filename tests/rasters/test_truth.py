from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from prn_cli.errors import InputError
from prn_cli.rasters import Reading, read_label


def test_a_grey_label_is_cut_in_the_middle_of_its_scale(tmp_path):
    grey = np.array([[0, 1, 127, 128], [129, 200, 254, 255]], np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert read_label(tmp_path / "grey.png", role="grey label").tolist() == [[0, 0, 0, 0], [1, 1, 1, 1]]
    Image.fromarray(np.stack([grey] * 3, axis=-1)).save(tmp_path / "rgb.png")
    assert read_label(tmp_path / "rgb.png", role="grey label").tolist() == [[0, 0, 0, 0], [1, 1, 1, 1]]
    np.save(tmp_path / "soft.npy", np.array([[0, 0.5, np.nan], [0.51, 0.7, 1]], np.float32))
    assert read_label(tmp_path / "soft.npy", role="grey label").tolist() == [[0, 0, 255], [1, 1, 1]]
    np.save(tmp_path / "wide.npy", np.array([[0, 32768, 32769, 65535]], np.uint16))
    assert read_label(tmp_path / "wide.npy", role="grey label").tolist() == [[0, 0, 1, 1]]


def test_a_label_of_two_values_is_read_as_such(tmp_path):
    np.save(tmp_path / "ones.npy", np.array([[0, 1], [1, 9]], np.uint8))
    assert read_label(tmp_path / "ones.npy", Reading(label_nodata=9), role="grey label").tolist() == [[0, 1], [1, 255]]
    np.save(tmp_path / "flags.npy", np.array([[False, True]]))
    assert read_label(tmp_path / "flags.npy", role="grey label").tolist() == [[0, 1]]


def test_what_is_no_grey_label_is_refused(tmp_path):
    np.save(tmp_path / "logits.npy", np.array([[-3, 4]], np.float32))
    with pytest.raises(InputError, match="from -3 to 4, expected 0 to 1"):
        read_label(tmp_path / "logits.npy", role="grey label")
    np.save(tmp_path / "bands.npy", np.zeros((2, 4, 4), np.float32))
    with pytest.raises(InputError, match="2 bands, expected one"):
        read_label(tmp_path / "bands.npy", role="grey label")
    np.save(tmp_path / "empty.npy", np.full((2, 2), np.nan))
    with pytest.raises(InputError, match="no valid pixel"):
        read_label(tmp_path / "empty.npy", role="grey label")
