"""Workers as real processes, a desk, and what must hold after all of them were killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from latentsync.jobs.models import Job
from latentsync.jobs.service import JobService, Submission
from latentsync.schema.run import PathSource, RunOptions, RunRequest
from latentsync.settings import Settings
from tests.jobs.square_runner import gate_of
from tests.server.clips import write_clip, write_speech
from tests.server.live import files_in

REPOSITORY = Path(__file__).resolve().parents[2]
OWNER = "owner-of-the-tests"


class Farm:
    """A database and a file store in a folder, a desk, and workers that may be killed.

    Args:
        folder: for everything.
        settings: of all processes, besides the folders.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        own = {"data_dir": folder / "data", "work_dir": folder / "work", "offline": True}
        self.settings = Settings(**{**own, "min_free_bytes": 0, "worker_name": "w", **settings})
        self.service = JobService(self.settings)
        self.request = RunRequest(
            PathSource(write_clip(folder / "clip.mp4"), "video"),
            PathSource(write_speech(folder / "speech.wav"), "audio"),
        )
        self._workers: list[subprocess.Popen[bytes]] = []

    def submit(self, seed: int = 0, **options: Any) -> Job:
        """Hand in a job whose run goes as its seed says; see ``square_device``."""
        return self.service.submit([self.submission(seed, **options)], OWNER)[0]

    def submission(self, seed: int = 0, **options: Any) -> Submission:
        """Return a job that may be handed in."""
        asked = RunOptions(seed=seed, **options)
        request = RunRequest(self.request.video, self.request.audio, asked)
        return Submission(request, uuid.uuid4().hex)

    def start(
        self,
        name: str = "w",
        *,
        command: Sequence[str] = ("tests.jobs.worker_process",),
        **settings: Any,
    ) -> subprocess.Popen[bytes]:
        """Start a worker, or another module with its arguments, in a group of its own."""
        with (self.folder / "worker.log").open("ab") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=REPOSITORY,
                env=self._environment(worker_name=name, **settings),
                stdin=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        self._workers.append(worker)
        return worker

    @contextmanager
    def submitter(self) -> Iterator[subprocess.Popen[str]]:
        """Lend a process that hands in jobs for as long as it lives."""
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.jobs.submitter", str(self.folder)],
            cwd=REPOSITORY,
            env=self._environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def open_gate(self) -> None:
        """Let the runs go on that wait for it, and all that come."""
        gate_of(self.settings.data_dir).touch()

    def job(self, job: Job) -> Job:
        """Return the job as it is now."""
        return self.service.job(job.id, OWNER)

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> float:
        """Wait until something holds; returns the seconds it took."""
        started = time.monotonic()
        while not condition():
            assert time.monotonic() - started < timeout_s, self.log()
            time.sleep(0.01)
        return time.monotonic() - started

    def wait_until_ended(self, jobs: Iterable[Job], timeout_s: float = 100.0) -> list[Job]:
        """Wait until all jobs are ended, and return them as they are then."""
        asked = list(jobs)
        self.wait_for(lambda: all(self.job(job).status.is_final for job in asked), timeout_s)
        return [self.job(job) for job in asked]

    def log(self) -> str:
        """Return what the workers have logged."""
        return (self.folder / "worker.log").read_text()

    def processes(self) -> list[int]:
        """Return the ids of the living processes of this farm: workers and devices."""
        return [pid for pid in _pids() if _belongs(pid, self.settings.data_dir)]

    def results(self, job: Job) -> list[Path]:
        """Return the files that lie where a job's result belongs."""
        return [path for path in self._files("results") if job.id in path.parts]

    def media(self) -> list[Path]:
        """Return the stored media of jobs."""
        return self._files("inputs")

    def working_folders(self) -> list[Path]:
        """Return what lies in the work folder of requests."""
        return files_in(self.settings.work_dir)

    def close(self) -> None:
        """Kill what runs, and let go of the database."""
        for worker in self._workers:
            kill(worker)
            if worker.stdin is not None:
                worker.stdin.close()
        self.service.close()

    def _environment(self, **settings: Any) -> dict[str, str]:
        changed = self.settings.model_copy(update=settings)
        given = {f"LATENTSYNC_{key.upper()}": str(value) for key, value in _set(changed)}
        return {**os.environ, **given}

    def _files(self, folder: str) -> list[Path]:
        root = Path(self.settings.storage) / folder
        # Folders go while they are looked through: os.walk minds that no more than a user does.
        return sorted(Path(home, name) for home, _, names in os.walk(root) for name in names)


@contextmanager
def farm(folder: Path, **settings: Any) -> Iterator[Farm]:
    """Lend a farm; nothing of it runs afterwards."""
    lent = Farm(folder, **settings)
    try:
        yield lent
    finally:
        lent.close()


def kill(worker: subprocess.Popen[bytes]) -> None:
    """kill -9 a worker, and not its device: that must end by itself."""
    worker.kill()
    worker.wait()


def kill_group(worker: subprocess.Popen[bytes]) -> None:
    """kill -9 everything in the worker's group."""
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


def _set(settings: Settings) -> Iterator[tuple[str, Any]]:
    for key in settings.model_fields_set:
        value = getattr(settings, key)
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        if value is not None:
            yield key, value


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _belongs(pid: int, data_dir: Path) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return f"LATENTSYNC_DATA_DIR={data_dir}".encode() in environment and state != "Z"
