"""Jobs and their events in the database.

Each change is one statement that contains its condition. If two processes believe they own a job,
only one of them can change it: the one with the latest attempt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from latentsync.jobs.database import events, jobs
from latentsync.jobs.models import Job, JobError, JobEvent, JobStatus, NewJob, Webhook

RUNNING = (JobStatus.QUEUED, JobStatus.PROCESSING)
POSITION = "position"  # column that LOOK adds to a job's own
_COLUMNS = jobs.c.keys()


def _look() -> sa.Select[Any]:
    others = jobs.alias()
    ahead = sa.select(sa.func.count()).where(
        others.c.status == JobStatus.QUEUED, others.c.number < jobs.c.number
    )
    queued = jobs.c.status == JobStatus.QUEUED
    position = sa.case((queued, ahead.scalar_subquery())).label(POSITION)
    return sa.select(jobs, position).where(jobs.c.id == sa.bindparam("job_id"))


# Built once: building them takes longer than running them.
LOOK = _look()
LOAD = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(jobs.c.input_bytes), 0)).where(
    jobs.c.owner == sa.bindparam("owner"), jobs.c.status.in_(RUNNING)
)
# Numbers increase in the order of the given rows, and the result has the same order.
INSERT = jobs.insert().returning(*jobs.c, sort_by_parameter_order=True)


def row_of(job: NewJob, created_at: float) -> dict[str, Any]:
    """Return the row of a new job; created_at is in seconds since 1970."""
    webhook = None if job.webhook is None else asdict(job.webhook)
    own = {name: value for name, value in vars(job).items() if name != "entry"}
    return {**own, "webhook": webhook, "status": JobStatus.QUEUED, "created_at": created_at}


def job_of(row: sa.Row[Any]) -> Job:
    """Return the job in a row with at least the columns of a job."""
    values = {name: row._mapping[name] for name in _COLUMNS}
    webhook, error = values.pop("webhook"), values.pop("error")
    if webhook is not None:
        # Earlier versions did not store base_url.
        webhook = Webhook(webhook["url"], tuple(webhook["events"]), webhook.get("base_url"))
    return Job(
        **{**values, "status": JobStatus(values["status"])},
        webhook=webhook,
        error=None if error is None else JobError(**error),
    )


Alongside = Callable[[sa.Connection, NewJob, int], None]
Announce = Callable[[sa.Connection, Job], None]


@dataclass(frozen=True)
class Finished:
    """How an attempt ended.

    Attributes:
        status: a final one.
        error: of a failed job.
        result_key, result_bytes, details: of a succeeded one.
    """

    status: JobStatus
    error: JobError | None = None
    result_key: str | None = None
    result_bytes: int | None = None
    details: dict[str, Any] | None = None


@dataclass(frozen=True)
class Load:
    """Queued and running jobs of an owner."""

    jobs: int
    input_bytes: int


class JobStore:
    """Reads and writes jobs; safe to use from many threads and processes.

    Args:
        engine: from :func:`latentsync.jobs.database.open_database`.
        clock: seconds since 1970.
        announce: called with each job that ends, within the transaction that ends it, so that both
            commit together.
    """

    def __init__(
        self,
        engine: sa.Engine,
        clock: Callable[[], float] = time.time,
        announce: Announce | None = None,
    ) -> None:
        self.engine = engine
        self._clock = clock
        self._announce = announce or _announce_nothing

    def insert(
        self, connection: sa.Connection, new: Sequence[NewJob], alongside: Alongside
    ) -> list[Job]:
        """Insert jobs, all or none, as part of the connection's transaction.

        Args:
            connection: with a transaction of :attr:`engine`.
            new: the jobs.
            alongside: called for each job with its number, within the same transaction, so that
                both commit together.

        Raises:
            IntegrityError: an id or an owner's idempotency key is already used.
        """
        if not new:
            return []
        now = self._clock()
        rows = [row_of(job, now) for job in new]
        added = [job_of(row) for row in connection.execute(INSERT, rows)]
        for job, recorded in zip(new, added, strict=True):
            alongside(connection, job, recorded.number)
        status = {"at": now, "kind": "status", "data": {"status": JobStatus.QUEUED}}
        connection.execute(events.insert(), [{"job_id": job.id, **status} for job in new])
        return added

    def named_alike(self, connection: sa.Connection, new: Sequence[NewJob]) -> list[Job]:
        """Return the stored jobs with the id or the owner's idempotency key of one of these."""
        keys = {(job.owner, job.idempotency_key) for job in new if job.idempotency_key is not None}
        named = [jobs.c.id.in_([job.id for job in new])]
        if keys:
            named.append(sa.tuple_(jobs.c.owner, jobs.c.idempotency_key).in_(sorted(keys)))
        return [job_of(row) for row in connection.execute(sa.select(jobs).where(sa.or_(*named)))]

    def get(self, job_id: str) -> Job | None:
        """Return the job of any owner."""
        return self._one(jobs.c.id == job_id)

    def look(self, job_id: str) -> tuple[Job, int | None] | None:
        """Return the job and its :meth:`position`, read together."""
        with self.engine.connect() as connection:
            row = connection.execute(LOOK, {"job_id": job_id}).first()
        return None if row is None else (job_of(row), row._mapping[POSITION])

    def find_submission(self, owner: str, idempotency_key: str) -> Job | None:
        """Return the job that was submitted with this key."""
        return self._one(jobs.c.owner == owner, jobs.c.idempotency_key == idempotency_key)

    def select(self, chosen: sa.Select[Any]) -> list[Job]:
        """Return the jobs found by a query that selects whole rows of jobs."""
        with self.engine.connect() as connection:
            return [job_of(row) for row in connection.execute(chosen)]

    def list_of(
        self,
        owner: str,
        *,
        status: JobStatus | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> list[Job]:
        """Return an owner's jobs, latest first.

        Args:
            owner: of the jobs.
            status: only jobs in this state.
            before: only jobs with a smaller number.
            limit: maximum number of jobs.
        """
        chosen = sa.select(jobs).where(jobs.c.owner == owner)
        if status is not None:
            chosen = chosen.where(jobs.c.status == status)
        if before is not None:
            chosen = chosen.where(jobs.c.number < before)
        return self.select(chosen.order_by(jobs.c.number.desc()).limit(limit))

    def oldest_waiting_s(self) -> float:
        """Return for how many seconds the first queued job has waited; 0 if there is none."""
        chosen = sa.select(sa.func.min(jobs.c.created_at)).where(jobs.c.status == JobStatus.QUEUED)
        with self.engine.connect() as connection:
            created_at = connection.execute(chosen).scalar()
        return 0.0 if created_at is None else max(0.0, self._clock() - created_at)

    def waiting(self, limit: int = 1000) -> list[Job]:
        """Return at most so many of the queued jobs of all owners, in their order."""
        chosen = sa.select(jobs).where(jobs.c.status == JobStatus.QUEUED)
        return self.select(chosen.order_by(jobs.c.number).limit(limit))

    def position(self, job: Job) -> int | None:
        """Return the number of jobs ahead in the queue, 0 for the next; None unless queued."""
        if job.status is not JobStatus.QUEUED:
            return None
        ahead = sa.select(sa.func.count()).where(
            jobs.c.status == JobStatus.QUEUED, jobs.c.number < job.number
        )
        with self.engine.connect() as connection:
            return int(connection.execute(ahead).scalar_one())

    def count(self) -> dict[JobStatus, int]:
        """Return the number of jobs in each state."""
        counted = sa.select(jobs.c.status, sa.func.count()).group_by(jobs.c.status)
        with self.engine.connect() as connection:
            found = {JobStatus(status): number for status, number in connection.execute(counted)}
        return {status: found.get(status, 0) for status in JobStatus}

    def load(self, owner: str, within: sa.Connection | None = None) -> Load:
        """Return the queued and running jobs of an owner.

        Args:
            owner: of the jobs.
            within: connection in whose transaction to read; by default a new one.
        """
        with nullcontext(within) if within else self.engine.connect() as connection:
            number, size_bytes = connection.execute(LOAD, {"owner": owner}).one()
        return Load(int(number), int(size_bytes))

    def begin(self, job_id: str, host: str) -> Job | None:
        """Begin the next attempt; None if the job has ended or does not exist."""
        now = self._clock()
        with self.engine.begin() as connection:
            row = connection.execute(
                jobs.update()
                .where(jobs.c.id == job_id, jobs.c.status.in_(RUNNING))
                .values(
                    status=JobStatus.PROCESSING,
                    attempts=jobs.c.attempts + 1,
                    host=host,
                    started_at=now,
                    stage="",
                    fraction=0.0,
                    frames_done=0,
                    frames_total=0,
                )
                .returning(*jobs.c)
            ).first()
            if row is None:
                return None
            data = {"status": JobStatus.PROCESSING, "attempt": row.attempts}
            _add_event(connection, job_id, now, "status", data)
        return job_of(row)

    def report(
        self, job: Job, stage: str, fraction: float, frames_done: int, frames_total: int
    ) -> bool:
        """Save the progress of an attempt; returns whether it is still the current one."""
        values = {
            "stage": stage,
            "fraction": fraction,
            "frames_done": frames_done,
            "frames_total": frames_total,
        }
        with self.engine.begin() as connection:
            changed = connection.execute(_current(job).values(**values)).rowcount
            if changed:
                _add_event(connection, job.id, self._clock(), "progress", values)
        return bool(changed)

    def log(self, job: Job, *lines: str) -> None:
        """Append lines to the job's log unless it has ended or its next attempt has begun."""
        running = (jobs.c.status.in_(RUNNING), jobs.c.attempts == job.attempts)
        counts = sa.select(jobs.c.id).where(jobs.c.id == job.id, *running).with_for_update()
        with self.engine.begin() as connection:
            if connection.execute(counts).first() is not None:
                for line in lines:
                    _add_event(connection, job.id, self._clock(), "log", {"line": line})

    def finish(self, job: Job, finished: Finished) -> bool:
        """End a job; returns False if it has ended already or another attempt has begun."""
        now = self._clock()
        values: dict[str, Any] = {
            "status": finished.status,
            "finished_at": now,
            "error": None if finished.error is None else asdict(finished.error),
            "result_key": finished.result_key,
            "result_bytes": finished.result_bytes,
            "details": finished.details,
        }
        progress = _final_progress(finished)
        with self.engine.begin() as connection:
            ended = _current(job).values(**values, **progress).returning(*jobs.c)
            row = connection.execute(ended).first()
            if row is not None:
                if progress:
                    _add_event(
                        connection, job.id, now, "progress", {"stage": row.stage, **progress}
                    )
                data = {"status": finished.status, "error": values["error"]}
                _add_event(connection, job.id, now, "status", data)
                self._announce(connection, job_of(row))
        return row is not None

    def cancel(self, job_id: str, *, running: bool = True) -> Job | None:
        """Cancel a queued job at once; ask a running one to stop. None if there is no such job.

        Args:
            job_id: of the job.
            running: False leaves a running job alone.
        """
        now = self._clock()
        with self.engine.begin() as connection:
            row = connection.execute(
                jobs.update()
                .where(jobs.c.id == job_id, jobs.c.status == JobStatus.QUEUED)
                .values(status=JobStatus.CANCELED, cancel_requested=True, finished_at=now)
                .returning(*jobs.c)
            ).first()
            if row is not None:
                _add_event(connection, job_id, now, "status", {"status": JobStatus.CANCELED})
                self._announce(connection, job_of(row))
            elif running:
                connection.execute(
                    jobs.update()
                    .where(jobs.c.id == job_id, jobs.c.status == JobStatus.PROCESSING)
                    .values(cancel_requested=True)
                )
        return self.get(job_id)

    def is_wanted(self, job: Job) -> bool:
        """Return whether an attempt should go on: it is current and was not asked to stop."""
        chosen = sa.select(jobs.c.cancel_requested).where(*_is_current(job))
        with self.engine.connect() as connection:
            asked_to_stop = connection.execute(chosen).scalar_one_or_none()
        return asked_to_stop is False

    def events(self, job_id: str, after: int = 0, limit: int = 500) -> list[JobEvent]:
        """Return the events of a job after the one with this number, in order."""
        chosen = (
            sa.select(events)
            .where(events.c.job_id == job_id, events.c.number > after)
            .order_by(events.c.number)
            .limit(limit)
        )
        with self.engine.connect() as connection:
            rows = connection.execute(chosen).all()
        return [JobEvent(row.number, row.job_id, row.at, row.kind, row.data) for row in rows]

    def processing(self) -> list[Job]:
        """Return the jobs with an attempt that has not ended, in their order."""
        chosen = sa.select(jobs).where(jobs.c.status == JobStatus.PROCESSING)
        return self.select(chosen.order_by(jobs.c.number))

    def undo_attempt(self, job: Job) -> None:
        """Uncount an attempt that was stopped for reasons unrelated to the job."""
        with self.engine.begin() as connection:
            connection.execute(_current(job).values(attempts=job.attempts - 1, started_at=None))

    def _one(self, *conditions: sa.ColumnElement[bool]) -> Job | None:
        with self.engine.connect() as connection:
            row = connection.execute(sa.select(jobs).where(*conditions)).first()
        return None if row is None else job_of(row)


def _announce_nothing(_connection: sa.Connection, _ended: Job) -> None:
    pass


def _final_progress(finished: Finished) -> dict[str, Any]:
    """Return the final progress of a succeeded job; the last report may be slightly behind."""
    if finished.status is not JobStatus.SUCCEEDED:
        return {}
    frames = (finished.details or {}).get("frames", 0)
    return {"fraction": 1.0, "frames_done": frames, "frames_total": frames}


def _is_current(job: Job) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        jobs.c.number == job.number,  # the id may belong to another job once this one is erased
        jobs.c.status == JobStatus.PROCESSING,
        jobs.c.attempts == job.attempts,
    )


def _current(job: Job) -> sa.Update:
    """Return an update that applies only if this attempt is the current one."""
    return jobs.update().where(*_is_current(job))


def _add_event(
    connection: sa.Connection, job_id: str, at: float, kind: str, data: dict[str, Any]
) -> None:
    connection.execute(events.insert().values(job_id=job_id, at=at, kind=kind, data=data))
