"""Runs jobs to their end: attempts, retries, and recording the outcome once."""

import logging
import time
import uuid
from dataclasses import replace
from threading import Event

from latentsync.errors import DiskFull, FolderUnusable, StorageUnavailable
from latentsync.jobs.disk_space import DiskReserve
from latentsync.jobs.models import Job, JobError, JobStatus
from latentsync.jobs.retention import remove_media
from latentsync.jobs.storage import RESULTS, Storage
from latentsync.jobs.store import Finished, JobStore
from latentsync.worker.attempt import Attempt, Limits, WorkerStopping, surviving_database_errors
from latentsync.worker.runner_process import RunnerLost, RunnerProcess

logger = logging.getLogger(__name__)

_POLL_EVERY_S = 0.2  # checks for cancellation while waiting
_RETRY_S = 1.0  # to save an outcome


class JobExecutor:
    """Runs jobs in one child process until each has ended or another worker has taken over.

    Args:
        store: of the jobs.
        files: storage of results.
        device: the child process; only one thread may call :meth:`run` at a time.
        reserve: disk space that must be free on this machine before an attempt begins.
        host: name of this worker.
        limits: of each job.
        stopping: set when the worker shuts down; the running attempt is not counted then.
    """

    def __init__(
        self,
        store: JobStore,
        files: Storage,
        device: RunnerProcess,
        reserve: DiskReserve,
        host: str,
        limits: Limits,
        stopping: Event,
    ) -> None:
        self._store = store
        self._files = files
        self._device = device
        self._reserve = reserve
        self._host = host
        self._limits = limits
        self._stopping = stopping

    def run(self, job_id: str) -> None:
        """Run a job until it has ended or another worker has taken over.

        Raises:
            WorkerStopping: the worker is shutting down; the running attempt is not counted.
        """
        full_until = time.monotonic() + self._limits.full_disk_s
        self._wait_for_reserve(job_id, full_until)
        job = self._begin(job_id, is_first=True)
        while job is not None and self._needs_another(job, full_until):
            self._wait_for_reserve(job_id, full_until)
            job = self._begin(job_id)
        self._clear(job_id)

    def _begin(self, job_id: str, *, is_first: bool = False) -> Job | None:
        """Begin the next attempt; None if none is needed.

        Args:
            job_id: of the job.
            is_first: this is the first attempt here; an earlier one was lost with its worker.
        """
        if self._stopping.is_set():
            raise WorkerStopping
        job = self._store.get(job_id)
        if job is None or job.status.is_final:
            return None
        if job.cancel_requested:
            self._store.finish(job, Finished(JobStatus.CANCELED))
            return None
        if job.attempts >= self._limits.attempts:
            self._store.finish(job, _given_up(job.attempts))
            return None
        if is_first and job.status is JobStatus.PROCESSING and job.started_at is not None:
            self._store.log(
                job, "The previous attempt was lost with its worker; starting another one."
            )
        return self._store.begin(job_id, self._host)

    def _needs_another(self, job: Job, full_until: float) -> bool:
        """Make one attempt; True if the process, disk or storage failed and another is needed."""
        key = f"{RESULTS}/{job.id}/{uuid.uuid4().hex}.mp4"
        try:
            finished = self._attempt(job, key)
        except RunnerLost:
            self._files.remove(key)
            logger.warning("job %s: attempt %d: its process was lost", job.id, job.attempts)
            self._store.log(job, f"Attempt {job.attempts} lost its process.")
            return self._is_latest(job)
        if _found_no_room(finished):
            job = self._excuse(job, full_until)
            if job.attempts < self._limits.attempts:
                self._wait_for_room(job)
                return self._is_latest(job)
        if _found_no_store(finished) and job.attempts < self._limits.attempts:
            self._wait_for_store(job)
            return self._is_latest(job)
        if _found_no_folder(finished) and job.attempts < self._limits.attempts:
            self._wait_for_folder(job)
            return self._is_latest(job)
        self._end(job, finished, key)
        return False

    def _end(self, job: Job, finished: Finished, key: str) -> None:
        """Save the outcome, retrying while the database is unreachable: results are expensive."""
        while True:
            with surviving_database_errors(job):
                self._store.finish(job, finished)
                now = self._store.get(
                    job.id
                )  # a commit may have succeeded although its reply was lost
                break
            if self._stopping.wait(_RETRY_S):
                raise WorkerStopping
        if now is None or now.result_key != key:
            self._files.remove(key)  # no job refers to it

    def _attempt(self, job: Job, key: str) -> Finished:
        attempt = Attempt(job, key, self._device, self._store, self._limits, self._stopping)
        try:
            return attempt.run()
        except BaseException as error:
            self._device.kill()  # its late messages must not be taken for the next attempt
            if isinstance(error, WorkerStopping):
                self._files.remove(key)
                self._store.log(job, "The worker was stopped; this attempt does not count.")
                self._store.undo_attempt(job)
            raise

    def _wait_for_reserve(self, job_id: str, full_until: float) -> None:
        """Wait while the disk is full, so that no attempt is spent on it."""
        is_logged = False
        while self._reserve.is_short() and time.monotonic() < full_until:
            job = self._store.get(job_id)
            if job is None or job.status.is_final or job.cancel_requested:
                return
            if not is_logged:
                is_logged = True
                logger.warning("job %s waits: the disk is full", job_id)
                self._store.log(job, "The disk is full; the job waits for free space.")
            if self._stopping.wait(_POLL_EVERY_S):
                return

    def _excuse(self, job: Job, full_until: float) -> Job:
        """Return the job as it is after an attempt that ran out of disk space.

        The attempt is not counted if the disk is full for other reasons. It counts if the job
        itself is too large, or the job would be retried for ever.
        """
        self._store.log(job, f"Attempt {job.attempts} ran out of disk space.")
        if not self._reserve.is_short() or time.monotonic() > full_until:
            return job
        self._store.undo_attempt(job)
        return replace(job, attempts=job.attempts - 1)

    def _wait_for_room(self, job: Job) -> None:
        """Give retention time to free disk space."""
        until = time.monotonic() + self._limits.room_s
        while time.monotonic() < until and self._store.is_wanted(job):
            if self._stopping.wait(_POLL_EVERY_S):
                return

    def _wait_for_store(self, job: Job) -> None:
        """Wait without a limit until storage is reachable; no attempt can succeed before."""
        self._store.log(job, f"Attempt {job.attempts} could not reach the store of files.")
        while self._store.is_wanted(job) and not self._files.answers():
            if self._stopping.wait(_POLL_EVERY_S):
                return

    def _wait_for_folder(self, job: Job) -> None:
        """Wait without a limit until the working folder can be used again."""
        self._store.log(job, f"Attempt {job.attempts} could not use the working folder.")
        logger.warning("job %s waits: the working folder cannot be used", job.id)
        while self._store.is_wanted(job) and not self._reserve.can_work():
            if self._stopping.wait(_POLL_EVERY_S):
                return

    def _is_latest(self, job: Job) -> bool:
        now = self._store.get(job.id)
        attempt = (job.number, job.status, job.attempts)
        return now is not None and (now.number, now.status, now.attempts) == attempt

    def _clear(self, job_id: str) -> None:
        """Delete the media of an ended job, and results of its lost attempts."""
        job = self._store.get(job_id)
        if job is None or not job.status.is_final:
            return
        remove_media(self._files, job)
        folder = f"{RESULTS}/{job.id}"
        if job.result_key is None:
            self._files.remove(folder)
        for name in self._files.below(folder):
            if (key := f"{folder}/{name}") != job.result_key:
                self._files.remove(key)


def _given_up(attempts: int) -> Finished:
    message = f"The process that made the video was lost {attempts} times. There is no result."
    return Finished(JobStatus.FAILED, error=JobError("WORKER_LOST", message, 500))


def _found_no_room(finished: Finished) -> bool:
    return finished.error is not None and finished.error.code == DiskFull.code


def _found_no_folder(finished: Finished) -> bool:
    return finished.error is not None and finished.error.code == FolderUnusable.code


def _found_no_store(finished: Finished) -> bool:
    return finished.error is not None and finished.error.code == StorageUnavailable.code
