"""``latentsync serve --ui`` as a process, for Gradio leaves sockets open in its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

from tests.ports import free_port
from tests.server.live import KEY, OTHER_KEY, REPOSITORY, wait_until

_START_TIMEOUT_S = 120.0


@contextmanager
def page_server(
    folder: Path, *options: str, needed: str | None = None, **settings: str
) -> Iterator[str]:
    """Serve the page for two keys, with the draft engine; yields the address.

    It is up when ``needed`` answers 200; by default that includes a live worker, if it has one.
    """
    if find_spec("gradio") is None:
        pytest.skip("the page needs the extra 'ui'")
    port = str(free_port())
    own = {
        "LATENTSYNC_API_KEY": f"{KEY},{OTHER_KEY}",
        "LATENTSYNC_DATA_DIR": str(folder / "data"),
        "LATENTSYNC_WORK_DIR": str(folder / "work"),
        "LATENTSYNC_ENGINE": "draft",
        "LATENTSYNC_MIN_FREE_BYTES": "0",
    }
    command = [sys.executable, "-m", "latentsync", "serve", "--ui", "--port", port, *options]
    url = f"http://127.0.0.1:{port}"
    needed = needed or ("/health" if "--no-worker" in options else "/ready")
    log_path = folder / "server.log"
    with log_path.open("w") as log:
        server = subprocess.Popen(
            command, cwd=REPOSITORY, env={**os.environ, **own, **settings}, stdout=log, stderr=log
        )
    try:
        wait_until(
            lambda: server.poll() is not None or _is_up(url, needed), timeout_s=_START_TIMEOUT_S
        )
        assert server.poll() is None, log_path.read_text()
        yield url
    finally:
        server.terminate()
        server.wait(timeout=60)


def _is_up(url: str, path: str) -> bool:
    try:
        return httpx.get(url + path, timeout=_START_TIMEOUT_S).status_code == 200
    except httpx.TransportError:
        return False
