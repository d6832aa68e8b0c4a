"""Fuzz the readers, guided by coverage: every file, however hostile, ends in numbers or in one plain error.

    pip install 'prn-cli[fuzz]'
    python bench/fuzz_readers.py [--seconds 600] [--format tif] [--corpus DIR] [--found DIR]

The formats share the time. A case is a file that ends in anything but numbers or a `PrnError` of one line, takes
longer than two seconds, or more than 2 GiB of memory. Cases of one cause are kept once; move them, cut small, to
`tests/rasters/hostile/`, where `tests/rasters/test_hostile.py` reads each of them. What the fuzzer learned stays in
the corpus, so another run goes on where the last one stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

FORMATS = ("tif", "npy", "npz", "png", "jpg", "manifest", "onnx")
LONGEST = 2.0  # seconds of the processor
MEMORY_MIB = 2048
LARGEST_CASE = 8192  # bytes
SIDE = 48  # px of the windows that are read
INSTRUMENTED = ["prn_cli", "tifffile", "zipfile", "numpy.lib", "PIL", "json"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=600, help="all formats together")
    parser.add_argument("--format", choices=FORMATS, action="append", help="may be repeated; all if it is left out")
    parser.add_argument("--corpus", type=Path, default=Path(tempfile.gettempdir()) / "prn-fuzz-corpus")
    parser.add_argument("--found", type=Path, default=Path("fuzz-found"))
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    formats = arguments.format or list(FORMATS)
    if arguments.child:
        fuzz(formats[0], arguments.seconds, arguments.corpus, arguments.found)
        return
    arguments.found.mkdir(parents=True, exist_ok=True)
    for name in formats:
        corpus = arguments.corpus / name
        corpus.mkdir(parents=True, exist_ok=True)
        for number, content in enumerate(seeds(name)):
            (corpus / f"seed-{number}").write_bytes(content)
        seconds = max(arguments.seconds // len(formats), 1)
        line = [sys.executable, __file__, "--child", "--format", name, "--seconds", str(seconds)]
        line += ["--corpus", str(corpus), "--found", str(arguments.found)]
        end = time.monotonic() + seconds
        # A case that takes too much memory or time ends the fuzzer, so it is started again until the time is over.
        while (left := int(end - time.monotonic())) > 0:
            line[line.index("--seconds") + 1] = str(left)
            done = subprocess.run(line, capture_output=True, text=True, errors="replace", check=False)
            last = [text for text in done.stderr.splitlines() if text.startswith(("#", "Done", "SUMMARY"))][-2:]
            print(f"{name}: exit {done.returncode}; " + "; ".join(last), flush=True)
            if "NEW" not in done.stderr and "Done" not in done.stderr and "ERROR" not in done.stderr:
                sys.exit(done.stderr[-2000:])
    cases = sorted(arguments.found.iterdir())
    print(f"{len(cases)} cases" + (f" in {arguments.found}" if cases else ""))
    for case in cases:
        print(f"  {case.name}: {case.stat().st_size} bytes")


def fuzz(name: str, seconds: int, corpus: Path, found: Path) -> None:
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        import numpy as np  # noqa: F401
        import tifffile  # noqa: F401
        from PIL import JpegImagePlugin, PngImagePlugin  # noqa: F401

        import prn_cli.rasters
        import prn_cli.rasters.images
        import prn_cli.rasters.jpeg
        import prn_cli.rasters.npy
        import prn_cli.rasters.png
        import prn_cli.rasters.tiff

        if name == "manifest":
            import prn_cli.files.manifest
        if name == "onnx":
            import prn_cli.methods.session  # noqa: F401

    from prn_cli.errors import PrnError

    work: Callable[[Path], None] = {"manifest": read_manifest, "onnx": load_onnx, "jpg": read_image}.get(
        name, read_raster
    )
    known: set[str] = set()
    # In memory where there is such a place, since every case becomes a file.
    place = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="prn-fuzz-", dir=place))
    path = folder / ("prn-manifest.jsonl" if name == "manifest" else f"case.{name}")

    def keep(kind: str, content: bytes, text: str) -> None:
        if kind not in known:
            known.add(kind)
            stem = "".join(c if c.isalnum() else "-" for c in kind)[:80]
            (found / f"{stem}.{name}").write_bytes(content)
            print(f"FOUND {kind}\n{text}", file=sys.stderr)

    def target(content: bytes) -> None:
        path.write_bytes(content)
        started = time.process_time()
        try:
            work(path)
        except PrnError as error:
            if "\n" in str(error):
                keep("lines", content, str(error))
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)[-2:]
            kind = type(error).__name__ + "".join(f"-{Path(f.filename).stem}-{f.name}" for f in frames)
            keep(kind, content, traceback.format_exc())
        taken = time.process_time() - started
        if taken > LONGEST:
            keep(f"slow-{int(taken)}", content, f"{taken:.1f} s")

    line = [sys.argv[0], str(corpus), f"-max_total_time={seconds}", f"-max_len={LARGEST_CASE}", "-timeout=20"]
    line += [f"-rss_limit_mb={MEMORY_MIB}", f"-artifact_prefix={found}/{name}-", "-print_final_stats=0"]
    atheris.Setup(line, target)
    atheris.Fuzz()


def read_raster(path: Path) -> None:
    """Read a file by every road that a command takes."""
    from prn_cli.errors import PrnError
    from prn_cli.maps.tiles import Window
    from prn_cli.rasters import Reading, open_map, open_raster, read_label

    with open_raster(path) as raster:
        height, width = min(raster.height, SIDE), min(raster.width, SIDE)
        for y, x in ((0, 0), (raster.height - height, raster.width - width)):
            window = Window(y, x, height, width)
            raster.read(window)
            raster.valid(window)
        small = raster.height * raster.width * raster.bands <= 1 << 20
        bands = raster.bands
        if raster.geo is not None:
            raster.geo.downscaled(16)
    if small:
        for work in (lambda: read_label(path), lambda: _logits(path, bands)):
            try:
                work()
            except PrnError as error:
                if "\n" in str(error):
                    raise AssertionError(str(error)) from error
    with open_map("scores", path, Reading(kind="logits", band=1)) as scores:
        scores.logits(window)
    if bands > 1:
        with open_map("class scores", path, Reading(kind="logits")) as classes:
            classes.logits(window)
    read_image(path)


def read_image(path: Path) -> None:
    """Read a file as the image of a map."""
    from prn_cli.maps.tiles import Window
    from prn_cli.rasters import open_map

    with open_map("image", path, shape=(SIDE, SIDE)) as image:
        image.read(Window(0, 0, SIDE // 2, SIDE))


def _logits(path: Path, bands: int) -> None:
    from prn_cli.rasters import Reading, open_map

    with open_map("scores", path, Reading(band=1 if bands > 2 else None)) as scores:
        scores.logits()


def read_manifest(path: Path) -> None:
    """Read a manifest, and ask it for every output it names."""
    from prn_cli.errors import UsageError
    from prn_cli.files.manifest import Manifest

    manifest = Manifest(path.parent)
    job = manifest.job(inputs={"logits": path}, settings={}, outputs={"mask": path.parent / "a.png"})
    entry = manifest.finished(job)
    if entry is not None:
        entry["figures"].items()
    with contextlib.suppress(UsageError):
        manifest.refuse_strangers([path])


def load_onnx(path: Path) -> None:
    from prn_cli.methods import load_refiner
    from prn_cli.methods.weights import find_weights

    load_refiner(find_weights(str(path)), device="cpu", threads=1)


def seeds(name: str) -> Iterator[bytes]:
    """Small files as well-meaning tools write them."""
    import numpy as np

    draw = np.random.default_rng(0)
    logits = draw.standard_normal((20, 17)).astype(np.float32)
    logits[3:5, 4:9] = np.nan
    label = draw.integers(0, 2, (20, 17)).astype(np.uint8)
    if name == "tif":
        yield from _tiff_seeds(logits, label)
    elif name == "npy":
        for array in (logits, label, logits.astype(">f2"), np.asfortranarray(logits), np.stack([logits, logits])):
            file = io.BytesIO()
            np.save(file, array)
            yield file.getvalue()
    elif name == "npz":
        for save in (np.savez, np.savez_compressed):
            file = io.BytesIO()
            save(file, logits, allow_pickle=False)
            yield file.getvalue()
        file = io.BytesIO()
        np.savez(file, probabilities=np.stack([1 - label, label]).astype(np.float32))
        yield file.getvalue()
        for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
            with zipfile.ZipFile(file := io.BytesIO(), "w", method) as archive:
                inner = io.BytesIO()
                np.save(inner, label)
                archive.writestr("a.npy", inner.getvalue())
            yield file.getvalue()
    elif name == "png":
        from PIL import Image

        pictures = [Image.fromarray(label * 255), Image.fromarray(label.astype(np.uint16) * 60000)]
        pictures += [pictures[0].convert(mode) for mode in ("1", "P", "LA", "RGB", "RGBA")]
        for picture in pictures:
            file = io.BytesIO()
            picture.save(file, "PNG")
            yield file.getvalue()
        file = io.BytesIO()
        pictures[0].save(file, "PNG", transparency=127)
        yield file.getvalue()
    elif name == "jpg":
        from PIL import Image

        picture = Image.fromarray(label * 255)
        for mode, options in (("L", {}), ("RGB", {}), ("RGB", {"progressive": True}), ("CMYK", {})):
            file = io.BytesIO()
            picture.convert(mode).save(file, "JPEG", **options)
            yield file.getvalue()
    elif name == "manifest":
        entry = {
            "inputs": {"logits": {"path": "/a.npy", "size": 3, "mtime_ns": 5}},
            "settings": {"threshold": 0.5},
            "outputs": {"mask": {"path": "a.png", "size": 7}},
            "figures": {"height": 3},
            "seconds": 0.1,
        }
        yield json.dumps(entry).encode() + b"\n" + b'{"begun": ["a.png"]}\n'
    elif name == "onnx":
        import importlib.util

        tests = Path(__file__).resolve().parent.parent / "tests" / "conftest.py"
        spec = importlib.util.spec_from_file_location("conftest", tests)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module.onnx_bytes()


def _tiff_seeds(logits: object, label: object) -> Iterator[bytes]:
    import numpy as np
    import tifffile

    floats, masks = np.asarray(logits), np.asarray(label)
    nodata = (42113, 2, 0, "-9999", True)
    scale, tiepoints = (33550, 12, 3, (1.0, 1.0, 0.0), True), (33922, 12, 6, (0.0, 0, 0, 5, 6, 0), True)
    keys = (34735, 3, 8, (1, 1, 0, 1, 1025, 0, 1, 2), True)
    metadata = (42112, 2, 0, "<GDALMetadata><Item name='a'>b</Item><Item sample='0'>c</Item></GDALMetadata>", True)
    for array, options in [
        (floats, {}),
        (floats, {"extratags": [nodata, scale, tiepoints, keys, metadata]}),
        (floats, {"tile": (16, 16), "compression": "zlib", "predictor": True}),
        (floats, {"tile": (16, 16), "compression": "zstd", "bigtiff": True}),
        (floats.astype(np.float16), {"compression": "lzw", "byteorder": ">"}),
        (masks, {"compression": "packbits", "rowsperstrip": 3}),
        (masks, {"compression": "lzma"}),
        (masks * 255, {"compression": "jpeg"}),
        (masks, {"compression": "lerc"}),
        (masks > 0, {}),
        (np.stack([floats, floats]), {"photometric": "minisblack", "planarconfig": "separate"}),
        (np.stack([masks, masks * 255], -1), {"photometric": "minisblack", "extrasamples": ["unassalpha"]}),
        (np.stack([floats, floats, floats]), {"photometric": "minisblack"}),
    ]:
        file = io.BytesIO()
        tifffile.imwrite(file, array, metadata=None, **options)
        yield file.getvalue()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
