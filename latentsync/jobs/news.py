"""Waiting for something to happen to a job: one look at the record serves everybody who waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from latentsync.jobs.database import events

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.1
_AFTER_A_FAULT_S = 1.0


class JobNews:
    """Rings the bells of those who wait for news of a job; for one event loop.

    Looks at the record only while somebody waits.

    Args:
        engine: the database of jobs.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._bells: dict[str, set[asyncio.Event]] = {}
        self._last: int | None = None  # number of the newest event seen
        self._looking: asyncio.Task[None] | None = None
        self.is_closed = False

    def close(self) -> None:
        """Ring all bells: who only listens shall go, because the process ends."""
        self.is_closed = True
        self._ring(None)

    @contextmanager
    def bell(self, job_id: str) -> Iterator[asyncio.Event]:
        """Lend an event that is set soon after anything has happened to the job.

        Read the job after entering the block, so that nothing can happen unseen between; wait with
        a time limit all the same, because on Postgres a slow transaction's event may be overtaken.
        """
        bell = asyncio.Event()
        self._bells.setdefault(job_id, set()).add(bell)
        if self._looking is None or self._looking.done():
            self._last = None
            self._looking = asyncio.create_task(self._look_while_anybody_waits())
        try:
            yield bell
        finally:
            self._bells[job_id].discard(bell)
            if not self._bells[job_id]:
                del self._bells[job_id]

    async def _look_while_anybody_waits(self) -> None:
        while self._bells:
            try:
                self._ring(await asyncio.to_thread(self._news))
                await asyncio.sleep(_LOOK_EVERY_S)
            except SQLAlchemyError:  # those who wait look for themselves meanwhile
                logger.exception("the record of jobs cannot be read")
                await asyncio.sleep(_AFTER_A_FAULT_S)

    def _news(self) -> set[str] | None:
        """Return the jobs to which something happened since the last look; at first, None."""
        with self._engine.connect() as connection:
            if self._last is None:
                newest = connection.execute(sa.select(sa.func.max(events.c.number))).scalar()
                self._last = newest or 0
                return None
            chosen = sa.select(events.c.number, events.c.job_id).where(events.c.number > self._last)
            rows = connection.execute(chosen).all()
        self._last = max((row.number for row in rows), default=self._last)
        return {row.job_id for row in rows}

    def _ring(self, job_ids: set[str] | None) -> None:
        """Ring for these jobs; for all where it is not known what happened."""
        for job_id in self._bells if job_ids is None else job_ids:
            for bell in self._bells.get(job_id, ()):
                bell.set()


async def wait_for(bell: asyncio.Event, timeout_s: float) -> bool:
    """Wait until the bell rings or the time is up; returns whether it rang, and stills it."""
    try:
        async with asyncio.timeout(timeout_s):
            await bell.wait()
    except TimeoutError:
        return False
    bell.clear()
    return True
