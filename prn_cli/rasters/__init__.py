"""Files to arrays and back: what the values mean, which pixels are valid, and where they lie on earth.

The only package that knows file formats. Score maps in memory are float32 `(H, W)` with NaN where invalid; labels and
masks are uint8 `(H, W)`: 0 background, 1 foreground, 255 ignore or invalid.
"""

from __future__ import annotations

from prn_cli.rasters.base import TIFF_SUFFIXES, Raster
from prn_cli.rasters.geo import GeoTags
from prn_cli.rasters.images import MapImage, common_bands
from prn_cli.rasters.kinds import count_bands, count_classes, with_bands
from prn_cli.rasters.labels import ClassNumbers, LabelMap, two_kinds_of_labels
from prn_cli.rasters.mask_values import can_tell_invalid, mask_nodata
from prn_cli.rasters.pairs import (
    Partners,
    check_stems,
    find_images,
    find_inputs,
    find_references,
    find_valid_masks,
    image_files,
    pair_by_stem,
)
from prn_cli.rasters.palettes import Palette, class_names, read_palette
from prn_cli.rasters.raster import WRITTEN_SUFFIXES, check_file, create_raster, is_whole, open_raster, tiff_suffix
from prn_cli.rasters.reading import open_map, read_label, resolve
from prn_cli.rasters.roles import Kind, Reading
from prn_cli.rasters.scores import ClassScoreMap, ScoreMap
from prn_cli.rasters.valid import count_reasons
from prn_cli.rasters.writing import RasterWriter

__all__ = [
    "TIFF_SUFFIXES",
    "WRITTEN_SUFFIXES",
    "ClassNumbers",
    "ClassScoreMap",
    "GeoTags",
    "Kind",
    "LabelMap",
    "MapImage",
    "Palette",
    "Partners",
    "Raster",
    "RasterWriter",
    "Reading",
    "ScoreMap",
    "can_tell_invalid",
    "check_file",
    "check_stems",
    "class_names",
    "common_bands",
    "count_bands",
    "count_classes",
    "count_reasons",
    "create_raster",
    "find_images",
    "find_inputs",
    "find_references",
    "find_valid_masks",
    "image_files",
    "is_whole",
    "mask_nodata",
    "open_map",
    "open_raster",
    "pair_by_stem",
    "read_label",
    "read_palette",
    "resolve",
    "tiff_suffix",
    "two_kinds_of_labels",
    "with_bands",
]
