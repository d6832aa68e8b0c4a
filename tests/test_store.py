"""Arrays in an unnamed file."""

from __future__ import annotations

import numpy as np
import pytest

from prn_cli.errors import OutputError
from prn_cli.files.store import Store


def test_arrays_come_back_and_no_file_is_left(tmp_path):
    store = Store(tmp_path / "not" / "there")
    arrays = [np.arange(7, dtype=np.uint8), np.ones((2, 3), np.float32), np.zeros((0, 4)), np.float64([[np.nan, 1]])]
    places = [store.put(array) for array in arrays]
    stored = store.mapped()
    for array, place in zip(arrays, places, strict=True):
        np.testing.assert_array_equal(place.view(stored), array)
        assert place.view(stored).dtype == array.dtype
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="run: cannot be written"):
        Store(tmp_path / "file" / "run")
