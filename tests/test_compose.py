"""Does what deploy/compose.yaml says, with processes instead of containers.

Images cannot be had: Postgres is the distribution's, the object store is the tests' own, and every
container's command runs with the file's environment and no other, in a folder of its own.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import yaml

from tests.demo_media import DEMO_VIDEO
from tests.jobs.farm import REPOSITORY
from tests.jobs.object_store import ObjectStore, object_store
from tests.jobs.postgres import postgres
from tests.ports import free_port
from tests.server.clips import write_speech
from tests.server.live import wait_until
from tests.server.queues import plays

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FILE = yaml.safe_load((REPOSITORY / "deploy" / "compose.yaml").read_text())
SERVICES: dict[str, Any] = FILE["services"]
GIVEN = {
    "LATENTSYNC_API_KEY": "my-key",
    "POSTGRES_PASSWORD": "password0",
    "STORE_SECRET": "secret-of-the-store",
}
AUTH = {"Authorization": f"Bearer {GIVEN['LATENTSYNC_API_KEY']}"}
WORKERS = 2
STARTING_S, ENDING_S = 120.0, 60.0


def filled_in(value: str) -> str:
    """Return a value with the variables that the file takes from its caller."""
    return re.sub(r"\$\{(\w+)(:\?[^}]*)?\}", lambda found: GIVEN[found[1]], value)


def environment_of(service: str) -> dict[str, str]:
    return {key: filled_in(value) for key, value in SERVICES[service]["environment"].items()}


@contextmanager
def database() -> Iterator[tuple[str, int]]:
    """Run Postgres with the user and the database of the file; yields host and port."""
    with postgres() as url:
        address = httpx.URL(url.replace("postgresql+psycopg", "http"))
        assert address.port is not None
        own = environment_of("postgres")
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as admin:
            admin.execute(
                f"CREATE USER {own['POSTGRES_USER']} PASSWORD '{own['POSTGRES_PASSWORD']}'"
            )
            admin.execute(f"CREATE DATABASE {own['POSTGRES_DB']} OWNER {own['POSTGRES_USER']}")
        yield address.host, address.port


@contextmanager
def bucket() -> Iterator[ObjectStore]:
    """Run a store with the administrator of one service and the bucket that another one makes."""
    made = re.search(r"mc mb -p s/([a-z0-9-]+)", SERVICES["bucket"]["entrypoint"])
    assert made is not None
    own = environment_of("store")
    with object_store(made[1], own["MINIO_ROOT_USER"], own["MINIO_ROOT_PASSWORD"]) as store:
        yield store


class Cluster:
    """The containers of this package, as processes.

    Args:
        folder: for everything they write.
        database: host and port of Postgres.
        store: with the files.
    """

    def __init__(self, folder: Path, database: tuple[str, int], store: ObjectStore) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._addresses = {
            "@postgres/": f"@{database[0]}:{database[1]}/",
            "http://store:9000": store.url,
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, service: str, name: str, *more: str) -> None:
        """Start a container of a service."""
        home = self.folder / name
        home.mkdir()
        environment = environment_of(service)
        for key, value in environment.items():
            for theirs, ours in self._addresses.items():
                value = value.replace(theirs, ours)
            environment[key] = value.replace("/weights", str(home / "weights"))
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", *SERVICES[service]["command"], *more],
                cwd=home,
                # A container has its own name and temporary folder.
                env={
                    "PATH": os.environ["PATH"],
                    "PYTHONPATH": str(REPOSITORY),
                    "HOME": str(home),
                    "TMPDIR": str(home),
                    "LATENTSYNC_WORKER_NAME": name,
                    **environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def is_healthy(self) -> bool:
        """Run the file's health check of the API."""
        kind, program, *arguments = SERVICES["api"]["healthcheck"]["test"]
        assert (kind, program) == ("CMD", "python")
        requested = [argument.replace(":8000", f":{self.port}") for argument in arguments]
        check = [sys.executable, *requested]
        return subprocess.run(check, capture_output=True, check=False).returncode == 0

    def workers(self) -> int:
        """Return how many workers the API knows to live."""
        return int(httpx.get(f"{self.url}/ready").json().get("workers", 0))

    def stop(self) -> dict[str, int]:
        """Stop all as Compose does; returns their exit statuses."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        return {name: process.wait(ENDING_S) for name, process in self.processes.items()}

    def kill(self) -> None:
        """End what is left."""
        for process in self.processes.values():
            process.kill()
            process.wait()

    def remains(self) -> list[str]:
        """Return the processes that still live in these containers."""
        return [
            path.parent.name for path in Path("/proc").glob("[0-9]*/environ") if self._has(path)
        ]

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("*.log")))

    def _has(self, environ: Path) -> bool:
        try:
            return f"TMPDIR={self.folder}/".encode() in environ.read_bytes()
        except OSError:  # it ended meanwhile, or belongs to another user
            return False


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    folder = tmp_path / "containers"
    folder.mkdir()
    with ExitStack() as running:
        address = running.enter_context(database())
        assert postgres_is_healthy(*address)
        lent = Cluster(folder, address, running.enter_context(bucket()))
        running.callback(lent.kill)
        yield lent


def postgres_is_healthy(host: str, port: int) -> bool:
    """Run the file's health check of Postgres."""
    kind, program, *arguments = SERVICES["postgres"]["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "pg_isready")
    assert arguments[arguments.index("-h") + 1] == host
    path = max(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))
    check = [str(path), *arguments, "-p", str(port)]
    return subprocess.run(check, capture_output=True, check=False).returncode == 0


def submit(caller: httpx.Client, folder: Path, seconds: float) -> str:
    speech = write_speech(folder / f"{seconds}.wav", seconds=seconds)
    files = {
        "video": (DEMO_VIDEO.name, DEMO_VIDEO.read_bytes()),
        "audio": (speech.name, speech.read_bytes()),
    }
    answer = caller.post("/v1/predictions", files=files, data={"engine": "draft"})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def test_the_file_as_it_is_makes_videos_and_leaves_nothing(
    cluster: Cluster, tmp_path: Path
) -> None:
    # All at once, as after a power cut: they make the tables side by side.
    cluster.start("api", "api", "--port", str(cluster.port))
    for number in range(1, WORKERS + 1):
        cluster.start("worker", f"worker-{number}")
    wait_until(cluster.is_healthy, timeout_s=STARTING_S)
    wait_until(lambda: cluster.workers() == WORKERS, timeout_s=STARTING_S)
    with httpx.Client(base_url=cluster.url, headers=AUTH, timeout=60) as caller:
        ids = [submit(caller, tmp_path, seconds) for seconds in (0.5, 0.7)]
        for job_id in ids:
            shown = f"/v1/predictions/{job_id}"
            wait_until(
                lambda shown=shown: caller.get(shown).json()["finished_at"] is not None,
                timeout_s=STARTING_S,
            )
            assert caller.get(shown).json()["status"] == "succeeded", cluster.logs()
            video = tmp_path / f"{job_id}.mp4"
            video.write_bytes(caller.get(f"{shown}/output").content)
            assert plays(video)
        assert httpx.get(f"{cluster.url}/v1/predictions").status_code == 401
    assert cluster.stop() == dict.fromkeys(cluster.processes, 0), cluster.logs()
    wait_until(lambda: cluster.remains() == [], timeout_s=ENDING_S)
    for secret in GIVEN.values():
        assert secret not in cluster.logs()
