"""Remote inputs, from a server on this machine that knows byte ranges."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from prn_cli.errors import InputError
from prn_cli.files.remote import RemotePath, as_path, gdal_name, state_of, text_without_secrets, without_secrets
from prn_cli.maps.tiles import Window
from prn_cli.rasters import open_raster

rasterio = pytest.importorskip("rasterio")


# A process of its own: GDAL may wait for it with Python's lock in its hand.
SERVER = """
import re
from contextlib import suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

served = 0


class Ranges(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def send_head(self):  # of HEAD
        return None if self.refused() else super().send_head()

    def refused(self):
        refused = "private" in self.path and self.headers.get("Authorization") != "Basic bWU6c2VjcmV0"
        if refused:
            self.send_error(401)
        return refused

    def do_GET(self):
        global served
        if self.refused():
            return
        if self.path == "/served":
            self.answer(200, str(served).encode())
            return
        path = Path(self.translate_path(self.path.partition("?")[0]))
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\\d+)-(\\d*)", self.headers.get("Range", ""))
        first, last = (int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)) if asked else (0, len(data) - 1)
        if first >= len(data):
            self.send_error(416)
            return
        served += last + 1 - first
        changed = self.date_time_string(path.stat().st_mtime)
        place = {"Content-Range": f"bytes {first}-{last}/{len(data)}"} if asked else {}
        headers = place | {"Accept-Ranges": "bytes", "Last-Modified": changed}
        self.answer(206 if asked else 200, data[first : last + 1], headers)

    def answer(self, code, body, headers={}):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(ConnectionError):  # GDAL may have enough
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Ranges)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


@dataclass
class Server:
    root: Path
    url: str

    def served(self) -> int:
        """Bytes of files that were sent so far."""
        with urllib.request.urlopen(f"{self.url}/served") as answer:
            return int(answer.read())


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server that knows byte ranges; it serves the files of its `root`."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    root = tmp_path / "server"
    root.mkdir()
    with subprocess.Popen([sys.executable, "-c", SERVER], cwd=root, stdout=subprocess.PIPE, text=True) as process:
        yield Server(root, f"http://127.0.0.1:{int(process.stdout.readline())}")
        process.terminate()


def write(path: Path, values: np.ndarray, **profile) -> None:
    bands = values if values.ndim == 3 else values[None]
    kind = {"driver": "GTiff", "height": bands.shape[1], "width": bands.shape[2], "count": len(bands)}
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.5, 0.1, 4e5, 0.1, -0.5, 5e6)}
    with rasterio.open(path, "w", dtype=bands.dtype, **kind, **(place | profile)) as target:
        target.write(bands)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return prn(folder, "refine", *arguments, "-w", "model.onnx", "-j", "1", "--json")


def prn(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "prn_cli", *arguments]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize(
    ("name", "expected", "said"),
    [
        ("https://host/a/b.tif", "/vsicurl/https://host/a/b.tif", None),
        ("http://host:80/b.tif?sig=x/y.z", "/vsicurl/http://host:80/b.tif?sig=x/y.z", "http://host:80/b.tif"),
        ("https://me:word@host/b.tif?a@b", "/vsicurl/https://me:word@host/b.tif?a@b", "https://host/b.tif"),
        ("https://me:'w@rd'@host/b.tif", "/vsicurl/https://me:'w@rd'@host/b.tif", "https://host/b.tif"),
        ("https://host/@me/b.tif", "/vsicurl/https://host/@me/b.tif", None),
        ("s3://bucket/key/b.tif", "/vsis3/bucket/key/b.tif", None),
        ("gs://bucket/b.tif", "/vsigs/bucket/b.tif", None),
        ("az://box/b.tif", "/vsiaz/box/b.tif", None),
        ("/vsicurl/https://host/b.tif", "/vsicurl/https://host/b.tif", None),
        ("/vsicurl/https://me@host/b.tif", "/vsicurl/https://me@host/b.tif", "/vsicurl/https://host/b.tif"),
        ("/vsizip/data/maps.zip/b.tif", "/vsizip/data/maps.zip/b.tif", None),
        ("/vsizip//vsis3/box/maps.zip/b.tif", "/vsizip//vsis3/box/maps.zip/b.tif", None),
        (
            "/vsizip//vsicurl/https://me:word@host/maps.zip/b.tif",
            "/vsizip//vsicurl/https://me:word@host/maps.zip/b.tif",
            "/vsizip//vsicurl/https://host/maps.zip/b.tif",
        ),
        ("data/b.tif", None, None),
        ("/data/b.tif", None, None),
        ("ftp://host/b.tif", None, "ftp:/host/b.tif"),
        ("data/is it b?.tif", None, None),
    ],
)
def test_names(name, expected, said):
    path = as_path(name)
    assert gdal_name(name) == gdal_name(path) == gdal_name(Path(name)) == expected
    assert isinstance(path, RemotePath) == (expected is not None)
    assert str(path) == f"{path}" == without_secrets(path) == without_secrets(Path(name)) == (said or name)
    if expected is not None:
        assert os.fspath(path) == os.fspath(path.resolve()) == name
        assert (path.stem, path.suffix) == ("b", ".tif")
        assert pickle.loads(pickle.dumps(path)) == path != as_path(f"{name}?other")


def test_an_address_of_nothing_is_a_name_as_any_other():
    assert str(as_path("s3://")) == "s3:"


def test_what_is_said_of_an_address_has_no_secrets():
    path = as_path("https://me:word@host/b.tif?sig=x y")
    said = "'/vsicurl/https://me:word@host/b.tif?sig=x y' went to https://you:word@other/c.tif?X-Sig=z@y, and is gone?"
    assert text_without_secrets(said, path) == "'/vsicurl/https://host/b.tif' went to https://other/c.tif and is gone?"
    assert str(InputError("is gone", path=path)) == "https://host/b.tif: is gone"


def test_archives_of_this_machine_have_their_absolute_path_and_their_state(tmp_path, monkeypatch):
    (tmp_path / "maps.zip").write_bytes(b"abc")
    path = as_path(f"/vsizip/{tmp_path / 'maps.zip'}/in/b.tif")
    assert gdal_name(path) == f"/vsizip/{tmp_path / 'maps.zip'}/in/b.tif"
    assert state_of(path) == (3, (tmp_path / "maps.zip").stat().st_mtime_ns, "")
    monkeypatch.chdir(tmp_path)
    assert gdal_name(as_path("/vsizip/maps.zip/b.tif")) == "/vsizip/maps.zip/b.tif"
    assert state_of(as_path("/vsizip/maps.zip/b.tif")) == state_of(path)


def test_windows_are_those_of_the_file_and_cost_what_they_need(server, random_logits):
    logits = random_logits(2048, 2048)
    path = server.root / "a.tif"
    write(path, logits, tiled=True, blockxsize=256, blockysize=256)
    window = Window(700, 900, 200, 300)
    with open_raster(f"{server.url}/a.tif") as remote, open_raster(path) as local:
        assert (remote.height, remote.width, remote.bands, remote.dtype) == (2048, 2048, 1, np.float32)
        np.testing.assert_array_equal(remote.read(window), local.read(window))
        assert server.served() < path.stat().st_size / 5
        with pytest.raises(ValueError, match="not inside"):
            remote.read(Window(2000, 0, 100, 10))


@pytest.mark.parametrize("case", ["nodata", "bands", "alpha", "mask", "scaled", "nowhere", "points"])
def test_what_a_remote_file_says_is_what_the_same_file_says_here(server, random_logits, case):
    logits = random_logits(60, 70)
    path = server.root / f"{case}.tif"
    invalid = np.zeros((60, 70), bool)
    invalid[5:20, 8:30] = True
    if case == "nodata":
        write(path, np.where(invalid, -9999, logits).astype(np.float32), nodata=-9999)
    elif case == "bands":
        write(path, np.stack([logits, -logits]).astype(np.float16).astype(np.float32), interleave="band")
    elif case == "alpha":
        grey = np.stack([np.full((60, 70), 9), np.where(invalid, 0, 255)]).astype(np.uint8)
        write(path, grey, photometric="minisblack", alpha="unspecified")
    elif case == "mask":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            write(path, logits)
            with rasterio.open(path, "r+") as target:
                target.write_mask(~invalid)
    elif case == "scaled":
        write(path, logits)
        with rasterio.open(path, "r+") as target:
            target.offsets = (0.5,)
    elif case == "nowhere":
        write(path, logits, crs=None, transform=None)
    else:
        write(path, logits, crs=None, transform=None)
        points = [rasterio.control.GroundControlPoint(y, x, 13 + x, 52 - y) for y in (0, 60) for x in (0, 70)]
        with rasterio.open(path, "r+") as target:
            target.gcps = (points, "EPSG:4326")
    with open_raster(f"{server.url}/{case}.tif") as remote, open_raster(path) as local:
        assert (remote.bands, remote.nodata, remote.dtype) == (local.bands, local.nodata, local.dtype)
        assert remote.scaled is local.scaled is (case == "scaled")
        np.testing.assert_array_equal(remote.read(), local.read())
        ours, theirs = remote.valid(), local.valid()
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_array_equal(ours, theirs)
            np.testing.assert_array_equal(ours, ~invalid)
        assert (remote.geo is None) == (local.geo is None)


def test_a_mask_beside_a_remote_file_is_not_looked_for(server, random_logits):
    """As the documentation says: every map without a mask would cost requests for one."""
    path = server.root / "a.tif"
    write(path, random_logits(60, 70))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as target:
        target.write_mask(np.zeros((60, 70), bool))
    assert (server.root / "a.tif.msk").is_file()
    with open_raster(f"{server.url}/a.tif") as remote, open_raster(path) as local:
        assert remote.valid() is None
        assert not local.valid().any()


def test_refining_remote_maps(server, tmp_path, make_onnx, random_logits):
    make_onnx()
    for number in range(2):
        write(
            server.root / f"map{number}.tif",
            random_logits(90, 80, seed=number),
            tiled=True,
            blockxsize=64,
            blockysize=64,
        )
    addresses = [f"{server.url}/map{number}.tif" for number in range(2)]
    here = run(tmp_path, "server", "-o", "here")
    assert here.returncode == 0, here.stderr
    done = run(tmp_path, *addresses, f"{addresses[0]}x/none.tif", "-o", "masks", "--polygons", "layer.gpkg")
    assert done.returncode == 1
    assert "none.tif: cannot be read: " in done.stderr
    assert "check the address, the network and the rights" in done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(record["input"] for record in records) == addresses
    for number in range(2):
        with (
            rasterio.open(tmp_path / f"masks/map{number}.tif") as ours,
            rasterio.open(tmp_path / f"here/map{number}.tif") as theirs,
        ):
            assert (ours.crs, ours.transform) == (theirs.crs, theirs.transform)
            np.testing.assert_array_equal(ours.read(1), theirs.read(1))
    # What has not changed on the server is kept.
    write(server.root / "map1.tif", random_logits(91, 80))
    again = run(tmp_path, *addresses, "-o", "masks", "--polygons", "layer.gpkg")
    statuses = {record["input"]: record["status"] for record in map(json.loads, again.stdout.splitlines())}
    assert statuses == {addresses[0]: "kept", addresses[1]: "refined"}


def test_signed_addresses_leave_no_signature(server, tmp_path, make_onnx, random_logits):
    make_onnx()
    write(server.root / "a.tif", random_logits(50, 60))
    for secret in ("?sig=first%2F", "?sig=second"):
        done = run(tmp_path, f"{server.url}/a.tif{secret}", "-o", "masks", "--polygons", "layer.geojson")
        assert done.returncode == 0, done.stderr
        features = json.loads((tmp_path / "layer.geojson").read_text())["features"]
        assert {feature["properties"]["source"] for feature in features} == {f"{server.url}/a.tif"}
    assert json.loads(done.stdout)["status"] == "kept"
    assert (tmp_path / "masks" / "a.tif").is_file()
    assert "sig=" not in (tmp_path / "masks" / "prn-manifest.jsonl").read_text()


def test_nothing_that_is_said_or_recorded_has_a_secret(server, tmp_path, make_onnx, random_logits):
    make_onnx()
    (server.root / "private").mkdir()
    write(server.root / "private/a.tif", random_logits(50, 60))
    (server.root / "text.tif").write_text("not a TIFF")
    (tmp_path / "labels").mkdir()
    write(tmp_path / "labels/a.tif", (random_logits(50, 60) > 0).astype(np.uint8))
    known = server.url.replace("//", "//me:secret@")
    signed = f"{known}/private/a.tif?X-Amz-Signature={'secret' * 80}"
    for option in ("--dry-run", "--verbose", "--verbose"):
        done = run(tmp_path, signed, f"{known}/none.tif?sig=secret", f"{known}/text.tif?sig=secret", "-o", "o", option)
        for name in ("none", "text") if option == "--verbose" else ():
            assert f"prn: error: {server.url}/{name}.tif: cannot be read: " in done.stderr
        assert f'"input": "{server.url}/private/a.tif"' in done.stdout
        assert "secret" not in done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[0])["status"] == "kept"
    assert "secret" not in (tmp_path / "o/prn-manifest.jsonl").read_text()
    for command in ("pseudolabel", "score"):
        done = prn(tmp_path, command, signed, "--labels", "labels", "--report", f"{command}.html")
        assert done.returncode == 0, done.stderr
        assert "secret" not in done.stdout + done.stderr + (tmp_path / f"{command}.html").read_text()


@pytest.mark.parametrize(("scheme", "folder"), [("gs", "maps"), ("az", "me/maps")])
def test_buckets_of_other_clouds(server, random_logits, monkeypatch, scheme, folder):
    """Of which there is no more here than a server that asks nobody who they are."""
    account = "DefaultEndpointsProtocol=http;AccountName=me;AccountKey=c2VjcmV0"
    monkeypatch.setenv("CPL_GS_ENDPOINT", f"{server.url}/")
    monkeypatch.setenv("GS_NO_SIGN_REQUEST", "YES")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", f"{account};BlobEndpoint={server.url}/me")
    (server.root / folder).mkdir(parents=True)
    path = server.root / folder / "a.tif"
    write(path, random_logits(60, 70))
    os.utime(path, (1_700_000_000, 1_700_000_000))
    address = as_path(f"{scheme}://maps/a.tif")
    with open_raster(address) as remote, open_raster(path) as local:
        np.testing.assert_array_equal(remote.read(), local.read())
    assert state_of(address) == (path.stat().st_size, 1_700_000_000 * 10**9, "")
    os.utime(path, (1_700_000_001, 1_700_000_001))
    assert state_of(address).mtime_ns == 1_700_000_001 * 10**9
    path.unlink()
    assert state_of(address) == (0, 0, "")


def test_what_cannot_be_read_is_one_line(server):
    (server.root / "text.tif").write_text("not a TIFF")
    for name, message in (
        ("none.tif", "check the address"),
        ("text.tif", "check the address"),
        ("map.npy", "a remote file that ends in '.npy', expected .tif or .tiff; download it first"),
    ):
        with pytest.raises(InputError, match=re.escape(message)) as failure:
            open_raster(f"{server.url}/{name}")
        assert "\n" not in str(failure.value)
        assert str(failure.value).startswith(f"{server.url}/{name}: ")
        assert ".;" not in str(failure.value)


def test_a_server_that_sends_files_only_whole_is_named(server, random_logits):
    write(server.root / "a.tif", random_logits(300, 300))
    line = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    with subprocess.Popen(line, cwd=server.root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as plain:
        port = re.search(r"port (\d+)", plain.stdout.readline())[1]
        address = f"http://127.0.0.1:{port}"
        try:
            with pytest.raises(InputError) as whole:
                open_raster(f"{address}/a.tif")
            with pytest.raises(InputError, match=r"404; check the address") as none:
                open_raster(f"{address}/none.tif")
        finally:
            plain.terminate()
    cause = "its server sends files only whole, expected one that knows byte ranges; download it first"
    assert str(whole.value) == f"{address}/a.tif: {cause}"
    assert str(none.value).startswith(f"{address}/none.tif: cannot be read: ")
