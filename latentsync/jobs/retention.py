"""Deletes expired results, media and uploads, and keeps storage within its limit."""

import time
from collections.abc import Callable, Collection

import sqlalchemy as sa

from latentsync.jobs.database import events, jobs
from latentsync.jobs.disk_space import stored_bytes
from latentsync.jobs.models import FINAL_STATUSES, Job, NewJob
from latentsync.jobs.queue import JobQueue
from latentsync.jobs.serialization import stored_folders, stored_keys
from latentsync.jobs.storage import INPUTS, RESULTS, UPLOADS, Storage
from latentsync.jobs.store import JobStore
from latentsync.settings import Settings

STRAY_S = 3600.0  # a file that belongs to no job after so long is an orphan
_BATCH = 200


class Retention:
    """Deletes what has expired, and the oldest results when storage exceeds its limit.

    A job's row is deleted after its files: after a crash in between, the next run finds the job
    again.

    Args:
        store: of the jobs.
        queue: of the jobs.
        files: storage of media, results and uploads.
        settings: retention times and the storage limit.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        store: JobStore,
        queue: JobQueue,
        files: Storage,
        settings: Settings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._queue = queue
        self._files = files
        self._settings = settings
        self._clock = clock

    def cleanup(self) -> None:
        """Delete everything that is due now."""
        before = self._clock() - self._settings.keep_results_s
        while expired := self._ended(jobs.c.finished_at < before):
            self._forget(expired)
        self._remove_older(UPLOADS, before)
        self._remove_excess()
        self._remove_older(INPUTS, self._clock() - STRAY_S, needed=self._folders_in_use)
        self._remove_older(RESULTS, self._clock() - STRAY_S, needed=self._known)

    def _remove_excess(self) -> None:
        """Delete the jobs that ended first until storage is within its limit."""
        excess = stored_bytes(self._store, self._files) - self._settings.max_stored_bytes
        while excess > 0 and (oldest := self._ended(jobs.c.result_bytes > 0)):
            chosen = []
            for job in oldest:
                if excess <= 0:
                    break
                chosen.append(job)
                excess -= job.result_bytes or 0
            self._forget(chosen)

    def _remove_older(
        self,
        folder: str,
        before: float,
        needed: Callable[[Collection[str]], Collection[str]] | None = None,
    ) -> None:
        """Delete the entries of a folder that were last changed before a time.

        Args:
            folder: RESULTS, INPUTS or UPLOADS.
            before: seconds since 1970.
            needed: returns those of the given names that must be kept.
        """
        changed_at = self._files.below(folder)
        old = {name for name in changed_at if changed_at[name] < before}
        if not old:
            return
        for name in old.difference(needed(old) if needed else ()):
            self._files.remove(f"{folder}/{name}")

    def _ended(self, condition: sa.ColumnElement[bool]) -> list[Job]:
        """Return a batch of ended jobs, in the order in which they ended."""
        chosen = sa.select(jobs).where(jobs.c.status.in_(FINAL_STATUSES), condition)
        return self._store.select(chosen.order_by(jobs.c.finished_at).limit(_BATCH))

    def _forget(self, ended: Collection[Job]) -> None:
        for job in ended:
            remove_media(self._files, job)
            self._files.remove(f"{RESULTS}/{job.id}")
        gone = [job.id for job in ended]
        self._queue.delete(gone)
        with self._store.engine.begin() as connection:
            connection.execute(events.delete().where(events.c.job_id.in_(gone)))
            numbers = [job.number for job in ended]
            connection.execute(jobs.delete().where(jobs.c.number.in_(numbers)))

    def _folders_in_use(self, _names: Collection[str]) -> set[str]:
        unfinished = self._store.select(sa.select(jobs).where(jobs.c.status.not_in(FINAL_STATUSES)))
        return {key.split("/")[1] for job in unfinished for key in stored_keys(job.request)}

    def _known(self, names: Collection[str]) -> set[str]:
        """Return the names that are ids of jobs."""
        ids, known = sorted(names), set[str]()
        with self._store.engine.connect() as connection:
            for start in range(0, len(ids), _BATCH):
                some = ids[start : start + _BATCH]
                known.update(
                    connection.execute(sa.select(jobs.c.id).where(jobs.c.id.in_(some))).scalars()
                )
        return known


def remove_media(files: Storage, job: Job | NewJob) -> None:
    """Delete the media stored for a job; they are not needed after its end."""
    for folder in stored_folders(job.request):
        files.discard(folder)
