"""A server's worker is restarted when it dies, and never outlives its server."""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from latentsync.server.worker_supervisor import WorkerProcess, running_worker
from tests.ports import free_port
from tests.server.live import AUTH, KEY, answers, process, wait_until

pytestmark = pytest.mark.processes

# Stands for a worker: notes that it began, and ends with its standard input.
STAND_IN = """
import os, sys
with open(sys.argv[1], "a") as notes: notes.write("x")
sys.exit({exit})
"""


def stand_in(path: Path, exit_with: str) -> list[str]:
    return [sys.executable, "-S", "-c", STAND_IN.format(exit=exit_with), str(path)]


@pytest.mark.parametrize(
    ("exit_with", "reported"),
    [
        ("7", "ended with exit code 7"),
        ("os.kill(os.getpid(), 9)", "was killed by SIGKILL"),
    ],
)
def test_a_worker_that_dies_is_started_again_after_longer_and_longer_pauses(
    exit_with: str, reported: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notes = tmp_path / "notes"
    with running_worker(stand_in(notes, exit_with)):
        wait_until(lambda: notes.exists() and len(notes.read_text()) >= 3)
    pauses = [record.getMessage() for record in caplog.records]
    assert pauses[:2] == [
        f"worker {reported}; restarting in 0.5 s",
        f"worker {reported}; restarting in 1 s",
    ]


def test_stopping_ends_the_worker_and_starts_no_other(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    worker = WorkerProcess(stand_in(notes, "sys.stdin.read() and 0"))
    worker.start()
    wait_until(lambda: notes.exists() and worker.pid is not None)
    pid = worker.pid
    assert pid is not None
    worker.stop()
    assert worker.pid is None
    assert notes.read_text() == "x"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_killed_worker_of_a_real_server_is_restarted_and_ends_with_the_server(
    tmp_path: Path,
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    folders = {
        "LATENTSYNC_DATA_DIR": str(tmp_path / "data"),
        "LATENTSYNC_WORK_DIR": str(tmp_path / "work"),
        "LATENTSYNC_MAX_FSP": "60",
    }
    arguments = ("-m", "latentsync", "serve", "--port", str(port))
    with process(*arguments, LATENTSYNC_API_KEY=KEY, **folders) as server:
        wait_until(lambda: answers(url) and httpx.get(f"{url}/ready").status_code == 200)
        first = children(server.pid)
        assert len(first) == 1
        os.kill(first[0], signal.SIGKILL)
        wait_until(lambda: len(set(children(server.pid)) - set(first)) == 1)
        assert httpx.get(f"{url}/v1/predictions", headers=AUTH).json()["predictions"] == []
        (second,) = set(children(server.pid)) - set(first)
        server.kill()
        server.wait()
        wait_until(lambda: not Path(f"/proc/{second}").exists())
        assert server.stdout is not None
        # The server warns, and no worker of it does so again.
        assert server.stdout.read().count("LATENTSYNC_MAX_FSP is not a setting") == 1


def test_an_api_without_a_worker_has_no_children(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    folders = {
        "LATENTSYNC_DATA_DIR": str(tmp_path / "data"),
        "LATENTSYNC_WORK_DIR": str(tmp_path / "work"),
    }
    arguments = ("-m", "latentsync", "serve", "--no-worker", "--port", str(port))
    with process(*arguments, LATENTSYNC_API_KEY=KEY, **folders) as server:
        wait_until(lambda: answers(url))
        time.sleep(0.2)
        assert children(server.pid) == []
        assert httpx.get(f"{url}/ready").status_code == 503


def test_listeners_do_not_hold_up_the_end_of_a_server(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    variables = {
        "LATENTSYNC_API_KEY": KEY,
        "LATENTSYNC_DATA_DIR": str(tmp_path / "data"),
        "LATENTSYNC_WORK_DIR": str(tmp_path / "work"),
    }
    media = {"video_url": "http://a.example/v", "audio_url": "http://a.example/a"}
    arguments = ("-m", "latentsync", "serve", "--no-worker", "--port", str(port))
    with process(*arguments, **variables) as server, ThreadPoolExecutor(1) as pool:
        wait_until(lambda: answers(url))
        job = httpx.post(f"{url}/v1/predictions", json=media, headers=AUTH).json()
        events = f"{url}/v1/predictions/{job['id']}/events"
        waiting = {**AUTH, "Prefer": "wait"}
        answer = pool.submit(
            httpx.post, f"{url}/v1/predictions", json=media, headers=waiting, timeout=60
        )
        wait_until(lambda: len(listed(url)) == 2)
        with httpx.stream("GET", events, headers=AUTH, timeout=60) as listening:
            lines = listening.iter_lines()
            assert any("queue_position" in line for line in lines)
            server.terminate()
            assert [line for line in lines if line.startswith("event: status")] == []
        assert server.wait(timeout=60) == 0
        assert (answer.result().status_code, answer.result().json()["status"]) == (202, "queued")


def listed(url: str) -> list[object]:
    """Return the predictions that a server has been handed."""
    answer = httpx.get(f"{url}/v1/predictions", headers=AUTH, timeout=60).json()
    predictions: list[object] = answer["predictions"]
    return predictions


def children(pid: int) -> list[int]:
    """Return the ids of a process's living children."""
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for thread in threads for child in thread.read_text().split()]
