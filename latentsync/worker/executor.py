"""One job on one device: attempt after attempt until it is ended, and ended once."""

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

_LOOK_EVERY_S = 0.2  # while waiting for room: whether the job is still wanted
_TRY_AGAIN_S = 1.0  # to record an end


class JobExecutor:
    """Runs jobs on one device process until each is ended or another worker has taken over.

    Args:
        store: the record.
        files: where results go.
        device: makes them; only one thread may call :meth:`run` at a time.
        reserve: what must be free on this machine's disks before an attempt begins.
        host: name of this worker.
        limits: how much patience a job gets.
        stopping: set when the worker shall stop; the job at work is handed back then.
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
        """Work on a job until it needs no more work here.

        Raises:
            Stopping: the worker stops; the job is as it was before this attempt.
        """
        full_until = time.monotonic() + self._limits.full_disk_s
        self._wait_for_reserve(job_id, full_until)
        job = self._begin(job_id, is_taken_up=True)
        while job is not None and self._another_is_due(job, full_until):
            self._wait_for_reserve(job_id, full_until)
            job = self._begin(job_id)
        self._clear(job_id)

    def _begin(self, job_id: str, *, is_taken_up: bool = False) -> Job | None:
        """Begin the next attempt, perhaps of a job somebody else had begun; None if none is due."""
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
        if is_taken_up and job.status is JobStatus.PROCESSING and job.started_at is not None:
            self._store.log(job, "An attempt was broken off with its worker; another one begins.")
        return self._store.begin(job_id, self._host)

    def _another_is_due(self, job: Job, full_until: float) -> bool:
        """Make one attempt; True if another is due because of the process, disk or store."""
        key = f"{RESULTS}/{job.id}/{uuid.uuid4().hex}.mp4"
        try:
            finished = self._follow(job, key)
        except RunnerLost:
            self._files.remove(key)
            logger.warning("job %s: attempt %d lost its process", job.id, job.attempts)
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
        """Record how a job ended, however long the record is away: what was made is dear."""
        while True:
            with surviving_database_errors(job):
                self._store.finish(job, finished)
                now = self._store.get(job.id)  # tells, too, of a try that came through unheard
                break
            if self._stopping.wait(_TRY_AGAIN_S):
                raise WorkerStopping
        if now is None or now.result_key != key:
            self._files.remove(key)  # nobody will ever ask for it

    def _follow(self, job: Job, key: str) -> Finished:
        watch = Attempt(job, key, self._device, self._store, self._limits, self._stopping)
        try:
            return watch.follow()
        except BaseException as error:
            self._device.kill()  # what it still says of this attempt must not be taken for the next
            if isinstance(error, WorkerStopping):
                self._files.remove(key)
                self._store.log(job, "The worker was stopped: this attempt does not count.")
                self._store.hand_back(job)
            raise

    def _wait_for_reserve(self, job_id: str, full_until: float) -> None:
        """Wait while the disk is full: what was accepted is not lost for it, nor an attempt."""
        told = False
        while self._reserve.is_short() and time.monotonic() < full_until:
            job = self._store.get(job_id)
            if job is None or job.status.is_final or job.cancel_requested:
                return
            if not told:
                told = True
                logger.warning("job %s waits: the disk is full", job_id)
                self._store.log(job, "The disk is full: the job waits for room.")
            if self._stopping.wait(_LOOK_EVERY_S):
                return

    def _excuse(self, job: Job, full_until: float) -> Job:
        """Return the job as it is after an attempt that found no room.

        Where others filled the disk the attempt does not count; where the job is too large for
        the disk it does, or the job would be tried for ever.
        """
        self._store.log(job, f"Attempt {job.attempts} found no room on the disk.")
        if not self._reserve.is_short() or time.monotonic() > full_until:
            return job
        self._store.hand_back(job)
        return replace(job, attempts=job.attempts - 1)

    def _wait_for_room(self, job: Job) -> None:
        """Give housekeeping time to make room on the disk."""
        until = time.monotonic() + self._limits.room_s
        while time.monotonic() < until and self._store.is_wanted(job):
            if self._stopping.wait(_LOOK_EVERY_S):
                return

    def _wait_for_store(self, job: Job) -> None:
        """Wait until the store of files answers, however long: only then an attempt makes sense."""
        self._store.log(job, f"Attempt {job.attempts} could not reach the store of files.")
        while self._store.is_wanted(job) and not self._files.answers():
            if self._stopping.wait(_LOOK_EVERY_S):
                return

    def _wait_for_folder(self, job: Job) -> None:
        """Wait until the work folder can be used again, however long, for the same reason."""
        self._store.log(job, f"Attempt {job.attempts} could not use the working folder.")
        logger.warning("job %s waits: the working folder cannot be used", job.id)
        while self._store.is_wanted(job) and not self._reserve.can_work():
            if self._stopping.wait(_LOOK_EVERY_S):
                return

    def _is_latest(self, job: Job) -> bool:
        now = self._store.get(job.id)
        attempt = (job.number, job.status, job.attempts)
        return now is not None and (now.number, now.status, now.attempts) == attempt

    def _clear(self, job_id: str) -> None:
        """Remove what an ended job needs no more: its media, and what lost attempts left."""
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
    message = f"The process that made the video was lost {attempts} times. Nothing was made."
    return Finished(JobStatus.FAILED, error=JobError("WORKER_LOST", message, 500))


def _found_no_room(finished: Finished) -> bool:
    return finished.error is not None and finished.error.code == DiskFull.code


def _found_no_folder(finished: Finished) -> bool:
    return finished.error is not None and finished.error.code == FolderUnusable.code


def _found_no_store(finished: Finished) -> bool:
    return finished.error is not None and finished.error.code == StorageUnavailable.code
