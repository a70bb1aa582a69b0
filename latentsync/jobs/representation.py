"""A job as every door and every webhook shows it to callers."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from latentsync.jobs.job import Delivery, Job, JobStatus


class Progress(BaseModel):
    """How far the running attempt is."""

    stage: str = Field(description="fetch, probe, read, generate or write; empty before the first")
    fraction: float = Field(description="of the whole run, 0 to 1")
    frames_done: int
    frames_total: int = Field(description="0 until it is known")


class PredictionError(BaseModel):
    """Why a prediction failed."""

    code: str = Field(description="stable, for programs")
    message: str = Field(description="one sentence, for people")
    field: str | None = None


class WebhookDelivery(BaseModel):
    """Whether the receiver of a webhook has heard of the end."""

    status: Literal["pending", "delivered", "failed"] = Field(
        description="pending until it is told or, after the last attempt, failed"
    )
    attempts: int = Field(description="how often it was sent")
    reason: str | None = Field(description="why the last attempt failed, for people")


class Prediction(BaseModel):
    """One prediction, from its arrival until it is forgotten."""

    id: str
    status: JobStatus
    progress: Progress
    queue_position: int | None = Field(
        description="predictions ahead in the line, 0 is next; null unless queued"
    )
    created_at: datetime
    started_at: datetime | None = Field(description="of the latest attempt")
    finished_at: datetime | None
    attempts: int = Field(description="how often it was begun; above 1 if a worker was lost")
    error: PredictionError | None
    output_url: str | None = Field(
        description="address of the video, which wants the same key; null unless succeeded"
    )
    details: dict[str, Any] | None = Field(
        description="of the finished run, as contract A has them: engine, seed, frames, seconds …"
    )
    webhook: WebhookDelivery | None = Field(
        None, description="how far the word of its end is; null if nobody is to be told"
    )


def represent(
    job: Job, queue_position: int | None, base_url: str, delivery: Delivery | None = None
) -> Prediction:
    """Return a job as callers see it.

    Args:
        job: the job.
        queue_position: how many are ahead of it; None unless it is queued.
        base_url: address of the server, as the caller knows it; empty if that is not known.
        delivery: how far the word of its end is; None if nobody is to be told.
    """
    error = job.error
    return Prediction(
        id=job.id,
        status=job.status,
        progress=Progress(
            stage=job.stage,
            fraction=job.fraction,
            frames_done=job.frames_done,
            frames_total=job.frames_total,
        ),
        queue_position=queue_position,
        created_at=_moment(job.created_at),
        started_at=None if job.started_at is None else _moment(job.started_at),
        finished_at=None if job.finished_at is None else _moment(job.finished_at),
        attempts=job.attempts,
        error=None
        if error is None
        else PredictionError(code=error.code, message=error.message, field=error.field),
        output_url=output_url(job.id, base_url) if job.status is JobStatus.SUCCEEDED else None,
        details=job.details,
        webhook=None if delivery is None else WebhookDelivery.model_validate(asdict(delivery)),
    )


def output_url(job_id: str, base_url: str) -> str:
    """Return the address at which a job's video is served."""
    return f"{base_url.rstrip('/')}/v1/predictions/{job_id}/output"


def as_iso_time(seconds: float) -> str:
    """Return seconds since 1970 as a prediction has its times: ISO 8601, UTC, ``Z`` at the end."""
    return _moment(seconds).isoformat().replace("+00:00", "Z")


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
