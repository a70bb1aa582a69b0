"""Notifications about changes of jobs and of their queue positions.

One poll of the database serves all subscribers of a process.
"""

import asyncio
import logging
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from latentsync.jobs.database import events, jobs
from latentsync.jobs.models import FINAL_STATUSES, Job, JobStatus
from latentsync.public_errors import log_database_error

logger = logging.getLogger(__name__)

_POLL_EVERY_S = 0.1
_READ_QUEUE_EVERY_S = 0.25
_RETRY_AFTER_S = 1.0


class JobNotifier:
    """Notifies the subscribers of a job; for one event loop.

    Polls the database only while there are subscribers.

    Args:
        engine: the database of jobs.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._subscribers: dict[str, set[asyncio.Event]] = {}
        self._last_event: int | None = None  # number of the newest event seen
        self._queued: list[int] = []  # numbers of the queued jobs, in order
        self._queue_read_at = float("-inf")
        self._queue_has_changed = True
        self._polling: asyncio.Task[None] | None = None
        self.is_closed = False

    def close(self) -> None:
        """Wake all subscribers because the process is shutting down."""
        self.is_closed = True
        self._notify(None)

    def position(self, job: Job) -> int | None:
        """Return how many jobs were ahead at the last poll; None unless the job was queued then.

        Makes no query; known only while there is a subscriber.
        """
        place = bisect_left(self._queued, job.number)
        return place if self._queued[place : place + 1] == [job.number] else None

    @contextmanager
    def subscribe(self, job_id: str) -> Iterator[asyncio.Event]:
        """Yield an event that is set soon after each change of the job.

        Read the job after entering the block, so that no change is missed. Wait with a time limit
        nevertheless: on Postgres, the event of a slow transaction may become visible after later
        ones and be missed.
        """
        changed = asyncio.Event()
        self._subscribers.setdefault(job_id, set()).add(changed)
        if self._polling is None or self._polling.done():
            self._last_event = None
            self._polling = asyncio.create_task(self._poll_while_subscribed())
        try:
            yield changed
        finally:
            self._subscribers[job_id].discard(changed)
            if not self._subscribers[job_id]:
                del self._subscribers[job_id]

    async def _poll_while_subscribed(self) -> None:
        while self._subscribers:
            try:
                self._notify(await asyncio.to_thread(self._changed_jobs))
                await asyncio.sleep(_POLL_EVERY_S)
            except SQLAlchemyError as error:  # subscribers have time limits of their own
                if log_database_error(error) is None:
                    logger.exception("the jobs database cannot be read")
                await asyncio.sleep(_RETRY_AFTER_S)

    def _changed_jobs(self) -> set[str] | None:
        """Return the jobs with events since the last poll; None at the first one."""
        with self._engine.connect() as connection:
            if self._last_event is None:
                newest = connection.execute(sa.select(sa.func.max(events.c.number))).scalar()
                self._last_event, self._queue_has_changed = newest or 0, True
                changed = None
            else:
                changed = self._read_events(connection, self._last_event)
            age_s = time.monotonic() - self._queue_read_at
            if self._queue_has_changed and age_s > _READ_QUEUE_EVERY_S:
                self._queued, self._queue_has_changed = _read_queue(connection), False
                self._queue_read_at = time.monotonic()
        return changed

    def _read_events(self, connection: sa.Connection, after: int) -> set[str]:
        chosen = sa.select(events.c.number, events.c.job_id, events.c.kind)
        rows = connection.execute(chosen.where(events.c.number > after)).all()
        self._last_event = max((row.number for row in rows), default=after)
        self._queue_has_changed |= any(row.kind == "status" for row in rows)
        return {row.job_id for row in rows}

    def _notify(self, job_ids: set[str] | None) -> None:
        """Wake the subscribers of these jobs, or all of them for None."""
        for job_id in self._subscribers if job_ids is None else job_ids:
            for changed in self._subscribers.get(job_id, ()):
                changed.set()


def _read_queue(connection: sa.Connection) -> list[int]:
    waiting = sa.select(jobs.c.number).where(jobs.c.status == JobStatus.QUEUED)
    return list(connection.execute(waiting.order_by(jobs.c.number)).scalars())


async def wait_for(changed: asyncio.Event, timeout_s: float) -> bool:
    """Wait for the event or the time limit; returns whether it was set, and clears it."""
    try:
        async with asyncio.timeout(timeout_s):
            await changed.wait()
    except TimeoutError:
        return False
    changed.clear()
    return True


@dataclass(frozen=True)
class EndedJob:
    """What is counted of a job that has ended; seconds, None where it never began.

    Attributes:
        stage_s: seconds of each stage of a succeeded run.
    """

    status: JobStatus
    error_code: str | None
    wait_s: float | None
    run_s: float | None
    stage_s: dict[str, float]


def newest_event(engine: sa.Engine) -> int:
    """Return the number of the latest event, 0 before the first."""
    with engine.connect() as connection:
        return int(connection.execute(sa.select(sa.func.max(events.c.number))).scalar() or 0)


def ended_after(engine: sa.Engine, number: int) -> tuple[list[EndedJob], int]:
    """Return the jobs that ended after the event with this number, and the number to go on from."""
    newest = newest_event(engine)
    chosen = (
        sa.select(jobs)
        .join(events, events.c.job_id == jobs.c.id)
        .where(
            events.c.kind == "status",
            events.c.number > number,
            events.c.number <= newest,
            jobs.c.status.in_(FINAL_STATUSES),
            jobs.c.finished_at == events.c.at,  # the event that ended it, not its arrival
        )
        .order_by(events.c.number)
    )
    with engine.connect() as connection:
        return [_ended(row) for row in connection.execute(chosen)], newest


def _ended(row: sa.Row[Any]) -> EndedJob:
    began, ended = row.started_at, row.finished_at
    stages: dict[str, float] = (row.details or {}).get("seconds", {})
    return EndedJob(
        JobStatus(row.status),
        None if row.error is None else row.error["code"],
        None if began is None else max(0.0, began - row.created_at),
        None if began is None else max(0.0, ended - began),
        {stage: seconds for stage, seconds in stages.items() if "." not in stage},
    )
