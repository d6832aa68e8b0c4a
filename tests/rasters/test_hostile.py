"""Files made to exhaust memory or time, or to run code: each ends in one plain error, at once."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from prn_cli.errors import InputError, PrnError
from prn_cli.maps.tiles import Window
from prn_cli.rasters import Reading, limits, open_map, open_raster, read_label
from prn_cli.rasters.coded import jpeg_pixels, lerc_pixels, webp_pixels

FOUND = sorted((Path(__file__).parent / "hostile").iterdir())

MEMORY_MIB = 600
SECONDS = 3.0  # of the processor

# Reads files by every road, in a process of its own, and tells what became of each, how long it took, and what memory.
READER = """
import json, resource, sys, time
from prn_cli.errors import PrnError
from prn_cli.rasters import Reading, open_map, open_raster, read_label
from prn_cli.maps.tiles import Window
import imagecodecs, tifffile, PIL.Image

def windows(path):
    with open_raster(path) as raster:
        h, w = min(raster.height, 64), min(raster.width, 64)
        for y, x in ((0, 0), (raster.height - h, raster.width - w)):
            raster.read(Window(y, x, h, w))
            raster.valid(Window(y, x, h, w))

def scores(path):
    with open_map("scores", path, Reading(band=1)) as opened:
        opened.logits(Window(0, 0, 1, 1))

def classes(path):
    with open_map("class scores", path, Reading(kind="logits")) as opened:
        opened.logits(Window(0, 0, 1, 1))

def image(path):
    with open_map("image", path, shape=(64, 64)) as opened:
        opened.read(Window(0, 0, 1, 1))

def peak():
    # In MiB, where the system tells a process's own; getrusage counts what its parent had when it was started.
    try:
        lines = open("/proc/self/status").read().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

for path in sys.argv[1:]:
    for road in (windows, scores, classes, image, read_label):
        began, said = time.process_time(), ""
        try:
            road(path)
        except PrnError as error:
            said = str(error)
        memory = peak()
        print(json.dumps([path, road.__name__, said, time.process_time() - began, memory]), flush=True)
"""


def read_all(*paths: Path) -> None:
    """Read files and check that each ended in numbers or one line, soon and small."""
    import json

    done = subprocess.run(
        [sys.executable, "-c", READER, *map(str, paths)], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 5 * len(paths)
    for path, road, said, seconds, memory in lines:
        assert "\n" not in said
        assert seconds < SECONDS, (path, road, said)
        assert memory < MEMORY_MIB, (path, road, said)


def test_what_the_fuzzer_found():
    assert FOUND
    read_all(*FOUND)


# TIFF


def tiff(entries: list[tuple[int, int, int, int]], *, following: int = 0, tail: bytes = b"") -> bytes:
    """A classic TIFF of one page with these tags (code, type, count, value or offset)."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + struct.pack("<I", following) + tail


def page(height: int, width: int, *, bits: int = 8, offset: int = 8, size: int = 8) -> list[tuple[int, int, int, int]]:
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: offset, 277: 1, 278: height, 279: size}
    return [(code, 4, 1, value) for code, value in tags.items()]


def written(array: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, metadata=None, **options)
    return file.getvalue()


def shared_strips(height: int, width: int, rows: int) -> bytes:
    """Uncompressed, and all strips are one: a map of any size in the bytes of a strip."""
    strips = -(-height // rows)
    start = 8 + 2 + 12 * 9 + 4
    data = start + 8 * strips
    entries = [tag for tag in page(height, width) if tag[0] not in (273, 278, 279)]
    entries += [(278, 4, 1, rows), (273, 4, strips, start), (279, 4, strips, start + 4 * strips)]
    tail = struct.pack(f"<{strips}I", *[data] * strips) + struct.pack(f"<{strips}I", *[rows * width] * strips)
    return tiff(entries, tail=tail + bytes(range(2)) * (rows * width // 2))


def deflated_zeros(mebibytes: int) -> bytes:
    packer = zlib.compressobj(9)
    first = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + again * (mebibytes - 1) + packer.flush()


def deflated_strip(side: int) -> bytes:
    """One strip of zeros, well packed."""
    packed = deflated_zeros(side * side >> 20)
    start = 8 + 2 + 12 * 9 + 4
    entries = [tag for tag in page(side, side, offset=start, size=len(packed)) if tag[0] != 259]
    return tiff([*entries, (259, 4, 1, 8)], tail=packed)


def claims_of(coded: bytes, compression: int) -> bytes:
    """A small tile that holds a coded picture of another size."""
    start = 8 + 2 + 12 * 9 + 4
    entries = [tag for tag in page(32, 32, offset=start, size=len(coded)) if tag[0] != 259]
    return tiff([*entries, (259, 4, 1, compression)], tail=coded)


def jpeg(height: int, width: int) -> bytes:
    import imagecodecs

    whole = bytearray(imagecodecs.jpeg8_encode(np.zeros((32, 32), np.uint8)))
    at = whole.index(b"\xff\xc0") + 5
    whole[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(whole)


def lerc(height: int, width: int) -> bytes:
    import imagecodecs

    whole = bytearray(imagecodecs.lerc_encode(np.zeros((32, 32), np.uint8)))
    whole[14:22] = struct.pack("<ii", height, width)
    return bytes(whole)


def webp(height: int, width: int) -> bytes:
    import imagecodecs

    whole = bytearray(imagecodecs.webp_encode(np.zeros((32, 32, 3), np.uint8), lossless=False))
    at = whole.index(b"\x9d\x01\x2a") + 3
    whole[at : at + 4] = struct.pack("<HH", width, height)
    return bytes(whole)


SMALL = np.arange(1024, dtype=np.uint8).reshape(32, 32) % 2

HOSTILE_TIFFS: dict[str, tuple[Callable[[], bytes], str]] = {
    "terabytes": (lambda: tiff(page(2**31 - 1, 2**31 - 1, bits=32)), "truncated|pixels out of"),
    "offset beyond": (lambda: tiff(page(4, 4, offset=2**32 - 9, size=16)), "truncated"),
    "size beyond": (lambda: tiff(page(4, 4, size=2**32 - 1)), "truncated"),
    "loop of one": (lambda: tiff(page(2, 2), following=8), "pages form a loop"),
    "next page is the header": (lambda: tiff(page(2, 2), following=2), "damaged"),
    "next page beyond": (lambda: tiff(page(2, 2), following=2**31), "damaged: a page is missing"),
    "tags of gigabytes": (lambda: tiff([*page(2, 2), (270, 2, 2**32 - 1, 8)]), "tags claim"),
    "tags that overlap": (lambda: tiff([*page(2, 2), *[(700, 1, 5000, 8)] * 900], tail=bytes(9000)), "tags claim"),
    "many tags": (lambda: tiff([(700, 1, 1, 1)] * 5000), "a page of 5000 tags"),
    "shared strips": (lambda: shared_strips(60_000, 60_000, 2), "out of"),
    "deflate bomb": (lambda: deflated_strip(25_000), "out of|in one piece"),
    "jpeg in a tile": (lambda: claims_of(jpeg(65_500, 65_500), 7), "which its place cannot hold"),
    "lerc in a tile": (lambda: claims_of(lerc(100_000, 100_000), 34887), "which its place cannot hold"),
    "webp in a tile": (lambda: claims_of(webp(16_383, 16_383), 50001), "which its place cannot hold"),
    "no lerc": (lambda: claims_of(b"CntZImage " + bytes(90), 34887), "which its place cannot hold"),
    "jpeg 2000": (lambda: claims_of(b"\0\0\0\x0cjP  ", 34712), "compression 34712, which prn does not read"),
    "jpeg xl": (lambda: claims_of(b"\xff\x0a", 50002), "compression 50002, which prn does not read"),
    "big and mad": (lambda: b"II+\0\x08\0\0\0" + b"\xff" * 8, "damaged"),
    "many pages": (
        lambda: b"II*\0" + struct.pack("<I", 8) + b"".join(struct.pack("<HI", 0, 14 + 6 * i) for i in range(5000)),
        "more than 4096 pages",
    ),
}


@pytest.mark.parametrize("name", HOSTILE_TIFFS)
def test_a_hostile_tiff_is_one_plain_error(tmp_path, name):
    make, message = HOSTILE_TIFFS[name]
    path = tmp_path / "a.tif"
    path.write_bytes(make())
    began = time.process_time()
    with pytest.raises(InputError, match=message), open_raster(path) as raster:
        raster.read(Window(0, 0, min(raster.height, 32), min(raster.width, 32)))
    assert time.process_time() - began < SECONDS


def test_hostile_tiffs_cost_little_by_any_road(tmp_path):
    paths = []
    for name, (make, _) in HOSTILE_TIFFS.items():
        paths.append(tmp_path / f"{name}.tif")
        paths[-1].write_bytes(make())
    read_all(*paths)


def test_coders_are_asked_rightly():
    import imagecodecs

    assert jpeg_pixels(imagecodecs.jpeg8_encode(np.zeros((33, 57), np.uint8))) == 33 * 57
    for lossless in (False, True):
        assert webp_pixels(imagecodecs.webp_encode(np.zeros((33, 57, 3), np.uint8), lossless=lossless)) == 33 * 57
    assert webp_pixels(imagecodecs.webp_encode(np.zeros((33, 57, 4), np.uint8))) == 33 * 57
    assert lerc_pixels(imagecodecs.lerc_encode(np.zeros((33, 57), np.float32))) == 33 * 57
    assert jpeg_pixels(b"") == webp_pixels(b"RIFF") == lerc_pixels(b"Lerc2 ") == 0


def test_metadata_that_grows_is_left_out(tmp_path):
    laughs = "".join(f"<!ENTITY a{i + 1} '{f'&a{i};' * 10}'>" for i in range(9))
    xml = f"<!DOCTYPE G [<!ENTITY a0 'ha'>{laughs}]><GDALMetadata><Item name='x'>&a9;</Item></GDALMetadata>"
    for text in (xml, "<a>" * 100_000, "\ufeff<a/>", "<?xml version='1.0' encoding='nonsense'?><a/>"):
        content = written(SMALL, extratags=[(42112, 2, 0, text.encode(), True)])
        (tmp_path / "a.tif").write_bytes(content)
        with open_raster(tmp_path / "a.tif") as raster:
            assert raster.geo is None
            np.testing.assert_array_equal(raster.read()[0], SMALL)


def test_a_world_file_that_never_ends_is_passed_over_or_named(tmp_path):
    (tmp_path / "a.tif").write_bytes(written(SMALL))
    os.mkfifo(tmp_path / "a.tfw")
    with open_raster(tmp_path / "a.tif") as raster:
        assert raster.geo is None
    for name, text in (("a.wld", "1\n0\n0\nnan\n1\n1\n"), ("a.tifw", "1\n" * 1_000_000)):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=rf"{name}: expected six lines, each with a number"):
            open_raster(tmp_path / "a.tif")


# NumPy


class Payload:
    def __reduce__(self):
        return os.mkdir, (os.environ["PRN_TEST_PAYLOAD"],)


def test_pickles_never_run(tmp_path, monkeypatch):
    monkeypatch.setenv("PRN_TEST_PAYLOAD", str(tmp_path / "it-ran"))
    array = np.array([[Payload()]], object)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", array)
    np.savez(tmp_path / "b.npz", np.ones((2, 2)), other=array)
    with pytest.raises(InputError, match="pickled"):
        open_raster(tmp_path / "a.npy")
    with pytest.raises(InputError, match="pickled"):
        open_raster(tmp_path / "a.npz")
    with pytest.raises(PrnError):
        open_map("scores", tmp_path / "b.npz", Reading(key="other"))
    assert not (tmp_path / "it-ran").exists()


def npy(header: str, version: bytes = b"\x01\x00") -> bytes:
    length = len(header).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + length + header.encode("latin-1") + bytes(64)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000)}\n", "truncated"),
        ("{'descr': '<f4', 'fortran_order': True, 'shape': (9223372036854775807, 4)}\n", "truncated"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (4, -4)}\n", "no pixels"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 4.5)}\n", "not a .npy array"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (2, 2)}\n", "pickled"),
        ("{'descr': '<U9999999999', 'fortran_order': False, 'shape': (2, 2)}\n", "not a .npy array|numbers of type"),
        (
            "{'descr': [('a', '<f4', (1000000, 1000000))], 'fortran_order': False, 'shape': (2, 2)}\n",
            "numbers of type|not a .npy array",
        ),
        ("__import__('os').mkdir('it-ran')\n", "not a .npy array"),
        ("(" * 9000, "not a .npy array"),
        ("-" * 9000 + "1", "not a .npy array"),
        ("9" * 9000, "not a .npy array"),
        (" " * 60_000, "header of 60000 bytes"),
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_hostile_npy_headers(tmp_path, monkeypatch, header, message, suffix):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        path.write_bytes(npy(header))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.npy", npy(header))
        message = message.replace("truncated", "damaged").replace("a .npy array", "an .npz archive")
    with pytest.raises(InputError, match=message):
        open_raster(path)
    assert not Path("it-ran").exists()


def zip_bomb(path: Path, side: int) -> None:
    """Zeros that pack well, and more of them claimed than there are."""
    start = io.BytesIO()
    np.lib.format.write_array_header_1_0(start, {"descr": "|u1", "fortran_order": False, "shape": (side, side)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", start.getvalue() + bytes(1 << 20))
    claim_size(path, len(start.getvalue()) + side * side)


def claim_size(path: Path, size: int) -> None:
    """Change what an archive says of its member's size."""
    whole = bytearray(path.read_bytes())
    at = whole.index(b"PK\x01\x02") + 24
    whole[at : at + 4] = struct.pack("<I", size)
    path.write_bytes(whole)


def test_zip_bombs(tmp_path):
    zip_bomb(tmp_path / "a.npz", 16_000)
    with (
        open_map("scores", tmp_path / "a.npz", Reading(kind="byte")) as scores,
        pytest.raises(InputError, match="or damaged"),
    ):
        scores.logits(Window(0, 0, 1, 1))
    zip_bomb(tmp_path / "b.npz", 24_000)
    with pytest.raises(InputError, match="24000×24000 pixels out of"):
        open_raster(tmp_path / "b.npz")
    np.savez_compressed(tmp_path / "c.npz", np.zeros((20, 20), np.uint8))
    claim_size(tmp_path / "c.npz", 2**32 - 2)
    with pytest.raises(InputError, match="has 4294967294 bytes"):
        open_raster(tmp_path / "c.npz")
    read_all(*(tmp_path / f"{name}.npz" for name in "abc"))


# PNG


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(height: int, width: int, data: bytes, *, bits: int = 8, more: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_png_bombs(tmp_path):
    rows = zlib.compress(bytes(33 * 32))
    zeros = deflated_zeros(500)
    second = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0))
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200 << 20)))
    cases = {
        "claim": (png(100_000, 100_000, rows), "cannot hold 100000×100000 pixels"),
        "zeros": (png(22_000, 22_000, zeros), "out of"),
        "bits": (png(60_000, 60_000, zeros, bits=1), "out of"),
        "two headers": (png(32, 32, rows, more=second), "two headers|damaged"),
        "text": (png(32, 32, rows, more=text), "not a PNG, or damaged"),
    }
    paths = []
    for name, (content, message) in cases.items():
        paths.append(tmp_path / f"{name}.png")
        paths[-1].write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_label(paths[-1])
    read_all(*paths)


def test_jpeg_bombs(tmp_path):
    whole = jpeg(32, 32)
    cases = {
        "claim": (jpeg(60_000, 60_000), "out of"),
        "cut": (whole[: len(whole) // 2], "not a JPEG, or damaged"),
        "header": (whole[:4] + b"\xff" * 200, "not a JPEG, or damaged"),
        "none": (b"\xff\xd8\xff\xe0 no picture", "not a JPEG, or damaged"),
    }
    paths = []
    for name, (content, message) in cases.items():
        paths.append(tmp_path / f"{name}.jpg")
        paths[-1].write_bytes(content)
        with pytest.raises(InputError, match=message), open_map("image", paths[-1]) as image:
            image.read(Window(0, 0, 1, 1))
    read_all(*paths)


# The limit


def test_honest_maps_pass_however_large(tmp_path):
    # 40,000 × 40,000 float32 as .npy, and of zeros in a deflated TIFF.
    limits.check_pixels(40_000, 40_000, 1, stored=6_400_000_000, path=tmp_path)
    limits.check_pixels(40_000, 40_000, 1, stored=6_400_000_000 // 1032, path=tmp_path)
    limits.check_pixels(1_000_000, 1_000_000, 1, stored=10**12 // 100, path=tmp_path)
    limits.check_pixels(16_384, 16_384, 1, stored=1, path=tmp_path)
    with pytest.raises(InputError, match=r"16385×16385 pixels out of 1 bytes.*--max-pixels 268468225"):
        limits.check_pixels(16_385, 16_385, 1, stored=1, path=tmp_path)


@pytest.fixture
def prn(tmp_path):
    def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "prn_cli", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, **options)

    return run


def test_max_pixels_is_an_option(tmp_path, prn):
    for name, array in (("masks", SMALL), ("labels", SMALL)):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "a.npy", array)
    assert prn("score", "masks", "--labels", "labels", "--max-pixels", "1024").returncode == 0
    done = prn("score", "masks", "--labels", "labels", "--max-pixels", "1023")
    assert done.returncode == 1
    assert "a.npy: 32×32 pixels, expected at most 1023 as --max-pixels says" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# Names


NAMES = [
    "a\nprn: 3 refined",
    "\x1b]0;owned\x07\x1b[2Jb",
    "..",
    "c\r\x9b31m",
    "\u202egnp",
    os.fsdecode(b"\xff\xfe"),
    " d",
    "-e",
]


def test_names_stay_names(tmp_path, prn):
    import json

    for folder in ("masks", "labels", "bad"):
        (tmp_path / folder).mkdir()
    for number, name in enumerate(NAMES):
        np.save(tmp_path / "masks" / f"x{name}{number}.npy", SMALL)
        np.save(tmp_path / "labels" / f"x{name}{number}.npy", SMALL)
        (tmp_path / "bad" / f"x{name}{number}.npy").write_bytes(b"")
        (tmp_path / "bad" / f"{name}.npy").write_bytes(b"")
    done = prn("score", "masks", "--labels", "labels", "--csv", "-")
    assert done.returncode == 0, done.stderr
    assert shown(done.stdout)
    assert len(done.stdout.splitlines()) == len(NAMES) + 1
    done = prn("score", *(f"bad/{name}.npy" for name in NAMES), "bad", "--labels", "labels", "--input-kind", "byte")
    assert done.returncode == 1
    assert shown(done.stderr)
    lines = [line for line in done.stderr.splitlines() if "have no label" not in line]
    assert lines
    assert all(line.startswith("prn: error: ") for line in lines)
    done = prn(
        "pseudolabel", "masks", "--labels", "labels", "--patch", "16", "--input-kind", "byte", "-o", "out/in", "-q"
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"masks", "labels", "bad", "out"}
    assert {path.stem for path in (tmp_path / "out" / "in" / "labels").iterdir()} == {
        f"x{name}{number}" for number, name in enumerate(NAMES)
    }
    from prn_cli.commands import console

    for name in NAMES:
        line = json.dumps(name, ensure_ascii=False)
        escaped = "".join(map(console._json_character, line))
        assert json.loads(escaped) == name
        assert shown(escaped)


def shown(text: str) -> bool:
    return all(character.isprintable() or character == "\n" for character in text)
