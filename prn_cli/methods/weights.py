"""Weights: shipped ones by name, trained ones by path; found, verified by sha256, described."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prn_cli.errors import WeightsError

_CHECKPOINTS = (".th", ".pth", ".pt", ".tar", ".ckpt", ".pkl")


@dataclass(frozen=True)
class Weights:
    """A file of weights and what is known of it.

    Attributes:
        name: of shipped weights; for others, the path as given.
        path: the ONNX file, or the tensors from which training can go on.
        sha256: of the file, in hexadecimal digits.
        network: as recorded; empty if it is not.
        description: in a line; empty if there is none.
        card: all that is recorded: patch, training data and its terms, settings, figures.
    """

    name: str
    path: Path
    sha256: str
    network: str = ""
    description: str = ""
    card: Mapping[str, Any] = field(default_factory=dict)

    @property
    def knows_threshold(self) -> bool:
        """Whether labels of the base model's maps have said where they are cut."""
        without = ("learned_without_labels", "learned_from_other_sets", "own_masks")
        return not any(self.card.get(name) for name in without)


def of_several_classes(card: Mapping[str, Any]) -> bool:
    """Whether weights have learned from maps of several classes."""
    return len(card.get("conditions", {}).get("classes", ())) > 1


def expected_gain(card: Mapping[str, Any]) -> str:
    """What weights gained on the held-out maps of their training, in words; empty if their card does not say."""
    try:
        gain = 100 * card["held_out_figures"]["pooled_iou"]["difference"][0]
        figure = "mIoU" if of_several_classes(card) else "IoU"
    except (KeyError, IndexError, TypeError, AttributeError):
        return ""
    return f"{gain:+.2f} points of {figure} on the held-out maps of training{shares_of_gain(card)}"


def shares_of_gain(card: Mapping[str, Any]) -> str:
    """What of that gain is the threshold's, and what the network's, where both may have a share."""
    try:
        choice, figures = card["choice"], card["held_out_figures"]
        pooled, mean = figures["pooled_iou"], figures["mean_iou"]
        shares = pooled["difference"][0] - pooled["added"][0], pooled["added"][0], mean["added"][0]
        alone, added, of_images = (f"{round(100 * share, 2) + 0.0:+.2f}" for share in shares)
        shared = choice["strength"] > 0 and choice["own"] != 0.5
    except (KeyError, IndexError, TypeError):
        return ""
    if not shared:
        return ""
    return f": {alone} by the threshold alone; by the network {added} pooled, {of_images} in the mean over images"


def weights_folder() -> Path:
    """Where the shipped weights are: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "_weights"
    return packaged if packaged.is_dir() else package.parent / "weights"


def shipped() -> list[Weights]:
    """The shipped weights as `manifest.json` records them, not yet verified.

    The manifest has `weights`, a card by name: `files` (by suffix, each with `file` and `sha256`), `network`,
    `patch`, `description`, and what is recorded of training and figures.

    Raises:
        WeightsError: the manifest is damaged.
    """
    path = weights_folder() / "manifest.json"
    if not path.is_file():
        return []
    cards = _read_json(path).get("weights")
    if not isinstance(cards, dict) or not all(isinstance(card, dict) for card in cards.values()):
        raise WeightsError("lists no weights, expected a card by name", hint="install prn again", path=path)
    return [_shipped(name, card, "onnx") for name, card in cards.items()]


def shipped_with(sha256: str) -> list[Weights]:
    """The shipped weights whose file has this sha256, as `shipped` gives them."""
    return [weights for weights in shipped() if weights.sha256 == sha256]


def find_weights(name_or_path: str) -> Weights:
    """Find weights and verify them.

    Args:
        name_or_path: name of shipped weights, an `.onnx` file, or a folder that `prn train` wrote.

    Returns:
        The weights; their sha256 is checked against the shipped manifest, or against the card beside the file if
        there is one.

    Raises:
        WeightsError: they are missing, of another kind, or their sha256 is not the recorded one.
    """
    found = _locate(name_or_path, "onnx", "--weights")
    if found.path.suffix.lower() in (".safetensors", ".json"):
        hints = {
            found.path.with_suffix(".onnx"): "use {}",
            found.path.with_name("model.onnx"): "use {}",
            found.path.with_suffix(".safetensors"): "export it first: prn weights export '{}'",
        }
        near = [hint.format(path) for path, hint in hints.items() if path.is_file()]
        raise WeightsError("holds no network, expected ONNX", hint=[*near, "name an .onnx file"][0], path=found.path)
    found = _verified(found)
    if found.card:
        return found
    same = shipped_with(found.sha256)  # a copy is what the original is
    return replace(same[0], name=found.name, path=found.path) if same else found


def find_tensors(name_or_path: str, option: str = "--from") -> Weights:
    """Find the tensors of weights, from which training can go on, and verify them.

    Args:
        name_or_path: name of shipped weights, a `.safetensors` file, a folder that `prn train` wrote, or an `.onnx`
            file that lies beside its `.safetensors`.
        option: that named them, for messages.

    Returns:
        The weights, their path a `.safetensors` file; checked as `find_weights` does.

    Raises:
        WeightsError: they are missing, of another kind, or their sha256 is not the recorded one.
    """
    found = _locate(name_or_path, "safetensors", option)
    if found.path.suffix.lower() == ".onnx":
        beside = found.path.with_suffix(".safetensors")
        if not beside.is_file():
            raise WeightsError(
                "cannot be trained on, expected safetensors",
                hint="give the model.safetensors of its run",
                path=found.path,
            )
        found = described(beside, name_or_path, "safetensors")
    return _verified(found)


def tensors_beside(weights: Weights) -> Weights:
    """The tensors of the network that verified ONNX weights hold, as the card that seals both files says.

    Raises:
        WeightsError: there is no such card, or the tensors are missing or damaged.
    """
    name = str(_entry(weights.card, "safetensors").get("file", ""))
    if not name or _entry(weights.card, "onnx").get("sha256") != weights.sha256:
        raise WeightsError("no card names the tensors of these weights", path=weights.path)
    found = _describe(weights.name, weights.path.with_name(Path(name).name), "safetensors", weights.card)
    return _verified(found)


def _locate(name_or_path: str, kind: str, option: str) -> Weights:
    """Shipped weights, or a file that is there; its sha256 is the recorded one, and not yet verified."""
    known = {weights.name: weights for weights in shipped()}
    if name_or_path in known:
        weights = _shipped(name_or_path, known[name_or_path].card, kind)
        if not _entry(weights.card, kind):
            others = [other.name for other in known.values() if _entry(other.card, kind)]
            raise WeightsError(f"weights '{weights.name}' have no {kind}", hint=f"give {_names(others)}")
        if not weights.path.is_file():
            raise WeightsError(f"weights '{weights.name}' are missing", hint="install prn again", path=weights.path)
        return weights
    path = Path(name_or_path)
    if path.is_dir():
        path /= f"model.{kind}"
        if not path.is_file():
            raise WeightsError(
                f"holds no model.{kind}, expected a folder that 'prn train' wrote",
                hint=f"name the .{kind} file",
                path=path.parent,
            )
    if not path.is_file():
        if path.suffix or path.parent != Path():
            raise WeightsError("no such file", hint=f"check the path of {option}", path=path)
        raise WeightsError(
            f"no weights named '{name_or_path}', expected {_names(list(known))}",
            hint="see 'prn weights list', or give a path",
        )
    if path.suffix.lower() in _CHECKPOINTS:
        raise WeightsError(
            f"is a checkpoint, expected {'ONNX' if kind == 'onnx' else kind}",
            hint=f"convert it first: prn weights import '{path}'",
            path=path,
        )
    return described(path, name_or_path, kind)


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal digits.

    Raises:
        WeightsError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror}", hint="check the file", path=path) from error


def _entry(card: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    files = card.get("files")
    entry = files.get(kind) if isinstance(files, Mapping) else None
    return entry if isinstance(entry, Mapping) else {}


def _shipped(name: str, card: Mapping[str, Any], kind: str) -> Weights:
    return _describe(name, weights_folder() / str(_entry(card, kind).get("file", f"{name}.{kind}")), kind, card)


def described(path: Path, name: str = "", kind: str = "onnx") -> Weights:
    """Weights by path, not yet verified; a card beside them is believed."""
    card = path.with_suffix(".json")
    return _describe(name or str(path), path, kind, _read_json(card) if card.is_file() else {})


def _describe(name: str, path: Path, kind: str, card: Mapping[str, Any]) -> Weights:
    sha256 = str(_entry(card, kind).get("sha256", ""))
    return Weights(name, path, sha256, str(card.get("network", "")), str(card.get("description", "")), card)


def _verified(weights: Weights) -> Weights:
    found = sha256_of(weights.path)
    if weights.sha256 and found != weights.sha256:
        raise WeightsError(
            f"sha256 is {found}, expected {weights.sha256}: damaged, or changed since it was recorded",
            hint="get the file again",
            path=weights.path,
        )
    return replace(weights, sha256=found)


def _names(names: list[str]) -> str:
    return "one of " + ", ".join(f"'{name}'" for name in names) if names else "a path (none are shipped)"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"cannot be read as JSON: {error}", hint="get the file again", path=path) from error
    if not isinstance(content, dict):
        raise WeightsError(f"holds a {type(content).__name__}, expected an object", hint="get it again", path=path)
    return content
