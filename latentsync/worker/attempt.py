"""One attempt at a job: passes it to the child process, saves its progress, enforces its limits."""

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

_POLL_EVERY_S = 0.2  # checks for cancellation and saves progress
_CANCEL_GRACE_S = 1.0  # for a run to stop after a request; then its process is killed


class WorkerStopping(Exception):
    """The worker is shutting down; its job is left for other workers."""


@dataclass(frozen=True)
class Limits:
    """Limits of a job.

    Attributes:
        attempts: maximum number of attempts.
        run_s: time limit of a run from its first progress report; a job may ask for less.
        loading_s: time limit until that report: starting, downloading weights, loading.
        room_s: delay before the next attempt after one that ran out of disk space.
        full_disk_s: how long, in total, a job may wait here while the disk is full.
    """

    attempts: int
    run_s: float
    loading_s: float
    room_s: float = 30.0
    full_disk_s: float = 86_400.0


class Attempt:
    """Runs one attempt.

    Args:
        job: as returned by :meth:`JobStore.begin`.
        key: storage key for the result.
        device: process that runs the job.
        store: saves progress and knows about cancellation.
        limits: of the job.
        stopping: set when the worker shuts down.
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
        self._progress: dict[str, Any] | None = None  # received, not yet saved
        self._lines: list[str] = []  # log lines, likewise
        self._run_began_at: float | None = None
        self._canceled_at: float | None = None  # when the run was asked to stop

    def run(self) -> Finished:
        """Pass the job to the process and return how the attempt ended.

        Raises:
            RunnerLost: the process ended without a result.
            WorkerStopping: the worker is shutting down.
        """
        job = self._job
        self._device.run({"id": job.id, "request": job.request, "output_key": self._key})
        began_at = polled_at = time.monotonic()
        while True:
            message = self._receive()
            if message is not None and (finished := self._on_message(message)) is not None:
                self._write_lines()  # a job that has ended accepts no more lines
                return finished if self._canceled_at is None else _CANCELED
            now = time.monotonic()
            if now - polled_at >= _POLL_EVERY_S:
                polled_at = now
                self._poll(now)
            if (finished := self._exceeded(now, began_at)) is not None:
                self._device.kill()
                self._write_lines()
                return finished

    def _receive(self) -> dict[str, Any] | None:
        try:
            return self._device.receive(_POLL_EVERY_S)
        except RunnerLost:
            self._write_lines()  # its last lines
            raise

    def _on_message(self, message: dict[str, Any]) -> Finished | None:
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

    def _poll(self, now: float) -> None:
        """Save progress and log lines, and pass on cancellation."""
        if self._stopping.is_set():
            raise WorkerStopping
        with surviving_database_errors(self._job):
            if (progress := self._progress) is not None:
                done, total = progress["frames_done"], progress["frames_total"]
                self._store.report(self._job, progress["stage"], progress["fraction"], done, total)
                self._progress = None
            self._write_lines()
            if self._canceled_at is None and not self._store.is_wanted(self._job):
                self._canceled_at = now
                self._device.cancel()

    def _write_lines(self) -> None:
        """Save the received lines in one transaction; a run logs most of them at once."""
        if self._lines:
            with surviving_database_errors(self._job):
                self._store.log(self._job, *self._lines)
                self._lines.clear()

    def _exceeded(self, now: float, began_at: float) -> Finished | None:
        """Return how the attempt ends if a limit is exceeded and its process must be killed."""
        if self._canceled_at is not None and now - self._canceled_at > _CANCEL_GRACE_S:
            return _CANCELED
        if (
            self._run_began_at is not None
            and now - self._run_began_at > self._run_s + _CANCEL_GRACE_S
        ):
            return _too_long(self._run_s)
        if self._run_began_at is None and now - began_at > self._loading_s:
            return _too_long(self._loading_s)
        return None


_CANCELED = Finished(JobStatus.CANCELED)


@contextmanager
def surviving_database_errors(job: Job) -> Iterator[None]:
    """Keep running through temporary database errors."""
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
