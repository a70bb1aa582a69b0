"""In a process of its own: the setting is the whole process's."""

from __future__ import annotations

import subprocess
import sys

import pytest

MEASURE = """
import numpy as np
from pathlib import Path
from latentsync.pipelines.batching import give_large_blocks_back

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

if {wanted}:
    give_large_blocks_back()
del_me = np.ones(2**24, np.uint8)
del del_me  # glibc learns here that blocks of this size are freed again
before = resident_mib()
blocks = [(np.ones(2**21, np.uint8), bytes(64 * 1024)) for _ in range(30)]
blocks = [small for _, small in blocks]  # the large ones go, the small ones between them stay
print(resident_mib() - before)
"""


def growth_mib(*, wanted: bool) -> float:
    code = MEASURE.format(wanted=wanted)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="about glibc")
def test_freed_blocks_between_others_go_back_to_the_system() -> None:
    assert growth_mib(wanted=True) < 10 < growth_mib(wanted=False)
