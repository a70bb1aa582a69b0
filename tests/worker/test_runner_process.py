"""The parent's side of a device, with small scripts as devices."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from latentsync.worker.runner_process import RunnerLost, RunnerProcess

TALK = """
import json, os, socket, subprocess, sys, time
connection = socket.socket(fileno=int(sys.argv[-1]))
lines = connection.makefile("r")
def say(message): connection.sendall(json.dumps(message).encode() + b"\\n")
"""
Start = Callable[[str], RunnerProcess]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[RunnerProcess] = []

    def start_script(script: str) -> RunnerProcess:
        started.append(RunnerProcess([sys.executable, "-c", TALK + script]))
        return started[-1]

    yield start_script
    for device in started:
        device.kill()


def hear(device: RunnerProcess) -> dict[str, object]:
    message = device.receive(60)
    assert message is not None
    return message


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:  # it is gone, perhaps just now
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


def test_orders_go_there_and_messages_come_back_in_order(start: Start) -> None:
    device = start("for line in lines:\n  say({'first': json.loads(line)}); say({'second': 2})")
    device.run({"request": "ä"})
    assert hear(device) == {"first": {"run": {"request": "ä"}}}
    assert hear(device) == {"second": 2}
    device.cancel()
    assert hear(device) == {"first": {"cancel": True}}


def test_silence_is_no_message(start: Start) -> None:
    device = start("lines.readline(); time.sleep(60)")
    device.run({})
    assert device.receive(0.05) is None


def test_one_process_serves_order_after_order(start: Start) -> None:
    device = start("for line in lines:\n  say({'pid': os.getpid()})")
    pids = set()
    for _ in range(3):
        device.run({})
        pids.add(hear(device)["pid"])
    assert len(pids) == 1


@pytest.mark.parametrize(
    "script",
    [
        "lines.readline(); os._exit(1)",
        "lines.readline(); connection.sendall(b'not json\\n')",
        "lines.readline(); connection.sendall(b'[1]\\n')",
        "lines.readline(); connection.sendall(b'\\xff\\n')",
    ],
)
def test_an_end_and_nonsense_mean_that_the_device_is_lost(start: Start, script: str) -> None:
    device = start(script)
    device.run({})
    with pytest.raises(RunnerLost):
        device.receive(60)


def test_a_device_that_died_while_idle_is_started_again(start: Start) -> None:
    device = start("for line in lines:\n  say({'pid': os.getpid()})")
    device.run({})
    first = hear(device)["pid"]
    assert isinstance(first, int)
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)  # until its parent may know, too
    device.run({})
    assert hear(device)["pid"] != first


def test_a_kill_reaches_what_the_device_started(start: Start) -> None:
    sleeper = "[sys.executable, '-c', 'import time; time.sleep(60)']"
    device = start(
        f"lines.readline(); say({{'pid': subprocess.Popen({sleeper}).pid}}); lines.read()"
    )
    device.run({})
    child = hear(device)["pid"]
    assert isinstance(child, int)
    assert is_alive(child)
    device.kill()
    until = time.monotonic() + 60
    while is_alive(child) and time.monotonic() < until:
        time.sleep(0.01)
    assert not is_alive(child)


def test_nobody_hears_a_device_that_was_killed(start: Start) -> None:
    device = start("lines.read()")
    device.run({})
    device.kill()
    with pytest.raises(RunnerLost):
        device.cancel()
    with pytest.raises(RunnerLost):
        device.receive(0.1)
