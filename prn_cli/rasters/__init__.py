"""Files to arrays and back: what the numbers mean, what is valid, and where they lie on earth.

The only place that knows file formats. Score maps in memory are float32 `(H, W)` with NaN where invalid; labels and
masks are uint8 `(H, W)`: 0 background, 1 foreground, 255 ignore or invalid.
"""

from __future__ import annotations

from prn_cli.maps.probabilities import logit, sigmoid
from prn_cli.rasters.classes import (
    ClassNumbers,
    ClassScoreMap,
    Palette,
    class_names,
    count_bands,
    count_classes_of_maps,
    open_class_numbers,
    open_class_scores,
    read_palette,
)
from prn_cli.rasters.geo import GeoTags
from prn_cli.rasters.images import MapImage, common_bands, open_image
from prn_cli.rasters.kinds import INPUT_KINDS, InputKind, detect_kind, detect_mask_or_kind
from prn_cli.rasters.labels import (
    BinaryMap,
    LabelMap,
    open_label,
    open_mask,
    read_label,
    read_mask_or_scores,
    two_kinds_of_labels,
)
from prn_cli.rasters.pairs import (
    Pairs,
    Partners,
    find_images,
    find_inputs,
    find_references,
    find_valid_masks,
    image_files,
    pair_by_stem,
)
from prn_cli.rasters.raster import IMAGE_SUFFIXES, SUFFIXES, Raster, check_file, is_whole, open_raster
from prn_cli.rasters.scores import ScoreMap, lay_like, open_scores
from prn_cli.rasters.truth import open_grey_label, read_grey_label
from prn_cli.rasters.writing import (
    MASK_VALUES,
    WRITTEN_SUFFIXES,
    RasterWriter,
    can_tell_invalid,
    create_raster,
    mask_nodata,
)

__all__ = [
    "IMAGE_SUFFIXES",
    "INPUT_KINDS",
    "MASK_VALUES",
    "SUFFIXES",
    "WRITTEN_SUFFIXES",
    "BinaryMap",
    "ClassNumbers",
    "ClassScoreMap",
    "GeoTags",
    "InputKind",
    "LabelMap",
    "MapImage",
    "Pairs",
    "Palette",
    "Partners",
    "Raster",
    "RasterWriter",
    "ScoreMap",
    "can_tell_invalid",
    "check_file",
    "class_names",
    "common_bands",
    "count_bands",
    "count_classes_of_maps",
    "create_raster",
    "detect_kind",
    "detect_mask_or_kind",
    "find_images",
    "find_inputs",
    "find_references",
    "find_valid_masks",
    "image_files",
    "is_whole",
    "lay_like",
    "logit",
    "mask_nodata",
    "open_class_numbers",
    "open_class_scores",
    "open_grey_label",
    "open_image",
    "open_label",
    "open_mask",
    "open_raster",
    "open_scores",
    "pair_by_stem",
    "read_grey_label",
    "read_label",
    "read_mask_or_scores",
    "read_palette",
    "sigmoid",
    "two_kinds_of_labels",
]
