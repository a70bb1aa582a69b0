"""A real server on a real port: uvicorn in a thread, or a process that can be killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from latentsync.pipelines.base import Pipeline
from latentsync.pipelines.registry import PipelineCache
from latentsync.server.app import build_app
from latentsync.server.worker_supervisor import running_worker
from latentsync.settings import Settings
from tests.server.clips import as_base64, write_clip, write_speech

KEY = "key-of-the-tests"
AUTH = {"Authorization": f"Bearer {KEY}"}
OTHER_KEY = "another-key-of-the-tests"
OTHER_AUTH = {"Authorization": f"Bearer {OTHER_KEY}"}
_WORKER = "tests.jobs.worker_process"
REAL_WORKER = ("latentsync", "worker", "--with-parent")
REPOSITORY = Path(__file__).resolve().parents[2]


def settings_for(folder: Path, **changes: Any) -> Settings:
    """Return settings with one key and folders of their own; no weights are fetched."""
    own = {
        "work_dir": folder / "work",
        "weights_dir": folder / "weights",
        "data_dir": folder / "data",
        "offline": True,
        "min_free_bytes": 0,
    }
    return Settings(**{"api_keys": (KEY,), **own, **changes})


class _Server(uvicorn.Server):
    """Also ends connections whose client neither reads nor leaves; a process would just exit."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # connections are closed in the next round of the loop


@contextlib.contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Serve ``app`` from a thread of this process; yields its address."""
    # With the protocol spelled out asyncio turns Nagle's algorithm off, as for a port of its own.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, ws="none", timeout_graceful_shutdown=1)
    server = _Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        wait_until(lambda: server.started)
        yield url
    finally:
        server.should_exit = True
        thread.join()


def app_with(engine: Pipeline, settings: Settings, **options: Any) -> FastAPI:
    """Return the application whose default engine is ``engine``."""
    return build_app(settings, PipelineCache(settings, default=engine), **options)


@contextlib.contextmanager
def serving_engine(folder: Path, engine: Pipeline, **changes: Any) -> Iterator[str]:
    """Serve one engine with the given settings; yields the address."""
    with serving(app_with(engine, settings_for(folder, **changes))) as url:
        yield url


@contextlib.contextmanager
def serving_jobs(settings: Settings, *, workers: int = 1) -> Iterator[str]:
    """Serve everything but engines, with real workers whose engine does what a seed says."""
    with contextlib.ExitStack() as running:
        for number in range(workers):
            running.enter_context(running_worker(worker_command(settings, f"w{number}")))
        url = running.enter_context(serving(build_app(settings)))
        if workers:
            wait_until(lambda: httpx.get(f"{url}/ready").status_code == 200)
        yield url


def worker_command(settings: Settings, name: str, program: Sequence[str] = (_WORKER,)) -> list[str]:
    """Return the command of a worker with these settings; see ``tests.jobs.square_runner``.

    Args:
        settings: of the worker.
        name: of the worker.
        program: module and arguments; ``REAL_WORKER`` has the engines of an installation.
    """
    own = {key: getattr(settings, key) for key in settings.model_fields_set - {"api_keys"}}
    given = {**own, "worker_name": name}
    variables = [f"LATENTSYNC_{key.upper()}={value}" for key, value in given.items()]
    return ["env", "-C", str(REPOSITORY), *variables, sys.executable, "-m", *program]


@contextlib.contextmanager
def process(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run ``python ARGUMENTS`` in the repository; killed at the end if it still runs."""
    child = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def calling(url: str, body: dict[str, Any]) -> socket.socket:
    """Send a whole request over a connection, and disconnect when it is closed."""
    content = json.dumps(body).encode()
    host, port = url.removeprefix("http://").split(":")
    head = (
        f"POST /predict HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall(head.encode() + content)
    return connection


def wait_until(condition: Any, *, timeout_s: float = 60.0) -> None:
    """Poll until ``condition()`` is true; a busy machine may need long to start a process."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def answers(url: str) -> bool:
    """Return whether a server answers /health."""
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.HTTPError:
        return False


def files_in(folder: Path) -> list[Path]:
    """Return the request folders that lie in a work folder (not their locks)."""
    found = []
    for home, folders, names in os.walk(folder):  # which minds no folder that goes meanwhile
        if Path(home).parent == folder:
            found += [Path(home, name) for name in (*folders, *names)]
    return sorted(found)


def small_body(folder: Path, **fields: Any) -> dict[str, Any]:
    """Return a valid request with a tiny clip and a tiny recording."""
    video = write_clip(folder / "clip.mp4")
    audio = write_speech(folder / "speech.wav")
    return {"video_base64": as_base64(video), "audio_base64": as_base64(audio), **fields}
