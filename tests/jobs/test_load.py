"""Many clients at once: the benchmark's own limits."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.jobs.farm import REPOSITORY


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_hundred_clients_hand_in_a_thousand_jobs_and_none_is_lost() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/jobs.py"],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
