"""Ctrl-C and SIGTERM end a command quietly, whatever it is doing at that moment."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.demo_media import DEMO_AUDIO, DEMO_VIDEO
from tests.ports import free_port
from tests.server.live import KEY, REPOSITORY, wait_until

pytestmark = pytest.mark.processes

# Seconds after a command has begun to listen: imports, children that start, and work.
MOMENTS_S = (*(step * 0.05 for step in range(12)), 0.75, 1.0, 1.5, 2.5, 4.0)
OUTPUT = "o.mp4"
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def command(name: str, folder: Path) -> list[str]:
    if name == "run":
        media = ["--video", str(DEMO_VIDEO), "--audio", str(DEMO_AUDIO)]
        return ["run", *media, "--output", str(folder / OUTPUT), "--engine", "draft"]
    if name == "worker":
        return ["worker"]
    return [*name.split(), "--port", str(free_port())]


@contextlib.contextmanager
def started(name: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a command in a group of its own, as a shell does."""
    variables = {
        "LATENTSYNC_API_KEYS": KEY,
        "LATENTSYNC_DATA_DIR": str(folder / "data"),
        "LATENTSYNC_WORK_DIR": str(folder / "work"),
        "LATENTSYNC_MIN_FREE_BYTES": "0",
        "LATENTSYNC_OFFLINE": "1",
    }
    child = subprocess.Popen(
        [sys.executable, "-m", "latentsync", *command(name, folder)],
        cwd=REPOSITORY,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()


def listens(pid: int) -> bool:
    """Return whether a process has its own SIGTERM handler.

    Before that, Python itself is starting, and nothing of this package has run.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) & 1 << (signal.SIGTERM - 1))


def processes_of(folder: Path) -> list[int]:
    """Return the live processes that use a folder, whatever their parent."""
    found = []
    for path in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if path.name.isdigit() and str(folder).encode() in (path / "environ").read_bytes():
                found.append(int(path.name))
    return found


@pytest.mark.parametrize("name", ["serve", "serve --ui", "worker", "run"])
@pytest.mark.timeout(600)
def test_a_command_that_starts_ends_quietly(name: str, tmp_path: Path) -> None:
    for moment_s, number in zip(MOMENTS_S, itertools.cycle(SIGNALS), strict=False):
        folder = tmp_path / str(moment_s)
        folder.mkdir()
        with started(name, folder) as child:
            wait_until(lambda pid=child.pid: listens(pid))
            time.sleep(moment_s)
            if child.poll() is not None:  # it had nothing more to do
                said, _ = child.communicate(timeout=60)
                assert (name, child.returncode) == ("run", 0), (moment_s, said)
                break
            child.send_signal(number)
            said, _ = child.communicate(timeout=60)
            if f"{OUTPUT}: " in said:
                break  # its work was done just before the signal
            reported = (moment_s, number, said)
            assert child.returncode in promised(name, number), reported
            assert "Traceback" not in said, reported
            assert "Exception" not in said, reported
            wait_until(lambda home=folder: processes_of(home) == [])
        assert list(folder.glob("work/p-*")) == [], reported
        assert [path.name for path in folder.iterdir() if path.is_file()] == [], reported


def promised(name: str, number: signal.Signals) -> tuple[int, ...]:
    """Return the exit codes with which a command may answer a signal."""
    # A server or worker that runs already ends in good order.
    return (128 + number,) if name == "run" else (128 + number, 0)
