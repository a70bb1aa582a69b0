"""Clients that disconnect, and a database locked for a while, leave nothing behind."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.jobs import square_runner
from tests.jobs.farm import kill
from tests.ports import free_port
from tests.server.live import AUTH, KEY, REPOSITORY, answers, small_body, wait_until

pytestmark = pytest.mark.processes

HANG_UPS = 100
LOCKED = "The jobs database cannot be reached (database is locked)"
FORM = "form-of-the-tests"


@dataclass
class Running:
    """A real server and a real worker, each with a log of its own."""

    url: str
    folder: Path
    server: subprocess.Popen[bytes]
    worker: subprocess.Popen[bytes]

    @property
    def logs(self) -> str:
        """What both have said so far."""
        return "".join((self.folder / f"{name}.log").read_text() for name in ("server", "worker"))

    def predictions(self) -> list[dict[str, Any]]:
        """Return all jobs."""
        found: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        while True:
            requested = {"limit": "100", **cursor}
            page = httpx.get(
                f"{self.url}/v1/predictions", params=requested, headers=AUTH, timeout=60
            )
            found += page.json()["predictions"]
            if page.json()["next_cursor"] is None:
                return found
            cursor = {"cursor": page.json()["next_cursor"]}

    def wait_until_ended(self) -> list[dict[str, Any]]:
        """Wait until no job waits or runs; return them all."""
        done = ("succeeded", "failed", "canceled")
        wait_until(lambda: all(job["status"] in done for job in self.predictions()), timeout_s=110)
        return self.predictions()

    def end(self) -> None:
        """Stop both in good order."""
        for one in (self.worker, self.server):
            one.terminate()
            assert one.wait(timeout=60) == 0


def start(folder: Path, name: str, *arguments: str) -> subprocess.Popen[bytes]:
    variables = {
        "LATENTSYNC_API_KEYS": KEY,
        "LATENTSYNC_DATA_DIR": str(folder / "data"),
        "LATENTSYNC_WORK_DIR": str(folder / "work"),
        "LATENTSYNC_MIN_FREE_BYTES": "0",
        "LATENTSYNC_MAX_WAITING": "200",
        "LATENTSYNC_WORKER_NAME": "w",
    }
    with (folder / f"{name}.log").open("wb") as log:
        command = ["env", *(f"{key}={value}" for key, value in variables.items())]
        return subprocess.Popen(
            [*command, sys.executable, "-m", *arguments],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    port = free_port()
    server = start(tmp_path, "server", "latentsync", "serve", "--no-worker", "--port", str(port))
    worker = start(tmp_path, "worker", "tests.jobs.worker_process")
    lent = Running(f"http://127.0.0.1:{port}", tmp_path, server, worker)
    try:
        wait_until(lambda: answers(lent.url))
        wait_until(lambda: httpx.get(f"{lent.url}/ready").status_code == 200)
        yield lent
    finally:
        for one in (worker, server):
            kill(one)
            assert one.stdin is not None
            one.stdin.close()


def request(path: str, body: bytes, kind: str, *more: str) -> bytes:
    head = (
        f"POST {path} HTTP/1.1",
        "Host: test",
        f"Authorization: Bearer {KEY}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        *more,
    )
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def as_form(folder: Path, seed: int) -> bytes:
    parts = b""
    for name, file in (("video", "clip.mp4"), ("audio", "speech.wav")):
        head = f'Content-Disposition: form-data; name="{name}"; filename="{file}"\r\n\r\n'
        parts += f"--{FORM}\r\n{head}".encode() + (folder / file).read_bytes() + b"\r\n"
    head = 'Content-Disposition: form-data; name="seed"\r\n\r\n'
    return parts + f"--{FORM}\r\n{head}{seed}\r\n--{FORM}--\r\n".encode()


def asking(path: str, *more: str) -> bytes:
    head = (f"GET {path} HTTP/1.1", "Host: test", f"Authorization: Bearer {KEY}", *more)
    return "\r\n".join(head).encode() + b"\r\n\r\n"


def some_call(chance: random.Random, folder: Path, finished: str) -> bytes:
    """Return a call of any kind; the run of one with files takes up to half a second."""
    seed = square_runner.SLOW + chance.randrange(500)
    as_json = json.dumps(small_body(folder / "media", seed=seed)).encode()
    multipart = f"multipart/form-data; boundary={FORM}"
    calls: tuple[Callable[[], bytes], ...] = (
        lambda: request("/predict", as_json, "application/json"),
        lambda: request("/v1/predictions", as_json, "application/json", "Prefer: wait=60"),
        lambda: request("/v1/predictions", as_form(folder / "media", seed), multipart),
        lambda: request("/v1/uploads", b"x" * 3_000_000, "video/mp4"),
        lambda: request("/sync", as_json, "application/json"),
        lambda: asking(f"/v1/predictions/{finished}/events"),
        lambda: asking(f"/v1/predictions/{finished}/output"),
        lambda: asking(f"/v1/predictions/{finished}/output", "Range: bytes=100-"),
        lambda: asking("/v1/predictions"),
    )
    return chance.choice(calls)()


def hang_up(url: str, call: bytes, sent: float, after_s: float) -> None:
    """Send a part of a call, wait, and be gone; half of a time with a reset."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as caller:
        with contextlib.suppress(OSError):  # refused before all was sent
            caller.sendall(call[: int(len(call) * sent)])
        time.sleep(after_s)
        if int(after_s * 1000) % 2:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_clients_that_disconnect_at_any_moment_leave_nothing_behind(running: Running) -> None:
    chance = random.Random(20)
    folder = running.folder
    (folder / "media").mkdir()
    body = small_body(folder / "media", seed=square_runner.PLAIN)
    waiting = {**AUTH, "Prefer": "wait=60"}
    made = httpx.post(f"{running.url}/v1/predictions", json=body, headers=waiting, timeout=100)
    calls = [some_call(chance, folder, made.json()["id"]) for _ in range(HANG_UPS)]
    with ThreadPoolExecutor(10) as callers:
        for call in calls:
            sent = chance.choice((1.0, 1.0, chance.random()))
            callers.submit(hang_up, running.url, call, sent, chance.random() / 2)
    ended = running.wait_until_ended()
    assert {job["status"] for job in ended} <= {"succeeded", "canceled"}
    running.end()
    assert "Traceback" not in running.logs
    assert files_below(folder / "work") == []
    assert list((folder / "work").glob("p-*")) == []
    files = folder / "data" / "files"
    assert files_below(files / "inputs") == []
    succeeded = [job["id"] for job in ended if job["status"] == "succeeded"]
    assert sorted(path.parent.name for path in files_below(files / "results")) == sorted(succeeded)
    assert {path.stat().st_size for path in files_below(files / "uploads")} <= {3_000_000}


def test_a_database_locked_for_a_while_costs_nothing_but_time(running: Running) -> None:
    folder, url = running.folder, running.url
    body = small_body(folder / "media", seed=square_runner.SLOW + 4000)
    accepted = [httpx.post(f"{url}/v1/predictions", json=body, headers=AUTH) for _ in range(2)]
    wait_until(lambda: any(job["status"] == "processing" for job in running.predictions()))
    with (
        contextlib.closing(sqlite3.connect(folder / "data" / "jobs.db")) as other,
        ThreadPoolExecutor(3) as callers,
    ):
        other.execute("BEGIN IMMEDIATE")  # as a backup does, or a shell
        refused = [
            callers.submit(httpx.post, f"{url}{path}", json=body, headers=AUTH, timeout=60)
            for path in ("/predict", "/v1/predictions", "/v1/predictions")
        ]
        for answer in refused:  # when the server's patience is at its end, so is the worker's
            reported = answer.result()
            assert (reported.status_code, reported.json()["code"]) == (503, "RECORD_UNAVAILABLE")
        wait_until(lambda: LOCKED in (folder / "worker.log").read_text())
        other.rollback()
    accepted.append(httpx.post(f"{url}/v1/predictions", json=body, headers=AUTH, timeout=60))
    ended = running.wait_until_ended()
    assert {job["id"] for job in ended} == {answer.json()["id"] for answer in accepted}
    assert {job["status"] for job in ended} == {"succeeded"}
    running.end()
    assert "Traceback" not in running.logs
    for name in ("server", "worker"):
        log = (folder / f"{name}.log").read_text()
        assert log.count(LOCKED) == 1, log
