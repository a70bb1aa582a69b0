"""Erasing a job at its owner's wish: media, result, request, events and notices.

The wish is one transaction that makes the job nobody's: from then on no caller finds it at any
address. Then its run is stopped, its files go, and its record goes last. What a kill, or a store of
files that is away, leaves undone is done by the housekeeping of any worker.
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

_NOBODY = ""  # owner of a job that is being erased; no key has this hash
_LEFT_S = 10.0  # an erasure not done by then was left by the server that began it


class Erasure:
    """Erases jobs; every step may be repeated, by any process.

    Args:
        store: the record.
        queue: to the line.
        files: the stored files.
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
        """Record that a job is to be erased; False if it is gone or somebody else has begun.

        Its run is asked to stop, nobody is told of its end, and its idempotency key is free again.
        """
        nobodys = {
            "owner": _NOBODY,
            "idempotency_key": None,
            "webhook": None,
            "cancel_requested": True,
            "result_key": None,
            "details": None,
            "error": None,
        }
        mine = (jobs.c.number == job.number, jobs.c.owner == job.owner)
        wish = {"number": job.number, "job_id": job.id, "asked_at": self._clock()}
        with translate_database_full(), self._store.engine.begin() as connection:
            if connection.execute(jobs.update().where(*mine).values(nobodys)).rowcount == 0:
                return False
            connection.execute(erasures.insert().values(wish))
        return True

    def finish(self, number: int) -> bool:
        """Remove everything of a job whose erasure has begun.

        Args:
            number: of the job.

        Returns:
            False while a worker has it in its hands: try again soon.

        Raises:
            StorageUnavailable, OSError: its files cannot be removed now.
        """
        found = self._store.select(sa.select(jobs).where(jobs.c.number == number))
        for job in found:
            if self._is_at_work(job) or not self._is_ended(job):
                return False
            for folder in (*stored_folders(job.request), f"{RESULTS}/{job.id}"):
                self._files.remove(folder)
            if not self._store.select(sa.select(jobs).where(jobs.c.number == number)):
                return True  # another process was quicker, and the id may be a new job's by now
            self._queue.forget([job.id])
            self._queue.webhooks.forget(job.number, job.id)
        with self._store.engine.begin() as connection:
            gone = [job.id for job in found]
            connection.execute(events.delete().where(events.c.job_id.in_(gone)))
            connection.execute(jobs.delete().where(jobs.c.number == number))
            done = erasures.update().where(erasures.c.number == number)
            connection.execute(done.values(done_at=self._clock()))
        return True

    def resume(self) -> None:
        """Finish what others have left, and forget erasures of which nothing can be left."""
        now = self._clock()
        left = sa.and_(erasures.c.done_at.is_(None), erasures.c.asked_at < now - _LEFT_S)
        with self._store.engine.connect() as connection:
            numbers = connection.execute(sa.select(erasures.c.number).where(left)).scalars().all()
        for number in numbers:
            try:
                self.finish(number)
            except (LatentSyncError, OSError) as error:  # the others must not wait for it
                logger.warning("a job could not be erased yet: %s", error)
        self._forget(now - LOST_S)

    def _forget(self, before: float) -> None:
        """Forget erasures that were done long enough ago.

        Whoever had read the job just before it went may have written something just after: the next
        attempt of a notice, which sends nothing but holds it, or an event.
        """
        old = erasures.c.done_at < before
        with self._store.engine.connect() as connection:
            rows = connection.execute(sa.select(erasures).where(old)).all()
        for row in rows:
            self._queue.webhooks.forget(row.number, row.job_id)
        if rows:
            known = sa.select(jobs.c.id).where(jobs.c.id == events.c.job_id).exists()
            with self._store.engine.begin() as connection:
                ids, numbers = [row.job_id for row in rows], [row.number for row in rows]
                connection.execute(events.delete().where(events.c.job_id.in_(ids), ~known))
                connection.execute(erasures.delete().where(erasures.c.number.in_(numbers)))

    def _is_at_work(self, job: Job) -> bool:
        """Tell whether a worker that lives has the job in its hands, or files of it."""
        if job.host not in {worker.name for worker in living_workers(self._store.engine)}:
            return False
        return job.status is JobStatus.PROCESSING or self._queue.is_at_work(job.id)

    def _is_ended(self, job: Job) -> bool:
        """End a job that waits, or whose worker is gone; False if a worker has just begun it."""
        if job.status.is_final:
            return True
        as_it_was = (jobs.c.status == job.status, jobs.c.attempts == job.attempts)
        ended = jobs.update().where(jobs.c.number == job.number, *as_it_was)
        with self._store.engine.begin() as connection:
            values = {"status": JobStatus.CANCELED, "finished_at": self._clock()}
            return bool(connection.execute(ended.values(values)).rowcount)


def is_erased(engine: sa.Engine, job_number: int) -> bool:
    """Tell whether a job is being erased, or was a while ago: nothing of it may be sent."""
    chosen = sa.select(erasures.c.number).where(erasures.c.number == job_number)
    with engine.connect() as connection:
        return connection.execute(chosen).first() is not None
