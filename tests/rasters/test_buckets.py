"""Inputs in buckets of S3, from moto, which checks keys and signatures as S3 does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest

from prn_cli.errors import InputError
from prn_cli.files import gdal
from prn_cli.files.manifest import check_unchanged, stamp_inputs
from prn_cli.files.remote import as_path, state_of
from prn_cli.maps.tiles import Window
from prn_cli.rasters import open_raster

rasterio = pytest.importorskip("rasterio")
boto3 = pytest.importorskip("boto3")
pytest.importorskip("moto")

# A process of its own, of which each test sees what it has sent.
SERVER = """
from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

MotoRequestHandler.log_request = lambda *arguments: None
buckets = DomainDispatcherApplication(create_backend_app)
served = 0


def application(environ, start):
    if environ["PATH_INFO"] == "/served":
        start("200 OK", [])
        return [str(served).encode()]

    def counting(status, headers, *more):
        global served
        served += sum(int(size) for name, size in headers if name.lower() == "content-length")
        return start(status, headers, *more)

    return buckets(environ, counting)


server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=MotoRequestHandler)
print(server.server_port, flush=True)
server.serve_forever()
"""
REGION = "us-east-1"
HINT = "; check the address, the network and the rights"


@dataclass
class Buckets:
    url: str
    key: str
    secret: str

    def put(self, path: Path, name: str) -> None:
        """Put a file into the bucket `maps`."""
        self.client("s3").upload_file(str(path), "maps", name)

    def client(self, service: str):
        known = {"aws_access_key_id": self.key, "aws_secret_access_key": self.secret}
        return boto3.client(service, endpoint_url=self.url, region_name=REGION, **known)

    def served(self) -> int:
        """Bytes that were sent so far."""
        with urllib.request.urlopen(f"{self.url}/served") as answer:
            return int(answer.read())


@pytest.fixture(scope="module")
def server():
    """S3 with a bucket `maps`, for one user."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("no_proxy", "NO_PROXY"):
            patch.setenv(name, "127.0.0.1")
        with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as process:
            found = Buckets(f"http://127.0.0.1:{int(process.stdout.readline())}", "any", "any")
            iam = found.client("iam")
            iam.create_user(UserName="me")
            allowed = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
            policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
            iam.put_user_policy(UserName="me", PolicyName="all", PolicyDocument=policy)
            key = iam.create_access_key(UserName="me")["AccessKey"]
            found = Buckets(found.url, key["AccessKeyId"], key["SecretAccessKey"])
            found.client("s3").create_bucket(Bucket="maps")
            strict = f"{found.url}/moto-api/reset-auth"  # from here on keys and signatures are checked
            urllib.request.urlopen(urllib.request.Request(strict, b"0", {"Content-Type": "text/plain"})).close()
            yield found
            process.terminate()


@pytest.fixture
def buckets(server, tmp_path, monkeypatch, make_onnx):
    """The same, known to GDAL by the environment; with a model in the test's folder."""
    make_onnx()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_S3_ENDPOINT": server.url.removeprefix("http://"),
        "AWS_HTTPS": "NO",
        "AWS_VIRTUAL_HOSTING": "FALSE",
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": server.key,
        "AWS_SECRET_ACCESS_KEY": server.secret,
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }.items():
        monkeypatch.setenv(name, value)
    return server


def write(path: Path, logits: np.ndarray, **profile) -> Path:
    kind = {"driver": "GTiff", "height": logits.shape[0], "width": logits.shape[1], "count": 1, "dtype": "float32"}
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.5, 0.1, 4e5, 0.1, -0.5, 5e6)}
    with rasterio.open(path, "w", **kind, **place, **profile) as target:
        target.write(logits, 1)
    return path


def refine(folder: Path, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "prn_cli", "refine", *arguments, "-w", "model.onnx", "-j", "1", "--json"]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=600, input=stdin)


def statuses(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    return {record["input"]: record["status"] for record in map(json.loads, done.stdout.splitlines())}


def assert_same(ours: Path, theirs: Path) -> None:
    with rasterio.open(ours) as a, rasterio.open(theirs) as b:
        assert (a.crs, a.transform) == (b.crs, b.transform)
        assert a.crs.to_epsg() == 32633
        np.testing.assert_array_equal(a.read(1), b.read(1))


def test_masks_are_those_of_the_same_files_here(buckets, tmp_path, random_logits):
    (tmp_path / "here").mkdir()
    for number in range(2):
        path = write(tmp_path / f"here/map{number}.tif", random_logits(90, 80, seed=number))
        buckets.put(path, f"some/map{number}.tif")
    names = [f"s3://maps/some/map{number}.tif" for number in range(2)]
    assert refine(tmp_path, "here", "-o", "expected").returncode == 0
    done = refine(tmp_path, "-", "-o", "masks", stdin="\n".join(names))
    assert done.returncode == 0, done.stderr
    assert statuses(done) == dict.fromkeys(names, "refined")
    other = refine(tmp_path, "/vsis3/maps/some/map0.tif", "--like", names[1], "-o", "other")
    assert other.returncode == 0, other.stderr
    for made in ("masks/map0.tif", "masks/map1.tif", "other/map0.tif"):
        assert_same(tmp_path / made, tmp_path / "expected" / Path(made).name)


def test_what_cannot_be_read_fails_alone_with_its_cause_and_no_secret(buckets, tmp_path, random_logits, monkeypatch):
    good = write(tmp_path / "good.tif", random_logits(60, 70))
    (tmp_path / "text.tif").write_text("not a TIFF")
    for path in (good, tmp_path / "text.tif"):
        buckets.put(path, path.name)
    bad = {
        "s3://maps/none.tif": f"cannot be read: The specified key does not exist{HINT}",
        "s3://nobody/a.tif": f"cannot be read: The specified bucket does not exist{HINT}",
        "s3://maps/text.tif": "not recognized as being in a supported file format",
        "s3://maps/*.tif": "name each file: globs are for this machine",
        "s3://maps/some": "a remote name without a suffix, expected .tif or .tiff; name each file: folders are for",
        "s3://maps/b.npy": "a remote file that ends in '.npy', expected .tif or .tiff; download it first",
    }
    done = refine(tmp_path, "s3://maps/good.tif", *bad, "-o", "masks")
    assert done.returncode == 1
    assert statuses(done) == {"s3://maps/good.tif": "refined"}
    lines = [line for line in done.stderr.splitlines() if line.startswith("prn: error: s3://")]
    assert len(lines) == len(bad)
    for name, cause in bad.items():
        assert any(line.startswith(f"prn: error: {name}: ") and cause in line for line in lines), name


def test_who_may_not_read_is_told_so_without_a_secret(buckets, tmp_path, random_logits, monkeypatch):
    path = write(tmp_path / "a.tif", random_logits(60, 70))
    for number, (change, cause) in enumerate(
        (
            ({"AWS_SECRET_ACCESS_KEY": "topsecret"}, "signature we calculated does not match"),
            ({"AWS_ACCESS_KEY_ID": "other", "AWS_SESSION_TOKEN": "topsecret"}, "Key Id you provided does not exist"),
            ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "AWS_NO_SIGN_REQUEST configuration options not"),
            ({"AWS_NO_SIGN_REQUEST": "YES"}, "403"),
            ({"AWS_S3_ENDPOINT": "127.0.0.1:1"}, "connect to"),
        )
    ):
        buckets.put(path, f"refused{number}.tif")
        with monkeypatch.context() as patch:
            for name, value in change.items():
                patch.setenv(name, value)
            with pytest.raises(InputError, match=cause) as refused:
                open_raster(f"s3://maps/refused{number}.tif")
            if not number:
                done = refine(tmp_path, f"s3://maps/refused{number}.tif", "-o", "masks", "--verbose")
                assert done.returncode == 1
                assert f"prn: error: s3://maps/refused{number}.tif: cannot be read: The request {cause}" in done.stderr
                assert "topsecret" not in done.stdout + done.stderr
        said = str(refused.value)
        assert said.startswith(f"s3://maps/refused{number}.tif: cannot be read: ")
        assert said.endswith(HINT)
        assert "secret" not in said.lower().replace("aws_secret_access_key", "")
        assert buckets.secret not in said


def test_an_object_that_is_replaced_is_done_again(buckets, tmp_path, random_logits):
    """By another of the same size, which may come within the same second."""
    name = "s3://maps/replaced.tif"
    first, second = (write(tmp_path / f"{seed}.tif", random_logits(60, 70, seed=seed)) for seed in range(2))
    assert first.stat().st_size == second.stat().st_size
    masks = set()
    for path, expected in ((first, "refined"), (None, "kept"), (second, "refined")):
        if path is not None:
            buckets.put(path, "replaced.tif")
        done = refine(tmp_path, name, "-o", "masks")
        assert statuses(done) == {name: expected}, done.stderr
        masks.add((tmp_path / "masks/replaced.tif").read_bytes())
    assert len(masks) == 2


def test_an_object_that_is_replaced_while_it_is_read_is_seen(buckets, tmp_path, random_logits):
    path = as_path("s3://maps/busy.tif")
    first, second = (write(tmp_path / f"{seed}.tif", random_logits(60, 70, seed=seed)) for seed in range(2))
    buckets.put(first, "busy.tif")
    stamps = stamp_inputs({"logits": path})
    check_unchanged(stamps)
    buckets.put(second, "busy.tif")
    with pytest.raises(InputError, match=r"^s3://maps/busy.tif: changed while it was read; run again"):
        check_unchanged(stamps)


def test_of_a_large_file_only_parts_are_read(buckets, tmp_path, random_logits):
    path = write(tmp_path / "large.tif", random_logits(2048, 2048), tiled=True, blockxsize=256, blockysize=256)
    buckets.put(path, "large.tif")
    before = buckets.served()
    window = Window(700, 900, 200, 300)
    with open_raster("s3://maps/large.tif") as remote, open_raster(path) as local:
        np.testing.assert_array_equal(remote.read(window), local.read(window))
    assert 0 < buckets.served() - before < path.stat().st_size / 5


def test_archives_in_buckets(buckets, tmp_path, random_logits):
    path = write(tmp_path / "a.tif", random_logits(60, 70))
    with ZipFile(tmp_path / "maps.zip", "w") as archive:
        archive.write(path, "in/a.tif")
    buckets.put(tmp_path / "maps.zip", "maps.zip")
    name = as_path("/vsizip//vsis3/maps/maps.zip/in/a.tif")
    with open_raster(name) as remote, open_raster(path) as local:
        np.testing.assert_array_equal(remote.read(), local.read())
    assert state_of(name) == state_of(as_path("s3://maps/maps.zip"))
    assert state_of(name).size == (tmp_path / "maps.zip").stat().st_size


def test_buckets_without_a_way_to_ask_are_as_their_name(buckets, tmp_path, random_logits, monkeypatch):
    """As on Windows."""
    buckets.put(write(tmp_path / "a.tif", random_logits(60, 70)), "unknown.tif")
    path = as_path("s3://maps/unknown.tif")
    assert state_of(path).tag
    monkeypatch.setattr(gdal, "_library", lambda: None)
    assert state_of(path) == (0, 0, "")
    with open_raster(path) as raster:
        assert raster.read().shape == (1, 60, 70)
