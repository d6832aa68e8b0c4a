from __future__ import annotations

import json
from pathlib import Path

import pytest

from prn_cli.errors import WeightsError
from prn_cli.methods import weights
from prn_cli.methods.weights import find_tensors, find_weights, sha256_of, shipped


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of shipped weights: `fast`, and `gone`, which is listed but missing."""
    (tmp_path / "fast.onnx").write_bytes(b"a network")
    digest = sha256_of(tmp_path / "fast.onnx")
    files = {"onnx": {"file": "fast.onnx", "sha256": digest}, "safetensors": {"file": "fast.safetensors"}}
    card = {"files": files, "network": "fast", "description": "the default"}
    gone = {"files": {"onnx": {"file": "gone.onnx", "sha256": "0"}}}
    (tmp_path / "manifest.json").write_text(json.dumps({"weights": {"fast": card, "gone": gone}}))
    monkeypatch.setattr(weights, "weights_folder", lambda: tmp_path)
    return tmp_path


def test_shipped_weights_are_found_by_name_and_described(folder):
    found = find_weights("fast")
    assert (found.name, found.path, found.network, found.description) == (
        "fast",
        folder / "fast.onnx",
        "fast",
        "the default",
    )
    assert [entry.name for entry in shipped()] == ["fast", "gone"]


def test_a_wrong_sha256_is_refused_with_both(folder):
    (folder / "fast.onnx").write_bytes(b"another network")
    recorded = shipped()[0].sha256
    with pytest.raises(WeightsError, match=rf"sha256 is [0-9a-f]{{64}}, expected {recorded}"):
        find_weights("fast")


def test_an_unknown_name_lists_the_known_ones(folder):
    with pytest.raises(WeightsError, match=r"no weights named 'quick', expected one of 'fast', 'gone'"):
        find_weights("quick")


def test_listed_but_missing(folder):
    with pytest.raises(WeightsError, match="missing"):
        find_weights("gone")


def test_a_copy_of_shipped_weights_is_what_they_are(folder, tmp_path):
    copy = tmp_path / "elsewhere" / "copy.onnx"
    copy.parent.mkdir()
    copy.write_bytes(b"a network")
    found = find_weights(str(copy))
    assert (found.name, found.path, found.card) == (str(copy), copy, find_weights("fast").card)


def test_a_path_needs_no_card_but_a_card_beside_it_is_believed(folder, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    model = run / "model.onnx"
    model.write_bytes(b"mine")
    assert find_weights(str(model)).sha256 == sha256_of(model)
    card = {"files": {"onnx": {"file": "model.onnx", "sha256": sha256_of(model)}}, "network": "paper"}
    (run / "model.json").write_text(json.dumps(card))
    assert find_weights(str(run)).network == "paper"
    model.write_bytes(b"changed")
    with pytest.raises(WeightsError, match="damaged, or changed"):
        find_weights(str(run))
    (run / "model.json").write_text("{")
    with pytest.raises(WeightsError, match="JSON"):
        find_weights(str(run))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("published.th", "prn weights import"),
        ("published.pth", "prn weights import"),
        ("model.safetensors", "prn weights export"),
    ],
)
def test_files_of_other_kinds_get_a_hint(folder, tmp_path, name, message):
    path = tmp_path / name
    path.write_bytes(b"x")
    with pytest.raises(WeightsError, match=message):
        find_weights(str(path))


def test_safetensors_beside_their_onnx(folder, tmp_path):
    (tmp_path / "fast.safetensors").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"use .*fast\.onnx"):
        find_weights(str(tmp_path / "fast.safetensors"))


@pytest.mark.parametrize("name", ["model.json", "state.safetensors"])
def test_what_else_lies_in_a_run_names_its_network(folder, tmp_path, name):
    (tmp_path / name).write_bytes(b"{}")
    if name.endswith(".json"):
        with pytest.raises(WeightsError) as caught:
            find_weights(str(tmp_path / name))
        assert caught.value.hint == "name an .onnx file"
    (tmp_path / "model.onnx").write_bytes(b"a network")
    with pytest.raises(WeightsError) as caught:
        find_weights(str(tmp_path / name))
    assert caught.value.hint == f"use {tmp_path / 'model.onnx'}"


@pytest.mark.parametrize("path", ["no/such/model.onnx", "missing.onnx"])
def test_a_missing_path_is_named(folder, path):
    with pytest.raises(WeightsError, match="no such file"):
        find_weights(path)


def test_a_folder_without_a_model(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"no model\.onnx"):
        find_weights(str(tmp_path / "empty"))


@pytest.mark.parametrize("content", ["[]", "{", '{"weights": []}', '{"weights": {"fast": 3}}'])
def test_a_damaged_manifest_is_one_plain_error(folder, content):
    (folder / "manifest.json").write_text(content)
    with pytest.raises(WeightsError, match=r"manifest\.json"):
        find_weights("fast")


def test_tensors_are_found_by_name_folder_and_beside_their_onnx(folder, tmp_path):
    tensors = folder / "fast.safetensors"
    with pytest.raises(WeightsError, match="'fast' are missing"):
        find_tensors("fast")
    with pytest.raises(WeightsError, match="'gone' have no safetensors") as caught:
        find_tensors("gone")
    assert caught.value.hint == "give one of 'fast'"
    tensors.write_bytes(b"tensors")
    assert (find_tensors("fast").path, find_tensors("fast").sha256) == (tensors, sha256_of(tensors))
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(WeightsError, match=r"no model\.safetensors"):
        find_tensors(str(run))
    (run / "model.onnx").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"cannot be trained on, expected safetensors"):
        find_tensors(str(run / "model.onnx"))
    model = run / "model.safetensors"
    model.write_bytes(b"mine")
    for path in (run, model, run / "model.onnx"):
        assert find_tensors(str(path)).path == model
    (run / "model.json").write_text(json.dumps({"files": {"safetensors": {"sha256": "0"}}}))
    with pytest.raises(WeightsError, match=r"sha256 is [0-9a-f]{64}, expected 0"):
        find_tensors(str(run))


def test_tensors_of_other_kinds_get_a_hint(folder, tmp_path):
    (tmp_path / "published.pth").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"expected safetensors.*prn weights import"):
        find_tensors(str(tmp_path / "published.pth"))
    with pytest.raises(WeightsError, match=r"no such file; check the path of --from"):
        find_tensors("missing.safetensors")
    with pytest.raises(WeightsError, match="no weights named 'quick'"):
        find_tensors("quick")
