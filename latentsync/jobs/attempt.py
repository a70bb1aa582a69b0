"""One attempt of one job on one device: watch it, stop it, end it once."""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import dataclass
from typing import Any

from latentsync.jobs.device_process import DeviceLost, DeviceProcess
from latentsync.jobs.files import FileStore
from latentsync.jobs.job import Job, JobError, JobStatus
from latentsync.jobs.store import Finished, JobStore

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.25  # whether the job is still wanted
_STOPPING_S = 1.5  # for the process to stop by itself once it is asked; then it is killed


@dataclass(frozen=True)
class Limits:
    """How much patience a job gets.

    Attributes:
        attempts: how often a job is begun at most.
        seconds: how long one attempt may take, whatever the run's own deadline.
    """

    attempts: int
    seconds: float


class Attempts:
    """Runs jobs on one device process until each is ended or another worker has taken over."""

    def __init__(
        self, store: JobStore, files: FileStore, device: DeviceProcess, host: str, limits: Limits
    ) -> None:
        self._store = store
        self._files = files
        self._device = device
        self._host = host
        self._limits = limits

    def run(self, job_id: str) -> None:
        """Work on a job until it needs no more work here."""
        while True:
            job = self._store.begin(job_id, self._host)
            if job is None:
                return
            if job.attempts > self._limits.attempts:
                self._give_up(job)
                return
            if self._run_once(job):
                return

    def _give_up(self, job: Job) -> None:
        tried = self._limits.attempts
        message = f"The process that made the video was lost {tried} times. Nothing was made."
        error = JobError("WORKER_LOST", message, 500)
        self._store.finish(job, Finished(JobStatus.FAILED, error=error))

    def _run_once(self, job: Job) -> bool:
        """Run one attempt; False if its process was lost and another attempt is due."""
        key = f"results/{job.id}/{uuid.uuid4().hex}.mp4"
        if job.cancel_requested:
            return self._end(job, Finished(JobStatus.CANCELED), key)
        try:
            self._device.run({"request": job.request, "output_key": key})
            finished = self._watch(job, key)
        except DeviceLost:
            self._device.kill()
            self._files.remove(key)
            logger.warning("job %s: attempt %d lost its process", job.id, job.attempts)
            self._store.log(job, f"Attempt {job.attempts} lost its process.")
            return not self._store.is_wanted(job) and self._end_if_unwanted(job, key)
        return self._end(job, finished, key)

    def _end_if_unwanted(self, job: Job, key: str) -> bool:
        """A job that was asked to stop while its process was lost ends as canceled."""
        return self._end(job, Finished(JobStatus.CANCELED), key)

    def _end(self, job: Job, finished: Finished, key: str) -> bool:
        if not self._store.finish(job, finished) or finished.status is not JobStatus.SUCCEEDED:
            self._files.remove(key)  # nobody will ever ask for it
        return True

    def _watch(self, job: Job, key: str) -> Finished:
        """Pass progress on until the attempt ends, is no longer wanted, or takes too long."""
        started = looked = time.monotonic()
        asked_at: float | None = None
        while True:
            message = self._device.receive(_LOOK_EVERY_S)
            if message is not None and (ended := self._hear(job, message, key)) is not None:
                return ended if asked_at is None else Finished(JobStatus.CANCELED)
            now = time.monotonic()
            if now - started > self._limits.seconds:
                self._device.kill()
                return _too_long(self._limits.seconds)
            if asked_at is None and now - looked >= _LOOK_EVERY_S:
                looked = now
                if not self._store.is_wanted(job):
                    asked_at = now
                    self._device.cancel()
            if asked_at is not None and now - asked_at > _STOPPING_S:
                self._device.kill()
                return Finished(JobStatus.CANCELED)

    def _hear(self, job: Job, message: dict[str, Any], key: str) -> Finished | None:
        if "progress" in message:
            told = message["progress"]
            self._store.report(
                job, told["stage"], told["fraction"], told["frames_done"], told["frames_total"]
            )
        if "done" in message:
            done = message["done"]
            return Finished(
                JobStatus.SUCCEEDED,
                result_key=key,
                result_bytes=done["size_bytes"],
                details=done["details"],
            )
        if "error" in message:
            error = message["error"]
            return Finished(JobStatus.FAILED, error=_job_error(error))
        return None


def _job_error(error: dict[str, Any]) -> JobError:
    return JobError(error["code"], error["message"], error["status_code"], error["field"])


def _too_long(seconds: float) -> Finished:
    message = f"The run did not end within {seconds:g} s and was stopped."
    return Finished(JobStatus.FAILED, error=JobError("DEADLINE_EXCEEDED", message, 504))
