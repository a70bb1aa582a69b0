"""Jobs as rows of the record, and the statements that are run most."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from latentsync.jobs.database import jobs
from latentsync.jobs.job import Job, JobError, JobStatus, NewJob, Webhook

RUNNING = (JobStatus.QUEUED, JobStatus.PROCESSING)
POSITION = "position"  # the column of LOOK beside a job's own
_COLUMNS = jobs.c.keys()


def _look() -> sa.Select[Any]:
    others = jobs.alias()
    ahead = sa.select(sa.func.count()).where(
        others.c.status == JobStatus.QUEUED, others.c.number < jobs.c.number
    )
    queued = jobs.c.status == JobStatus.QUEUED
    position = sa.case((queued, ahead.scalar_subquery())).label(POSITION)
    return sa.select(jobs, position).where(jobs.c.id == sa.bindparam("job_id"))


# Put together once, because that takes longer than to run them.
LOOK = _look()
LOAD = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(jobs.c.input_bytes), 0)).where(
    jobs.c.owner == sa.bindparam("owner"), jobs.c.status.in_(RUNNING)
)
# Numbers rise in the order of the given rows, and the answer has that order, too.
INSERT = jobs.insert().returning(*jobs.c, sort_by_parameter_order=True)


def row_of(job: NewJob, created_at: float) -> dict[str, Any]:
    """Return a new job as a row; seconds since 1970."""
    webhook = None if job.webhook is None else asdict(job.webhook)
    own = {name: value for name, value in vars(job).items() if name != "entry"}
    return {**own, "webhook": webhook, "status": JobStatus.QUEUED, "created_at": created_at}


def job_of(row: sa.Row[Any]) -> Job:
    """Return the job of a row that has all columns of a job, and perhaps more."""
    values = {name: row._mapping[name] for name in _COLUMNS}
    webhook, error = values.pop("webhook"), values.pop("error")
    if webhook is not None:
        # Jobs of earlier versions were recorded without the address.
        webhook = Webhook(webhook["url"], tuple(webhook["events"]), webhook.get("base_url"))
    return Job(
        **{**values, "status": JobStatus(values["status"])},
        webhook=webhook,
        error=None if error is None else JobError(**error),
    )
