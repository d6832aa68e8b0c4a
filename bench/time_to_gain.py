"""What training gains on the test split after so many seconds: `prn train --time-budget`, `prn refine`, `prn score`.

    python bench/time_to_gain.py --logits DIR [DIR ...] --work DIR [--pair NAME ...] [--seconds 30 60 120 300 600]
        [--seeds 0 1 2] [--cpu] [--images] [--task multiclass] [--picture PNG] [--out table.md]

Each DIR of logits holds a folder a pair of set and base model, with `train/` and `test/`, each with `logits/` and
`labels/`. No option but the budget and the seed is given, and with `--images`, the folders `images/` beside them.
Seconds are those of two cores. On a machine that is busy with other work, `--cpu` takes the seconds of one thread's
processor for the clock, twice as many of them: one thread that trains the folds one after the other does in 2 s what
two threads side by side do in 1 s. The test split chooses nothing.

Pooled is the change of pooled IoU over the base model at 0.5, mean that of the mean IoU; `own` is the base model at the
threshold that its labels choose, on the test split. The last table says of the longest budget what is the threshold's
and what the network's. Of several classes (`bench/class_models.py` makes base models), it is mIoU, and the greatest
score counts, so that the threshold has no part in it. Finished runs in `--work` are used again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from common import machine, markdown
from PIL import Image, ImageDraw, ImageFont
from quality import SETS, cells, scored, shares

import prn_cli as prn
from prn_cli.execution import clock
from prn_cli.metrics.intervals import bootstrap

HARM = -0.2
FIGURES = {"binary": "iou", "multiclass": "miou"}
CORES = 2
WIDTH, HEIGHT, MARGIN, SCALE = 720, 380, 60, 2
COLOURS = ((20, 110, 60), (200, 90, 20), (40, 80, 170), (150, 40, 120), (90, 90, 90), (0, 140, 150), (190, 150, 0))


@dataclass(frozen=True)
class Result:
    """A run: points of IoU on the test split, and what it was trained for."""

    pair: str
    seconds: float
    seed: int
    cpu: bool
    pooled: float
    mean: float
    own: float
    promised: float
    strength: float
    threshold: float
    steps: int
    took: float
    images: bool = False


def name_of(pair: str, seconds: float, seed: int, *, cpu: bool, images: bool) -> str:
    """Of a run and of its masks."""
    return f"{pair}-{seconds:g}-{seed}{'-cpu' if cpu else ''}{'-images' if images else ''}"


def measure(
    place: Path, work: Path, seconds: float, seed: int, *, cpu: bool, images: bool = False, task: str = "binary"
) -> Result:
    """Train for so long, refine and score."""
    name = name_of(place.name, seconds, seed, cpu=cpu, images=images)
    record, run, masks = work / f"{name}.json", work / "runs" / name, work / "masks" / name
    if record.exists():
        return Result(**json.loads(record.read_text()))
    clock.source = time.process_time if cpu else time.monotonic
    began = clock.now()
    budget = f"{seconds * CORES if cpu else seconds}s"
    options = {"time_budget": budget, "seed": seed, "threads": 1 if cpu else CORES, "overwrite": True, "out": run}
    options |= {"task": task}
    seen = [{"images": place / split / "images"} if images else {} for split in ("train", "test")]
    card = prn.train(place / "train" / "logits", labels=place / "train" / "labels", **options, **seen[0]).card
    took = (clock.now() - began) / (CORES if cpu else 1)
    prn.refine(place / "test" / "logits", out=masks, weights=run, overwrite=True, threads=1, task=task, **seen[1])
    figures, figure = scored(place / "test", masks, "--task", task), FIGURES[task]
    own = 0.0
    if task == "binary":
        line = ("--threshold", f"{card['choice']['own']}")
        own = 100 * scored(place / "test", place / "test" / "logits", *line)["pooled"]["iou"]["difference"]["value"]
    change = {way: 100 * figures[way][figure]["difference"]["value"] for way in ("pooled", "mean")}
    result = Result(
        pair=place.name,
        seconds=seconds,
        seed=seed,
        cpu=cpu,
        **change,
        own=own,
        promised=100 * card["choice"]["gain"],
        strength=card["choice"]["strength"],
        threshold=card["choice"]["threshold"],
        steps=card["steps"],
        took=took,
        images=images,
    )
    record.write_text(json.dumps(asdict(result)) + "\n")
    print(result, file=sys.stderr, flush=True)
    return result


def tables(results: Sequence[Result]) -> str:
    """By pair, and the means over pairs with their intervals."""
    lengths = sorted({r.seconds for r in results})
    pairs = list(dict.fromkeys(r.pair for r in results))

    def gains(found: Sequence[Result]) -> str:
        if not found:
            return "–"
        pooled, mean = (np.mean([getattr(r, way) for r in found]) for way in ("pooled", "mean"))
        return f"{pooled:+.2f} / {mean:+.2f}"

    rows = []
    for pair in pairs:
        mine = [r for r in results if r.pair == pair]
        by_length = [gains([r for r in mine if r.seconds == length]) for length in lengths]
        rows.append([pair, *by_length, f"{np.mean([r.own for r in mine]):+.2f}"])
    by_pair = markdown(["pooled / mean IoU, points", *(f"{s:g} s" for s in lengths), "own threshold"], rows)
    over = []
    for length in lengths:
        mine = [r for r in results if r.seconds == length]
        means = []
        for way in ("pooled", "mean"):
            each = np.array([np.mean([getattr(r, way) for r in mine if r.pair == p]) for p in {r.pair for r in mine}])
            _, low, high = bootstrap(lambda w, e=each: (w @ e / w.sum(axis=1))[:, None], len(each))
            means.append(f"{each.mean():+.2f} [{low[0]:+.2f}, {high[0]:+.2f}]")
        harmed = f"{sum(r.pooled < HARM for r in mine)} of {len(mine)}"
        late = f"{100 * max(r.took / r.seconds - 1 for r in mine):+.0f} %"
        steps = f"{min(r.steps for r in mine)} to {max(r.steps for r in mine)}"
        over.append([f"{length:g} s", str(len({r.pair for r in mine})), *means, harmed, steps, late])
    heading = [
        "budget",
        "pairs",
        "pooled IoU, points [95 %]",
        "mean IoU, points [95 %]",
        "lose > 0.2",
        "steps",
        "longest",
    ]
    return f"{by_pair}\n\n{markdown(heading, over)}"


def longest(results: Sequence[Result], places: Sequence[Path], work: Path, task: str) -> str:
    """What the longest budget gains, by pair, and of one class, what the network adds to the threshold."""
    most, rows = max(r.seconds for r in results), []
    for place in places:
        mine = [r for r in results if (r.pair, r.seconds) == (place.name, most)]
        names = [name_of(place.name, most, r.seed, cpu=r.cpu, images=r.images) for r in mine]
        found = [scored(place / "test", work / "masks" / name, "--task", task) for name in names]
        if task == "binary":
            rows.append([place.name, *shares(found), cells(*found)[3]])
        else:
            base = found[0]["pooled"][FIGURES[task]]["baseline"]["value"]
            rows.append([place.name, f"{base:.4f}", *cells(*found, figure=FIGURES[task])])
    if task != "binary":
        heading = ["base", "pooled mIoU", "change [95 %]", "mean mIoU of the images", "change [95 %]"]
        return markdown([f"{most:g} s", *heading], rows)
    heading = ["base at 0.5", "at its own threshold", "refined", "change [95 %]", "the network's share [95 %]"]
    return markdown([f"{most:g} s", *heading, "images better, worse", "mean IoU, change [95 %]"], rows)


def picture(results: Sequence[Result], path: Path) -> None:
    """Gain over the time, a line a pair, the mean in bold."""
    lengths = sorted({r.seconds for r in results})
    gains = {
        pair: [
            (r, np.mean([q.pooled for q in results if (q.pair, q.seconds) == (pair, r)]))
            for r in lengths
            if any((q.pair, q.seconds) == (pair, r) for q in results)
        ]
        for pair in dict.fromkeys(r.pair for r in results)
    }
    whole = [r for r in lengths if all(any(at == r for at, _ in line) for line in gains.values())]
    mean = [(r, np.mean([dict(line)[r] for line in gains.values()])) for r in whole]
    values = [value for line in gains.values() for _, value in line]
    low, high = min(*values, 0.0) - 0.3, max(*values, 0.0) + 0.3
    first, last = np.log(lengths[0]), np.log(max(lengths[-1], 2 * lengths[0]))
    image = Image.new("RGB", ((WIDTH + 170) * SCALE, HEIGHT * SCALE), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13 * SCALE)

    def at(seconds: float, gain: float) -> tuple[float, float]:
        x = MARGIN + (np.log(seconds) - first) / (last - first) * (WIDTH - 2 * MARGIN)
        y = HEIGHT - MARGIN - (gain - low) / (high - low) * (HEIGHT - 1.5 * MARGIN)
        return x * SCALE, y * SCALE

    for gain in range(int(np.ceil(low)), int(high) + 1):
        shade = (90, 90, 90) if gain == 0 else (220, 220, 220)
        draw.line([at(lengths[0], gain), at(np.exp(last), gain)], shade, SCALE)
        x, y = at(lengths[0], gain)
        draw.text((x - 36 * SCALE, y - 8 * SCALE), f"{gain:+d}", (60, 60, 60), font)
    for seconds in lengths:
        x, y = at(seconds, low)
        draw.text((x - 14 * SCALE, y + 8 * SCALE), f"{seconds:g} s", (60, 60, 60), font)
    for number, (pair, line) in enumerate([*gains.items(), ("mean", mean)]):
        colour = (0, 0, 0) if pair == "mean" else COLOURS[number % len(COLOURS)]
        points = [at(*point) for point in line]
        if len(points) > 1:
            draw.line(points, colour, (4 if pair == "mean" else 2) * SCALE, joint="curve")
        for x, y in points:
            draw.ellipse([x - 3 * SCALE, y - 3 * SCALE, x + 3 * SCALE, y + 3 * SCALE], fill=colour)
        draw.text(((WIDTH - 20) * SCALE, (24 + 20 * number) * SCALE), pair, colour, font)
    draw.text(
        (MARGIN * SCALE, 8 * SCALE), "points of pooled IoU on the test split, over the time budget", (0, 0, 0), font
    )
    image.resize((WIDTH + 170, HEIGHT), Image.Resampling.LANCZOS).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logits", type=Path, nargs="+", required=True, help="folders of pairs")
    parser.add_argument("--work", type=Path, required=True, help="folder for runs and masks; reused")
    parser.add_argument("--pair", nargs="+", default=list(SETS))
    parser.add_argument("--seconds", type=float, nargs="+", default=[30, 60, 120, 300, 600])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cpu", action="store_true", help="seconds of one thread's processor, two for one")
    parser.add_argument("--images", action="store_true", help="the images beside the logits, too")
    parser.add_argument("--task", choices=FIGURES, default="binary")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--out", type=Path, help="write the tables here too")
    arguments = parser.parse_args()
    (arguments.work / "runs").mkdir(parents=True, exist_ok=True)
    places = [next(d / name for d in arguments.logits if (d / name).is_dir()) for name in arguments.pair]
    results = [
        measure(place, arguments.work, seconds, seed, cpu=arguments.cpu, images=arguments.images, task=arguments.task)
        for seconds in arguments.seconds
        for seed in arguments.seeds
        for place in places
    ]
    clocked = "seconds of two cores" if not arguments.cpu else "two seconds of one thread's processor for each second"
    seeds = ", ".join(map(str, arguments.seeds))
    by_part = longest(results, places, arguments.work, arguments.task)
    text = f"{tables(results)}\n\n{by_part}\n\nSeeds {seeds}; {clocked}; {machine()}."
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    if arguments.picture:
        picture(results, arguments.picture)


if __name__ == "__main__":
    main()
