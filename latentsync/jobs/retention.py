"""What is kept for how long and how much of it: results, media of jobs, uploads nobody used."""

import time
from collections.abc import Callable, Collection

import sqlalchemy as sa

from latentsync.jobs.database import events, jobs
from latentsync.jobs.disk_space import stored_bytes
from latentsync.jobs.models import Job, JobStatus, NewJob
from latentsync.jobs.queue import JobQueue
from latentsync.jobs.serialization import stored_folders, stored_keys
from latentsync.jobs.storage import INPUTS, RESULTS, UPLOADS, Storage
from latentsync.jobs.store import JobStore
from latentsync.settings import Settings

STRAY_S = 3600.0  # a file that belongs to no job after so long never will
_FINAL = [status for status in JobStatus if status.is_final]
_AT_ONCE = 200


class Retention:
    """Removes what is too old, and the oldest results when all of it is too much.

    A job is forgotten after its files are gone, so that a kill in between leaves nothing behind:
    the next round finds the job again.

    Args:
        store: the record.
        queue: to the line.
        files: the stored files.
        settings: how long and how much is kept.
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
        """Make one round."""
        before = self._clock() - self._settings.keep_results_s
        while expired := self._ended(jobs.c.finished_at < before):
            self._forget(expired)
        self._remove_older(UPLOADS, before)
        self._remove_excess()
        self._remove_older(INPUTS, self._clock() - STRAY_S, besides=self._folders_in_use)
        self._remove_older(RESULTS, self._clock() - STRAY_S, besides=self._known)

    def _remove_excess(self) -> None:
        """Forget the jobs that ended first until the rest is no more than allowed."""
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
        besides: Callable[[Collection[str]], Collection[str]] | None = None,
    ) -> None:
        """Remove what lies in a folder and was last changed before this time.

        Args:
            folder: RESULTS, INPUTS or UPLOADS.
            before: seconds since 1970.
            besides: returns those of the given names that are needed, however old they are.
        """
        changed_at = self._files.below(folder)
        old = {name for name in changed_at if changed_at[name] < before}
        if not old:
            return
        for name in old.difference(besides(old) if besides else ()):
            self._files.remove(f"{folder}/{name}")

    def _ended(self, condition: sa.ColumnElement[bool]) -> list[Job]:
        """Return some of the ended jobs, those first that ended first."""
        chosen = sa.select(jobs).where(jobs.c.status.in_(_FINAL), condition)
        return self._store.select(chosen.order_by(jobs.c.finished_at).limit(_AT_ONCE))

    def _forget(self, ended: Collection[Job]) -> None:
        for job in ended:
            remove_media(self._files, job)
            self._files.remove(f"{RESULTS}/{job.id}")
        gone = [job.id for job in ended]
        self._queue.forget(gone)
        with self._store.engine.begin() as connection:
            connection.execute(events.delete().where(events.c.job_id.in_(gone)))
            numbers = [job.number for job in ended]
            connection.execute(jobs.delete().where(jobs.c.number.in_(numbers)))

    def _folders_in_use(self, _names: Collection[str]) -> set[str]:
        unfinished = self._store.select(sa.select(jobs).where(jobs.c.status.not_in(_FINAL)))
        return {key.split("/")[1] for job in unfinished for key in stored_keys(job.request)}

    def _known(self, names: Collection[str]) -> set[str]:
        """Return those of the names that are ids of jobs."""
        ids, known = sorted(names), set[str]()
        with self._store.engine.connect() as connection:
            for start in range(0, len(ids), _AT_ONCE):
                some = ids[start : start + _AT_ONCE]
                known.update(
                    connection.execute(sa.select(jobs.c.id).where(jobs.c.id.in_(some))).scalars()
                )
        return known


def remove_media(files: Storage, job: Job | NewJob) -> None:
    """Remove the media that were stored for a job; once it has ended nobody reads them."""
    for folder in stored_folders(job.request):
        files.discard(folder)
