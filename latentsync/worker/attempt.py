"""Following one attempt while a device works on it: what is told of it, and when it must stop."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from latentsync.jobs.models import Job, JobError, JobStatus
from latentsync.jobs.store import Finished, JobStore
from latentsync.public_errors import log_database_error
from latentsync.worker.runner_process import RunnerLost, RunnerProcess

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.2  # whether the job is still wanted; progress is written as often
_STOPPING_S = 1.0  # for a run to stop by itself once it is asked to; then its process is killed


class WorkerStopping(Exception):
    """The worker stops; what it worked on is for others."""


@dataclass(frozen=True)
class Limits:
    """How much patience a job gets.

    Attributes:
        attempts: how often a job is begun at most.
        run_s: how long a run may take from its first sign of life; a job may ask for less.
        loading_s: how long a device may take until that sign: starting, bringing weights, loading.
        room_s: how long to wait before the next attempt after one that found no room.
        full_disk_s: how long a job may wait here, in all, for a disk that others have filled.
    """

    attempts: int
    run_s: float
    loading_s: float
    room_s: float = 30.0
    full_disk_s: float = 86_400.0


class Attempt:
    """Follows one attempt.

    Args:
        job: as it was begun.
        key: where the device shall store the result.
        device: does the work.
        store: hears of progress, and knows whether the job is still wanted.
        limits: of time.
        stopping: set when the worker shall stop.
    """

    def __init__(
        self,
        job: Job,
        key: str,
        device: RunnerProcess,
        store: JobStore,
        limits: Limits,
        stopping: Event,
    ) -> None:
        self._job = job
        self._key = key
        self._device = device
        self._store = store
        self._stopping = stopping
        asked_s = job.request["options"]["deadline_s"] or limits.run_s
        self._run_s = min(asked_s, limits.run_s)
        self._loading_s = limits.loading_s
        self._progress: dict[str, Any] | None = None  # heard, not yet written
        self._lines: list[str] = []  # likewise
        self._run_began_at: float | None = None
        self._asked_at: float | None = None  # when the run was asked to stop

    def follow(self) -> Finished:
        """Hand the job to the device and return how the attempt ended.

        Raises:
            DeviceLost: the process is gone, and the job is not ended.
            Stopping: the worker stops.
        """
        job = self._job
        self._device.run({"id": job.id, "request": job.request, "output_key": self._key})
        began_at = looked_at = time.monotonic()
        while True:
            message = self._receive()
            if message is not None and (finished := self._hear(message)) is not None:
                self._write_lines()  # nobody listens any more once the end is written
                return finished if self._asked_at is None else _CANCELED
            now = time.monotonic()
            if now - looked_at >= _LOOK_EVERY_S:
                looked_at = now
                self._look(now)
            if (finished := self._cut(now, began_at)) is not None:
                self._device.kill()
                self._write_lines()
                return finished

    def _receive(self) -> dict[str, Any] | None:
        try:
            return self._device.receive(_LOOK_EVERY_S)
        except RunnerLost:
            self._write_lines()  # its last words
            raise

    def _hear(self, message: dict[str, Any]) -> Finished | None:
        if "progress" in message:
            self._progress = message["progress"]
            if self._run_began_at is None:
                self._run_began_at = time.monotonic()
        if "log" in message:
            self._lines.append(message["log"])
        if "done" in message:
            done = message["done"]
            return Finished(
                JobStatus.SUCCEEDED,
                result_key=self._key,
                result_bytes=done["size_bytes"],
                details=done["details"],
            )
        if "error" in message:
            return Finished(JobStatus.FAILED, error=_job_error(message["error"]))
        return None

    def _look(self, now: float) -> None:
        """Pass progress and lines on, and the wish to stop."""
        if self._stopping.is_set():
            raise WorkerStopping
        with surviving_database_errors(self._job):
            if (told := self._progress) is not None:
                done, total = told["frames_done"], told["frames_total"]
                self._store.report(self._job, told["stage"], told["fraction"], done, total)
                self._progress = None
            self._write_lines()
            if self._asked_at is None and not self._store.is_wanted(self._job):
                self._asked_at = now
                self._device.cancel()

    def _write_lines(self) -> None:
        """Write what was heard since the last time, all at once: a run says most of it together."""
        if self._lines:
            with surviving_database_errors(self._job):
                self._store.log(self._job, *self._lines)
                self._lines.clear()

    def _cut(self, now: float, began_at: float) -> Finished | None:
        """Return how the attempt ends if its process must be killed now."""
        if self._asked_at is not None and now - self._asked_at > _STOPPING_S:
            return _CANCELED
        if self._run_began_at is not None and now - self._run_began_at > self._run_s + _STOPPING_S:
            return _too_long(self._run_s)
        if self._run_began_at is None and now - began_at > self._loading_s:
            return _too_long(self._loading_s)
        return None


_CANCELED = Finished(JobStatus.CANCELED)


@contextmanager
def surviving_database_errors(job: Job) -> Iterator[None]:
    """Let a record that is away or full for a while cost a job at work nothing."""
    try:
        yield
    except SQLAlchemyError as error:
        if log_database_error(error) is None:
            raise
        logger.debug("job %s goes on meanwhile", job.id)


def _job_error(error: dict[str, Any]) -> JobError:
    return JobError(error["code"], error["message"], error["status_code"], error["field"])


def _too_long(seconds: float) -> Finished:
    message = f"The run did not end within {seconds:g} s and was stopped."
    return Finished(JobStatus.FAILED, error=JobError("DEADLINE_EXCEEDED", message, 504))
