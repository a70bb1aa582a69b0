"""Two servers of one user, each with a data folder of its own, at the same time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.jobs.farm import Farm, farm, kill
from tests.ports import free_port
from tests.server.live import AUTH, KEY, REPOSITORY, answers, process, wait_until

pytestmark = pytest.mark.processes


@contextmanager
def serving_alongside(folder: Path, name: str) -> Iterator[str]:
    """Run ``latentsync serve`` with a data folder of its own and the work folder of all."""
    port = free_port()
    variables = {
        "LATENTSYNC_API_KEYS": KEY,
        "LATENTSYNC_DATA_DIR": str(folder / name),
        "LATENTSYNC_WORK_DIR": str(folder / "work"),
    }
    url = f"http://127.0.0.1:{port}"
    with process("-m", "latentsync", "serve", "--port", str(port), **variables) as server:
        wait_until(lambda: answers(url))
        wait_until(lambda: httpx.get(f"{url}/ready").status_code == 200)
        yield url
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=60) == 0


def test_servers_with_data_folders_of_their_own_have_a_worker_each(tmp_path: Path) -> None:
    with ExitStack() as running:
        urls = [
            running.enter_context(serving_alongside(tmp_path, name)) for name in ("mine", "yours")
        ]
        for url in urls:
            assert httpx.get(f"{url}/ready").json() == {"status": "ready", "workers": 1}
            assert httpx.get(f"{url}/v1/predictions", headers=AUTH).status_code == 200
    assert list((tmp_path / "work").iterdir()) == []


def test_the_demo_runs_while_a_server_does(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    with serving_alongside(tmp_path, "mine"):
        demo = subprocess.run(
            [sys.executable, str(REPOSITORY / "demo" / "demo.py")],
            cwd=tmp_path,
            env={**os.environ, "LATENTSYNC_WORK_DIR": str(tmp_path / "work")},
            capture_output=True,
            text=True,
            check=False,
        )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "The draft engine" in demo.stdout


def test_two_workers_of_one_name_and_database_exclude_each_other(tmp_path: Path) -> None:
    with farm(tmp_path / "a") as jobs:
        first = jobs.start()
        jobs.wait_until_ended([jobs.submit()])
        # Another work folder does not help: they share the database.
        second = jobs.start(work_dir=tmp_path / "elsewhere")
        assert second.wait(timeout=60) != 0
        assert "A worker named 'w' runs here already" in jobs.log()
        check_takes_its_job_back(jobs, first)


def check_takes_its_job_back(jobs: Farm, worker: subprocess.Popen[bytes]) -> None:
    """Check that a worker that is killed has its name and its jobs again as soon as it starts."""
    kill(worker)
    job = jobs.submit()
    jobs.start(work_dir=jobs.folder / "moved")
    jobs.wait_until_ended([job], timeout_s=100)
    assert "waiting for its heartbeat" not in jobs.log()
