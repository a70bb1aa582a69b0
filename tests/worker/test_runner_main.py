"""The runner process ends with its parent, whatever it does at that moment."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.jobs.farm import REPOSITORY

pytestmark = pytest.mark.processes

START = """
import socket
from latentsync.worker.runner_main import Runner
from latentsync.pipelines.registry import PipelineCache
from latentsync.settings import Settings
ours, theirs = socket.socketpair()
runner = Runner(theirs, Settings(), PipelineCache(Settings()))
"""


@pytest.mark.parametrize(
    "act",
    [
        "ours.close(); runner._send({'done': {}})",
        "ours.close(); runner._listen()",
        "runner._send({'ready': True}); ours.close(); runner._listen()",  # which nobody read
        "ours.sendall(b'{]}\\n'); runner._listen()",
    ],
    ids=["speaks", "listens", "was not read", "receives no JSON"],
)
def test_a_runner_without_parent_is_killed_instead_of_exiting(act: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", START + act],
        cwd=REPOSITORY,
        start_new_session=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
