"""`prn train`: learn the correction from labelled logit maps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prn_cli.commands import console
from prn_cli.commands.from_options import command
from prn_cli.methods.weights import of_several_classes, shares_of_gain
from prn_cli.workflows import train as workflow
from prn_cli.workflows.train import TrainOptions


def _run(options: TrainOptions, *, json: bool) -> None:
    """Learn where a base model's scores run too high or too low, from a few labelled logit maps.

    In a folder that holds logits/ and labels/, no argument is needed. Every part of a small set is held out in turn; of
    a large one, some images are. The strength of the correction (perhaps none) and the figures before and after, with
    their interval, come from the held-out images. Writes model.onnx, model.safetensors and model.json into the run's
    folder: `prn refine LOGITS -o MASKS --weights run`. With --images, the network sees the images, too, and mostly
    gains far more. With a handful of maps, --from fast starts from the shipped weights. Without labels, --labels none
    and --images learn from the base model's own masks.
    """
    result = workflow.train(options, console.Terminal())
    if result.card is None:
        return
    if json:
        console.json_line(result.document())
    else:
        _show(result.card, options.out)
    console.end(result.verdict)


train = command(workflow.train_options(), _run)


def _show(card: Mapping[str, Any], out: Path) -> None:
    data, choice = card["data"], card["choice"]
    if "transfer" in card:
        console.tell(f"{card['verdict'][0].upper()}{card['verdict'][1:]}.")
        if choice["strength"]:
            console.tell("No label has said that this gains: look at some masks, or label a few maps and score them.")
        console.tell(f"Weights: {out / card['files']['onnx']['file']}")
        return
    several = of_several_classes(card)
    what = f"held-out parts of {data['parts_of']} map(s)" if data["parts_of"] else "held-out images"
    own = choice["own"]
    folds = card["conditions"].get("folds")
    at_own = f"; the base's own threshold: {own:.3g}" + (", in each fold by the labels of the others" if folds else "")
    console.tell(f"{len(data['held_out'])} {what}" + (at_own if own != 0.5 else ""))
    headings = [
        "Before" if several else "At 0.5",
        *(["At its own" if folds else f"At {own:.3g}"] if own != 0.5 else []),
        "Refined",
    ]
    table = console.table("", *headings, "Change, points", "95 % interval")
    figure = "mIoU" if several else "IoU"
    for name, label in (("pooled_iou", f"{figure}, pooled"), ("mean_iou", f"{figure}, mean")):
        row = card["held_out_figures"][name]
        change, low, high = row["difference"]
        interval = "–" if low is None else f"{100 * low:+.2f} to {100 * high:+.2f}"
        before = [row["before"][0], *([row["own"][0]] if own != 0.5 else []), row["after"][0]]
        table.add_row(label, *(f"{value:.4f}" for value in before), f"{100 * change:+.2f}", interval)
    console.show(table)
    threshold = "" if several else f", threshold {choice['threshold']:g}"
    console.tell(f"Strength {choice['strength']:g}{threshold}{shares_of_gain(card)}.")
    images = card["held_out_images"]
    console.tell(f"Of {images['all']} images, {images['better']} are better than before and {images['worse']} worse.")
    if len(choice["groups"]) > 1:
        console.tell(f"By {'class' if several else 'scene'}: {_points(choice['groups'])}")
    console.tell(f"{card['verdict'][0].upper()}{card['verdict'][1:]}.")
    if data["scenes_held_out"] == 1 and data["scenes"] > 1:
        console.tell("Only one scene was held out, which says nothing of others (--folds).")
    elif data["scenes"] < 2 and not data["parts_of"] and choice["gain"] > 0:
        from prn_cli.thresholding.decision import TELLING_MAPS

        expected = (
            "can expect as much" if images["all"] >= TELLING_MAPS else "may gain less: few were held out (--folds)"
        )
        console.tell(f"New images of the same scenes {expected}; of other scenes, this says nothing (--groups).")
    console.tell(f"Weights: {out / card['files']['onnx']['file']} (epoch {card['best_epoch']} of {card['epochs']})")


def _points(gains: Mapping[str, float]) -> str:
    return "; ".join(f"{name} {100 * gain:+.2f}" for name, gain in gains.items())
