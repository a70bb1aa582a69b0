"""What the tests of the queue contracts run against: a server of jobs, with or without a worker."""

from __future__ import annotations

import functools
import http.server
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
from fastapi import FastAPI
from pydantic import SecretStr

from latentsync.jobs.models import Job, JobStatus
from latentsync.jobs.store import Finished
from latentsync.server.app import build_app
from tests.jobs.farm import Farm, farm
from tests.server.live import KEY, serving

OTHER_KEY = "another-key"
OTHER_AUTH = {"Authorization": f"Bearer {OTHER_KEY}"}
UNKNOWN_IDS = (str(uuid.UUID(int=0)), "nothing", "..", "%00", "a" * 3000, "%2e%2e%2fetc")


class Server:
    """A server and its job service.

    Attributes:
        url: where it listens.
        farm: its database, its files and its workers.
        app: what it serves.
    """

    def __init__(self, url: str, behind: Farm, app: FastAPI) -> None:
        self.url = url
        self.farm = behind
        self.app = app

    def job(self, job_id: str) -> Job:
        """Return a job as it is recorded."""
        job = self.farm.service.store.get(job_id)
        assert job is not None
        return job

    def wait_for_end(self, *job_ids: str) -> None:
        """Wait until the jobs have ended."""
        self.farm.wait_for(lambda: all(self.job(one).status.is_final for one in job_ids))

    def empty(self) -> None:
        """End every job that waits or seems to run, as if it had never been."""
        store = self.farm.service.store
        for job in store.waiting():
            store.cancel(job.id)
        for job in store.processing():
            store.finish(job, Finished(JobStatus.CANCELED))


@contextmanager
def queue_server(
    folder: Path, *, require_key: bool = True, worker: bool = False, **settings: Any
) -> Iterator[Server]:
    """Serve jobs for two keys, with a worker whose engine is small or with none."""
    with farm(folder, allow_private_addresses=True, **settings) as behind:
        if worker:
            behind.start()
        keys = (SecretStr(KEY), SecretStr(OTHER_KEY))
        app = build_app(
            behind.settings.model_copy(update={"api_keys": keys}), require_key=require_key
        )
        with serving(app) as url:
            yield Server(url, behind, app)


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def offering(folder: Path) -> Iterator[str]:
    """Offer a folder's files over HTTP; yields the address."""
    handler = functools.partial(_Silent, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def run_script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a published client as it is."""
    path = Path(__file__).parent / "published" / name
    return subprocess.run(
        [sys.executable, str(path), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def plays(path: Path) -> bool:
    """Return whether a file is a video with sound."""
    with av.open(path) as container:
        return bool(list(container.decode(video=0))) and bool(container.streams.audio)
