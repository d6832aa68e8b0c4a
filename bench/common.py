"""What the benches share: the machine in words, the project's commands as a user runs them, Markdown tables."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


def machine() -> str:
    """Processor, cores and memory of this machine, and the versions that matter."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
        kilobytes = int(Path("/proc/meminfo").read_text().split()[1])
        memory = f", {kilobytes / 2**20:.0f} GiB"
    except OSError:
        memory = ""
    return f"{name}, {os.cpu_count()} cores{memory}, Python {platform.python_version()}"


def prn(*arguments: str | Path, as_json: bool = True) -> Any:
    """Run a `prn` command with `--json` and give what it prints.

    Raises:
        SystemExit: if the command fails.
    """
    line = [sys.executable, "-m", "prn_cli", *map(str, arguments), *(["--json"] if as_json else [])]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(line)} failed with exit code {done.returncode}")
    if not as_json:
        return done.stdout
    lines = [json.loads(text) for text in done.stdout.splitlines() if text.strip()]
    return lines[0] if len(lines) == 1 else lines


def markdown(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its columns aligned for the terminal too."""
    widths = [max(len(row[i]) for row in [heading, *rows]) for i in range(len(heading))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return "\n".join([line(heading), "|" + "|".join("-" * (w + 2) for w in widths) + "|", *map(line, rows)])


class Ratio(NamedTuple):
    """How many times as long a piece of work takes as its measure, with a 95 % interval, and the seconds of both."""

    median: float
    low: float
    high: float
    seconds: float
    measure: float


def ratio(
    work: Callable[[], object],
    measure: Callable[[], object],
    pairs: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Ratio:
    """Time two pieces of work in turn, so that other programs slow down both alike.

    Args:
        work: what is judged.
        measure: what it is compared with.
        pairs: how often both are done, after a first time that does not count.
        clock: gives seconds.

    Returns:
        The median of the ratios of the pairs, and its interval by the bootstrap.
    """
    work(), measure()
    taken = np.empty((pairs, 2))
    for number, pair in enumerate(taken):
        both = [(0, work), (1, measure)]
        for place, each in both if number % 2 == 0 else reversed(both):  # being first may cost something
            began = clock()
            each()
            pair[place] = clock() - began
    ratios = taken[:, 0] / taken[:, 1]
    draws = np.random.default_rng(0).integers(0, pairs, (2000, pairs))
    low, high = np.quantile(np.median(ratios[draws], axis=1), (0.025, 0.975))
    return Ratio(float(np.median(ratios)), float(low), float(high), *map(float, np.median(taken, axis=0)))


def judge(rows: Sequence[tuple[str, Ratio, float]]) -> int:
    """Print a table of ratios and their limits; gives 1 if one is surely above its limit, else 0."""
    table = [
        [
            name,
            f"{1e3 * found.seconds:.1f} ms",
            f"{1e3 * found.measure:.1f} ms",
            f"{found.median:.2f} [{found.low:.2f}, {found.high:.2f}]",
            f"{limit:g}",
        ]
        for name, found, limit in rows
    ]
    print(markdown(["what", "takes", "its measure takes", "ratio [95 %]", "at most"], table))
    return int(any(found.low > limit for _, found, limit in rows))
