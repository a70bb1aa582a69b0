"""The process that holds a device ends with its parent, whatever it does at that moment."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.jobs.farm import REPOSITORY

pytestmark = pytest.mark.processes

START = """
import socket
from latentsync.worker.runner_main import Device
from latentsync.pipelines.registry import Engines
from latentsync.settings import Settings
ours, theirs = socket.socketpair()
device = Device(theirs, Settings(), Engines(Settings()))
"""


@pytest.mark.parametrize(
    "act",
    [
        "ours.close(); device._send({'done': {}})",
        "ours.close(); device._listen()",
        "device._send({'ready': True}); ours.close(); device._listen()",  # which nobody read
        "ours.sendall(b'{]}\\n'); device._listen()",
    ],
    ids=["speaks", "listens", "was not heard", "is told nonsense"],
)
def test_a_device_without_parent_is_killed_not_ended_in_order(act: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", START + act],
        cwd=REPOSITORY,
        start_new_session=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
