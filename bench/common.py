"""What the benches share: the machine in words, the project's commands as a user runs them, Markdown tables."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
