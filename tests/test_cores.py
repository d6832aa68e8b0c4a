from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from prn_cli.execution.cores import spare_threads

WORK = """
import resource, sys, threading
import numpy as np
from prn_cli.execution.cores import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()

def work():
    for _ in range(200):
        [np.ones(1 << 18, np.float32) for _ in range(8)]  # of 1 MiB each

thread = threading.Thread(target=work)  # the first thread's memory is another matter
thread.start()
thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
def test_freed_memory_is_used_again():
    faults = {
        how: int(subprocess.run([sys.executable, "-c", WORK, how], capture_output=True, text=True, check=True).stdout)
        for how in ("as it is", "kept")
    }
    assert faults["kept"] < faults["as it is"] / 2


def test_no_threads_for_linear_algebra_unless_they_are_wanted(monkeypatch):
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    spare_threads()
    assert "OPENBLAS_NUM_THREADS" not in os.environ
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    spare_threads()
    assert os.environ["OPENBLAS_NUM_THREADS"] == "2"
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    spare_threads()
    assert os.environ["OPENBLAS_NUM_THREADS"] == "1"
