"""Figures about the whole: which workers live on what, how long jobs wait, which have ended."""

import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from latentsync.jobs.database import events, host_engines, hosts, jobs
from latentsync.jobs.models import SILENCE_S, DeviceMemory, JobStatus
from latentsync.schema.engines import EngineSurvey

_FINAL = [status for status in JobStatus if status.is_final]


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


@dataclass(frozen=True)
class LivingWorker:
    """A worker that was heard of lately.

    Attributes:
        name: unique among those that live.
        memory: of its device, as it said last; None without a GPU.
        engines: which ones it can run, as it said last; None for one of an earlier version.
    """

    name: str
    memory: DeviceMemory | None
    engines: EngineSurvey | None = None


def living_workers(engine: sa.Engine, within: sa.Connection | None = None) -> list[LivingWorker]:
    """Return the workers that were heard of lately, by name.

    Args:
        engine: the database of jobs.
        within: with a transaction in which it is asked, if there is one.
    """
    since = time.time() - SILENCE_S
    chosen = (
        sa.select(hosts, host_engines.c.survey)
        .outerjoin(host_engines, host_engines.c.name == hosts.c.name)
        .where(hosts.c.seen_at >= since)
        .order_by(hosts.c.name)
    )
    with nullcontext(within) if within else engine.connect() as connection:
        return [_living(row) for row in connection.execute(chosen)]


def oldest_waiting_s(engine: sa.Engine) -> float:
    """Return how long the first job in the line has waited; 0 if there is none."""
    chosen = sa.select(sa.func.min(jobs.c.created_at)).where(jobs.c.status == JobStatus.QUEUED)
    with engine.connect() as connection:
        created_at = connection.execute(chosen).scalar()
    return 0.0 if created_at is None else max(0.0, time.time() - created_at)


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


def _living(row: sa.Row[Any]) -> LivingWorker:
    used, total = row.memory_used_bytes, row.memory_total_bytes
    return LivingWorker(
        row.name,
        None if total is None else DeviceMemory(used, total),
        None if row.survey is None else EngineSurvey.from_json(row.survey),
    )


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
