"""How far the word of a job's end is: an event of the job for every attempt to tell it."""

from __future__ import annotations

import time
from dataclasses import asdict

import sqlalchemy as sa

from latentsync.jobs.database import events, jobs
from latentsync.jobs.job import Delivery, Job

_KIND = "webhook"


def record_delivery(engine: sa.Engine, job_number: int, delivery: Delivery) -> None:
    """Note how an attempt went; nothing of a job that is forgotten.

    Args:
        engine: the database of jobs.
        job_number: which job; ids may have been given to other jobs since.
        delivery: how far it is now.
    """
    chosen = sa.select(jobs.c.id).where(jobs.c.number == job_number)
    with engine.begin() as connection:
        job_id = connection.execute(chosen).scalar_one_or_none()
        if job_id is not None:
            told = {"job_id": job_id, "at": time.time(), "kind": _KIND, "data": asdict(delivery)}
            connection.execute(events.insert().values(told))


def find_delivery(engine: sa.Engine, job: Job) -> Delivery | None:
    """Return how far the word of a job's end is; None if nobody is to hear of it."""
    if job.webhook is None:
        return None
    if not job.status.is_final:
        return Delivery()
    if job.status not in job.webhook.events:
        return None
    chosen = (
        sa.select(events.c.data)
        .where(events.c.job_id == job.id, events.c.kind == _KIND)
        .order_by(events.c.number.desc())
        .limit(1)
    )
    with engine.connect() as connection:
        found = connection.execute(chosen).scalar_one_or_none()
    return Delivery() if found is None else Delivery(**found)
