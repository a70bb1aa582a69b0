"""A real server of jobs with a real worker, whose engines are small and do as their seed says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from latentsync.server.app import build_app
from tests.server.clips import write_clip, write_speech
from tests.server.live import AUTH, KEY, REPOSITORY, serving, settings_for, wait_until

OTHER_KEY = "another-key"


@dataclass(frozen=True)
class Service:
    """What clients of a test need.

    Attributes:
        url: the server's.
        video, audio: small media.
        folder: for the test run.
    """

    url: str
    video: Path
    audio: Path
    folder: Path

    @property
    def media(self) -> tuple[Path, Path]:
        return self.video, self.audio


@contextmanager
def job_service(folder: Path, *, with_worker: bool = True, **changes: Any) -> Iterator[Service]:
    """Serve the native API with a worker; nothing of it runs afterwards."""
    settings = settings_for(folder, api_keys=(KEY, OTHER_KEY), **changes)
    media = write_clip(folder / "a folder's 中文" / 'my "clip".mp4'), write_speech(folder / "s.wav")
    with serving(build_app(settings)) as url:
        service = Service(url, *media, folder)
        if not with_worker:
            yield service
            return
        with _worker(settings.data_dir, settings.work_dir, folder / "worker.log"):
            wait_until(lambda: httpx.get(f"{url}/ready", headers=AUTH).status_code == 200)
            yield service


@contextmanager
def _worker(data_dir: Path, work_dir: Path, log_path: Path) -> Iterator[None]:
    environment = {
        "LATENTSYNC_DATA_DIR": str(data_dir),
        "LATENTSYNC_WORK_DIR": str(work_dir),
        "LATENTSYNC_MIN_FREE_BYTES": "0",
        "LATENTSYNC_OFFLINE": "1",
        "LATENTSYNC_ALLOW_PRIVATE_ADDRESSES": "1",
    }
    with log_path.open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "tests.jobs.worker_process"],
            cwd=REPOSITORY,
            env={**_without_settings(), **environment},
            stdin=subprocess.PIPE,
            stderr=log,
        )
        try:
            yield
        finally:
            assert worker.stdin is not None
            worker.stdin.close()  # ends with its parent
            worker.wait(timeout=60)


def _without_settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if "LATENTSYNC" not in name}
