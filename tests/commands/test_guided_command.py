"""`prn train --network fast --images` and `prn refine --images` as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prn_cli.commands import app
from prn_cli.methods import load_refiner
from prn_cli.methods.weights import find_weights
from prn_cli.rasters import open_raster
from prn_cli.refinement.rows import cut, refine_map

OPTIONS = (
    "--network",
    "fast",
    "--folds",
    "1",
    "--crop",
    "64",
    "--batch",
    "4",
    "--epochs",
    "3",
    "--steps",
    "25",
    "--rate",
    "5e-3",
    "--threads",
    "1",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six maps whose scores hardly tell the labels, which their images show; a run with images, and one without."""
    folder = tmp_path_factory.mktemp("guided")
    for name in ("logits", "labels", "images"):
        (folder / name).mkdir()
    random = np.random.default_rng(0)
    y, x = np.mgrid[:96, :112]
    for index in range(6):
        shape = np.sin(y / random.uniform(5, 9)) + np.sin(x / random.uniform(5, 9) + index) > 0.3
        image = np.where(shape, 150, 90)[..., np.newaxis] + random.normal(0, 9, (96, 112, 3))
        logits = 0.3 * (2 * shape - 1) + random.normal(0, 1, shape.shape)
        np.save(folder / "logits" / f"t{index}.npy", logits.astype(np.float32))
        Image.fromarray((shape * 255).astype(np.uint8)).save(folder / "labels" / f"t{index}.png")
        picture = Image.fromarray(image.clip(0, 255).astype(np.uint8))
        picture.save(folder / "images" / f"t{index}.{'jpg' if index % 2 else 'png'}")
    line = [sys.executable, "-m", "prn_cli", "train", *OPTIONS]
    for more in (("--images", "images", "-o", "run", "--json"), ("-o", "plain", "--epochs", "1", "--steps", "1")):
        done = subprocess.run([*line, *more], cwd=folder, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def folder(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    return trained


def refine(capsys: Any, *arguments: str) -> tuple[int, str]:
    try:
        code = app.run(["refine", *arguments, "-j", "1"])
    except SystemExit as end:
        code = int(end.code or 0)
    return code, capsys.readouterr().err


def test_an_image_without_a_valid_pixel_fails_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("logits", "labels", "images"):
        (tmp_path / name).mkdir()
    for number in range(4):
        np.save(tmp_path / "logits" / f"{number}.npy", np.random.default_rng(number).normal(size=(70, 70)))
        Image.fromarray(np.eye(70, dtype=np.uint8)).save(tmp_path / "labels" / f"{number}.png")
        np.save(tmp_path / "images" / f"{number}.npy", np.full((1, 70, 70), number if number else np.nan, np.float32))
    folders = ["--labels", str(tmp_path / "labels"), "--images", str(tmp_path / "images"), "-o", str(tmp_path / "run")]
    assert app.run(["train", str(tmp_path / "logits"), *folders, *OPTIONS, "--epochs", "1", "--steps", "1"]) == 1
    assert "0.npy: no valid pixel" in capsys.readouterr().err
    assert (tmp_path / "run" / "model.onnx").exists()


def test_refining_takes_no_image_without_a_valid_pixel(folder: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "images").mkdir()
    for number in range(3):
        picture = np.full((3, 96, 112), np.nan, np.float32)
        picture[:, 50:60] = (np.nan, 100, 100)[number]
        np.save(tmp_path / "images" / f"t{number}.npy", picture)
    maps = [f"logits/t{number}.npy" for number in range(3)]
    line = (*maps, "-o", str(tmp_path / "m"), "-w", "run", "--images", str(tmp_path / "images"))
    code, errors = refine(capsys, *line)
    assert code == 1
    assert f"{maps[0]}: {tmp_path}/images/t0.npy: no valid pixel; give another image, or leave it out" in errors
    assert sorted(path.name for path in (tmp_path / "m").glob("*.png")) == ["t1.png", "t2.png"]
    # Where nothing of the image goes into the mask, nothing is asked of it.
    assert refine(capsys, *line, "--strength", "0")[0] == 0


def test_what_only_the_image_shows_is_learned(folder: Path) -> None:
    card = json.loads((folder / "run" / "model.json").read_text())
    change = card["held_out_figures"]["pooled_iou"]["difference"][0]
    assert change > 0.15
    assert card["image_channels"] == "3"
    # Two levels of grey, 90 and 150, with noise.
    assert all(88 < float(value) < 152 for value in card["image_mean"].split())
    assert all(20 < float(value) < 60 for value in card["image_std"].split())


def test_masks_are_those_of_the_network_with_the_image(folder: Path, tmp_path: Path, capsys: Any) -> None:
    line = ("logits", "-o", str(tmp_path / "m"), "-w", "run", "--images", "images")
    code, errors = refine(capsys, *line, "--strength", "1", "--threshold", "0.5")
    assert code == 0, errors
    refiner = load_refiner(find_weights("run"), device="cpu", threads=1)
    assert refiner.needs.bands == 3
    for stem, suffix in (("t0", "png"), ("t1", "jpg")):
        logits = np.load(folder / "logits" / f"{stem}.npy")
        with Image.open(folder / "images" / f"{stem}.{suffix}") as file:
            image = np.asarray(file).transpose(2, 0, 1).astype(np.float32)
        with open_raster(tmp_path / "m" / f"{stem}.png") as mask:
            np.testing.assert_array_equal(
                mask.read()[0] // 255, cut(refine_map(logits, refiner, image=image, strength=1), 0.5)
            )


def test_windows_and_turns_take_the_image_along(folder: Path) -> None:
    refiner = load_refiner(find_weights("run"), device="cpu", threads=1)
    random = np.random.default_rng(3)
    logits = random.standard_normal((700, 500)).astype(np.float32)
    image = random.uniform(0, 255, (3, 700, 500)).astype(np.float32)
    image[:, 200:240, :300] = np.nan
    whole = refine_map(logits, refiner, image=image, strength=1, tile=1024)
    assert np.isfinite(whole).all()
    scale = np.abs(whole - logits).max()
    # The halo is shorter than what the network sees, on purpose.
    assert np.abs(refine_map(logits, refiner, image=image, strength=1, tile=448) - whole).max() < 1e-2 * scale
    assert np.abs(refine_map(logits, refiner, image=image[:, ::-1].copy(), strength=1) - whole).max() > 0.1 * scale
    small, view = logits[:96, :80], image[:, :96, :80]
    turned = refine_map(np.rot90(small).copy(), refiner, image=np.rot90(view, axes=(1, 2)).copy(), tta=True, strength=1)
    np.testing.assert_allclose(
        turned, np.rot90(refine_map(small, refiner, image=view, tta=True, strength=1)), atol=1e-4 * float(scale)
    )


def test_a_changed_image_is_refined_again_and_a_missing_one_fails_alone(
    folder: Path, tmp_path: Path, capsys: Any
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for path in (folder / "images").iterdir():
        (images / path.name).write_bytes(path.read_bytes())
    line = ("logits", "-o", str(tmp_path / "m"), "-w", "run", "--images", str(images))
    assert refine(capsys, *line)[0] == 0
    with Image.open(images / "t2.png") as file:
        file.transpose(Image.Transpose.ROTATE_180).save(images / "t2.png")
    (images / "t3.jpg").unlink()
    Image.new("RGBA", (20, 112)).save(images / "t4.png")
    code, errors = refine(capsys, *line)
    assert code == 1
    assert "t3.npy: no image with this stem" in errors
    assert "t4.png: image of 112×20 pixels, expected 96×112" in errors
    assert "1 refined, 3 kept" in errors


def test_weights_and_images_that_do_not_go_together(folder: Path, tmp_path: Path, capsys: Any) -> None:
    out = str(tmp_path / "m")
    code, errors = refine(capsys, "logits", "-o", out, "-w", "run")
    assert code == 2
    assert "take an image of 3 bands beside the logits, and there is none; give --images" in errors
    code, errors = refine(capsys, "logits", "-o", out, "-w", "plain", "--images", "images")
    assert code == 0
    assert "these weights do not look at images: --images is ignored" in errors
    code, errors = refine(capsys, "logits", "-o", out, "-w", "run", "--images", "nowhere")
    assert (code, "nowhere: no such folder" in errors) == (1, True)
    bands = tmp_path / "bands"
    bands.mkdir()
    for index in range(6):
        np.save(bands / f"t{index}.npy", np.zeros((5, 96, 112), np.uint16))
    code, errors = refine(capsys, "logits", "-o", str(tmp_path / "n"), "-w", "run", "--images", str(bands))
    assert code == 1
    assert "image of 5 bands, expected 3" in errors


def test_training_names_images_that_are_missing_or_wrong(folder: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "images").mkdir()
    for path in (folder / "images").iterdir():
        if path.stem != "t5":
            (tmp_path / "images" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "images" / "t1.jpg").write_bytes(b"\xff\xd8\xff")
    where = ("logits", "--images", str(tmp_path / "images"), "-o", str(tmp_path / "run"))
    try:
        code = app.run(["train", *where, *OPTIONS, "--epochs", "1", "--steps", "1"])
    except SystemExit as end:
        code = int(end.code or 0)
    errors = capsys.readouterr().err
    assert code == 1
    assert "t5.npy: no image with this stem" in errors
    assert "t1.jpg: not a JPEG, or damaged" in errors
    assert (tmp_path / "run" / "model.onnx").exists()
