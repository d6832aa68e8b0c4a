"""How long `prn` takes to start: its help, and one small map refined by a process of its own.

    python bench/startup.py [--pairs 15]

Both are measured against `python -c "import numpy"`, each in turn with it, so that the ratios hold on any machine and
beside other programs. Ends with exit code 1 if a ratio is surely above its limit.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import judge, machine, ratio

LIMITS = {"prn --help": 2.5, "prn refine, one map": 8.0}

# As in an installed package, Python keeps the compiled modules.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def spawn(*arguments: str | Path) -> None:
    line = [sys.executable, *map(str, arguments)]
    subprocess.run(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, env=ENVIRONMENT)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=15, help="how often each is measured")
    options = parser.parse_args()
    print(f"{machine()}\n")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows, columns = np.mgrid[:96, :80]
        np.save(folder / "map.npy", (8 * np.sin(rows / 9) * np.cos(columns / 7)).astype(np.float32))
        refine = ("-m", "prn_cli", "refine", folder / "map.npy", "-o", folder / "mask.png", "--overwrite")
        commands = {"prn --help": ("-m", "prn_cli", "--help"), "prn refine, one map": refine}
        found = {
            what: ratio(lambda line=line: spawn(*line), lambda: spawn("-c", "import numpy"), options.pairs)
            for what, line in commands.items()
        }
    return judge([(what, each, LIMITS[what]) for what, each in found.items()])


if __name__ == "__main__":
    sys.exit(main())
