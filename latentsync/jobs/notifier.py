"""Waiting for something to happen to a job, or to the line before it.

One look at the record serves everybody who waits.
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
from latentsync.jobs.models import Job, JobStatus
from latentsync.public_errors import log_database_error

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.1
_READ_LINE_EVERY_S = 0.25
_AFTER_A_FAULT_S = 1.0
_FINAL = [status for status in JobStatus if status.is_final]


class JobNotifier:
    """Rings the subscribers of those who wait for news of a job; for one event loop.

    Looks at the record only while somebody waits.

    Args:
        engine: the database of jobs.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._subscribers: dict[str, set[asyncio.Event]] = {}
        self._last: int | None = None  # number of the newest event seen
        self._line: list[int] = []  # numbers of the jobs that wait, in order
        self._line_read_at = float("-inf")
        self._line_has_changed = True
        self._looking: asyncio.Task[None] | None = None
        self.is_closed = False

    def close(self) -> None:
        """Ring all subscribers: who only listens shall go, because the process ends."""
        self.is_closed = True
        self._ring(None)

    def position(self, job: Job) -> int | None:
        """Return how many jobs were ahead in the line a moment ago; None unless it waited then.

        Costs nothing; known only while somebody holds a changed.
        """
        place = bisect_left(self._line, job.number)
        return place if self._line[place : place + 1] == [job.number] else None

    @contextmanager
    def subscribe(self, job_id: str) -> Iterator[asyncio.Event]:
        """Lend an event that is set soon after anything has happened to the job.

        Read the job after entering the block, so that nothing can happen unseen between; wait with
        a time limit all the same, because on Postgres a slow transaction's event may be overtaken.
        """
        changed = asyncio.Event()
        self._subscribers.setdefault(job_id, set()).add(changed)
        if self._looking is None or self._looking.done():
            self._last = None
            self._looking = asyncio.create_task(self._look_while_anybody_waits())
        try:
            yield changed
        finally:
            self._subscribers[job_id].discard(changed)
            if not self._subscribers[job_id]:
                del self._subscribers[job_id]

    async def _look_while_anybody_waits(self) -> None:
        while self._subscribers:
            try:
                self._ring(await asyncio.to_thread(self._news))
                await asyncio.sleep(_LOOK_EVERY_S)
            except SQLAlchemyError as error:  # those who wait look for themselves meanwhile
                if log_database_error(error) is None:
                    logger.exception("the record of jobs cannot be read")
                await asyncio.sleep(_AFTER_A_FAULT_S)

    def _news(self) -> set[str] | None:
        """Return the jobs to which something happened since the last look; at first, None."""
        with self._engine.connect() as connection:
            if self._last is None:
                newest = connection.execute(sa.select(sa.func.max(events.c.number))).scalar()
                self._last, self._line_has_changed = newest or 0, True
                rung = None
            else:
                rung = self._read_events(connection, self._last)
            age_s = time.monotonic() - self._line_read_at
            if self._line_has_changed and age_s > _READ_LINE_EVERY_S:
                self._line, self._line_has_changed = _read_line(connection), False
                self._line_read_at = time.monotonic()
        return rung

    def _read_events(self, connection: sa.Connection, after: int) -> set[str]:
        chosen = sa.select(events.c.number, events.c.job_id, events.c.kind)
        rows = connection.execute(chosen.where(events.c.number > after)).all()
        self._last = max((row.number for row in rows), default=after)
        self._line_has_changed |= any(row.kind == "status" for row in rows)
        return {row.job_id for row in rows}

    def _ring(self, job_ids: set[str] | None) -> None:
        """Ring for these jobs; for all where it is not known what happened."""
        for job_id in self._subscribers if job_ids is None else job_ids:
            for changed in self._subscribers.get(job_id, ()):
                changed.set()


def _read_line(connection: sa.Connection) -> list[int]:
    waiting = sa.select(jobs.c.number).where(jobs.c.status == JobStatus.QUEUED)
    return list(connection.execute(waiting.order_by(jobs.c.number)).scalars())


async def wait_for(changed: asyncio.Event, timeout_s: float) -> bool:
    """Wait until the changed rings or the time is up; returns whether it rang, and stills it."""
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
            jobs.c.status.in_(_FINAL),
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
