"""Erasing a job at its owner's request: media, result, request, events and webhooks.

One transaction takes the job from its owner: from then on it is not found at any address. Then its
run is stopped, its files are deleted, and its row is deleted last. If a crash or unreachable
storage interrupts this, the maintenance of any worker completes it.
"""

import logging
import time
from collections.abc import Callable

import sqlalchemy as sa

from latentsync.errors import LatentSyncError
from latentsync.jobs.database import erasures, events, jobs, translate_database_full
from latentsync.jobs.engine_availability import living_workers
from latentsync.jobs.models import Job, JobStatus
from latentsync.jobs.queue import LOST_S, JobQueue
from latentsync.jobs.serialization import stored_folders
from latentsync.jobs.storage import RESULTS, Storage
from latentsync.jobs.store import JobStore

logger = logging.getLogger(__name__)

_NO_OWNER = ""  # owner of a job that is being erased; no key has this hash
_LEFT_S = 10.0  # an erasure unfinished for so long was abandoned by the server that began it


class Erasure:
    """Erases jobs; every step is idempotent and may be repeated by any process.

    Args:
        store: of the jobs.
        queue: of the jobs.
        files: storage of media and results.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        store: JobStore,
        queue: JobQueue,
        files: Storage,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._queue = queue
        self._files = files
        self._clock = clock

    def begin(self, job: Job) -> bool:
        """Mark a job for erasure; False if it is gone or its erasure has begun already.

        Its run is asked to stop, its webhook is dropped, and its idempotency key is free again.
        """
        cleared = {
            "owner": _NO_OWNER,
            "idempotency_key": None,
            "webhook": None,
            "cancel_requested": True,
            "result_key": None,
            "details": None,
            "error": None,
        }
        mine = (jobs.c.number == job.number, jobs.c.owner == job.owner)
        erasure = {"number": job.number, "job_id": job.id, "asked_at": self._clock()}
        with translate_database_full(), self._store.engine.begin() as connection:
            if connection.execute(jobs.update().where(*mine).values(cleared)).rowcount == 0:
                return False
            connection.execute(erasures.insert().values(erasure))
        return True

    def finish(self, number: int) -> bool:
        """Delete everything of a job whose erasure has begun.

        Args:
            number: number of the job.

        Returns:
            False while a worker still works on it: try again soon.

        Raises:
            StorageUnavailable, OSError: its files cannot be deleted now.
        """
        found = self._store.select(sa.select(jobs).where(jobs.c.number == number))
        for job in found:
            if self._is_at_work(job) or not self._is_ended(job):
                return False
            for folder in (*stored_folders(job.request), f"{RESULTS}/{job.id}"):
                self._files.remove(folder)
            if not self._store.select(sa.select(jobs).where(jobs.c.number == number)):
                return True  # another process was faster, and the id may belong to a new job by now
            self._queue.delete([job.id])
            self._queue.webhooks.delete(job.number, job.id)
        with self._store.engine.begin() as connection:
            gone = [job.id for job in found]
            connection.execute(events.delete().where(events.c.job_id.in_(gone)))
            connection.execute(jobs.delete().where(jobs.c.number == number))
            done = erasures.update().where(erasures.c.number == number)
            connection.execute(done.values(done_at=self._clock()))
        return True

    def resume(self) -> None:
        """Complete abandoned erasures, and delete the rows of old ones."""
        now = self._clock()
        left = sa.and_(erasures.c.done_at.is_(None), erasures.c.asked_at < now - _LEFT_S)
        with self._store.engine.connect() as connection:
            numbers = connection.execute(sa.select(erasures.c.number).where(left)).scalars().all()
        for number in numbers:
            try:
                self.finish(number)
            except (LatentSyncError, OSError) as error:  # go on with the others
                logger.warning("a job could not be erased yet, will be retried: %s", error)
        self._forget(now - LOST_S)

    def _forget(self, before: float) -> None:
        """Delete the rows of erasures that were completed long enough ago.

        A process that read the job just before it was deleted may have written just after: an
        event, or the next delivery attempt, which sends nothing but contains the message.
        """
        old = erasures.c.done_at < before
        with self._store.engine.connect() as connection:
            rows = connection.execute(sa.select(erasures).where(old)).all()
        for row in rows:
            self._queue.webhooks.delete(row.number, row.job_id)
        if rows:
            known = sa.select(jobs.c.id).where(jobs.c.id == events.c.job_id).exists()
            with self._store.engine.begin() as connection:
                ids, numbers = [row.job_id for row in rows], [row.number for row in rows]
                connection.execute(events.delete().where(events.c.job_id.in_(ids), ~known))
                connection.execute(erasures.delete().where(erasures.c.number.in_(numbers)))

    def _is_at_work(self, job: Job) -> bool:
        """Return whether a live worker works on the job or has files of it open."""
        if job.host not in {worker.name for worker in living_workers(self._store.engine)}:
            return False
        return job.status is JobStatus.PROCESSING or self._queue.is_at_work(job.id)

    def _is_ended(self, job: Job) -> bool:
        """End a job that is queued or whose worker is dead; False if an attempt has just begun."""
        if job.status.is_final:
            return True
        unchanged = (jobs.c.status == job.status, jobs.c.attempts == job.attempts)
        ended = jobs.update().where(jobs.c.number == job.number, *unchanged)
        with self._store.engine.begin() as connection:
            values = {"status": JobStatus.CANCELED, "finished_at": self._clock()}
            return bool(connection.execute(ended.values(values)).rowcount)


def is_erased(engine: sa.Engine, job_number: int) -> bool:
    """Return whether a job is being or was recently erased; nothing of it may be sent then."""
    chosen = sa.select(erasures.c.number).where(erasures.c.number == job_number)
    with engine.connect() as connection:
        return connection.execute(chosen).first() is not None
