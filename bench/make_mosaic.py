"""A mosaic bigger than memory, from a real logit map: a GeoTIFF of any size, tiled with the map and its mirror images.

    python bench/make_mosaic.py big.tif [--logits FILE] [--height 40000] [--width 40000] [--label FILE --label-out FILE]
        [--co KEY=VALUE …]

Mirrored neighbours meet without a seam, so the mosaic is as smooth as the map. It is written by rows, in little memory.
Without `--logits` it is made of a map of `examples/`. `.npy` is written as well, by the suffix.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def mirror_rows(tile: np.ndarray, y: int, rows: int, width: int) -> np.ndarray:
    """Rows of the plane that a tile and its mirror images fill, from row `y` and column 0 on."""
    height, across = tile.shape
    pair = np.concatenate([tile, tile[:, ::-1]], axis=1)
    numbers = np.arange(y, y + rows) % (2 * height)
    numbers = np.where(numbers < height, numbers, 2 * height - 1 - numbers)
    return np.take(pair[numbers], np.arange(width) % (2 * across), axis=1)


def write_mosaic(tile: np.ndarray, path: Path, height: int, width: int, like: Path, options: dict[str, str]) -> None:
    """Write a mosaic, some rows at a time, on the grid of `like`."""
    from prn_cli.maps.tiles import row_bands
    from prn_cli.rasters import create_raster, open_raster

    nodata = np.nan if tile.dtype.kind == "f" else None
    with (
        open_raster(like) as raster,
        create_raster(
            path,
            height=height,
            width=width,
            dtype=tile.dtype,
            like=raster,
            nodata=nodata,
            creation_options=options,
        ) as writer,
    ):
        for band in row_bands(height, width):
            writer.write(mirror_rows(tile, band.y, band.height, width))


def main() -> None:
    from prn_cli.rasters import open_raster, read_label

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--logits", type=Path, default=next((EXAMPLES / "buildings_geotiff" / "logits").iterdir()))
    parser.add_argument("--height", type=int, default=40_000)
    parser.add_argument("--width", type=int, default=40_000)
    parser.add_argument("--label", type=Path, help="label of the map")
    parser.add_argument("--label-out", type=Path, help="where its mosaic goes, as 0 and 255")
    parser.add_argument("--co", action="append", default=[], metavar="KEY=VALUE", help="TIFF creation options")
    arguments = parser.parse_args()
    options = dict(option.split("=", 1) for option in arguments.co)
    with open_raster(arguments.logits) as raster:
        tile = raster.read()[0].astype(np.float32)
    write_mosaic(tile, arguments.out, arguments.height, arguments.width, arguments.logits, options)
    if arguments.label is not None:
        label = read_label(arguments.label)
        label = np.where(label == 1, np.uint8(255), np.uint8(0))
        out = arguments.label_out or arguments.out.with_name(f"{arguments.out.stem}_label{arguments.out.suffix}")
        write_mosaic(label, out, arguments.height, arguments.width, arguments.logits, {"COMPRESS": "DEFLATE"})


if __name__ == "__main__":
    main()
