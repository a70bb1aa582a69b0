"""A job as every door and every webhook shows it to callers."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from latentsync.jobs.models import Delivery, Job, JobStatus

_EXAMPLE: JsonDict = {
    "id": "5f3a1c52-8d0e-4b7a-9a43-0c6a2f1e7d10",
    "status": "processing",
    "progress": {"stage": "generate", "fraction": 0.42, "frames_done": 68, "frames_total": 161},
    "queue_position": None,
    "created_at": "2026-01-31T12:00:00Z",
    "started_at": "2026-01-31T12:00:01Z",
    "finished_at": None,
    "attempts": 1,
    "error": None,
    "output_url": None,
    "details": None,
    "webhook": None,
}


class Progress(BaseModel):
    """Progress of the current attempt."""

    stage: str = Field(
        description="`fetch`, `probe`, `read`, `generate` or `write`; empty before the first."
    )
    fraction: float = Field(description="Fraction of the whole run, 0 to 1.")
    frames_done: int = Field(description="Frames made so far.")
    frames_total: int = Field(description="Frames of the result; 0 until known.")


class PredictionError(BaseModel):
    """Why a prediction failed."""

    code: str = Field(description="Stable code, for programs.")
    message: str = Field(description="One sentence, for people.")
    field: str | None = Field(None, description="Field of the request that is at fault.")


class WebhookDelivery(BaseModel):
    """Delivery of the webhook of a prediction."""

    status: Literal["pending", "delivered", "failed"] = Field(
        description="`pending` until it is delivered or the last attempt has failed."
    )
    attempts: int = Field(description="Number of attempts so far.")
    reason: str | None = Field(description="Why the last attempt failed, for people.")


class Prediction(BaseModel):
    """A prediction and its current state."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: str = Field(description="UUID, drawn by the server or chosen by the caller.")
    status: JobStatus
    progress: Progress
    queue_position: int | None = Field(
        description="Predictions ahead of it in the queue, 0 is next; null unless `queued`."
    )
    created_at: datetime = Field(description="When it was accepted.")
    started_at: datetime | None = Field(description="Start of the latest attempt; null before it.")
    finished_at: datetime | None = Field(description="When it ended; null before that.")
    attempts: int = Field(description="Number of attempts; above 1 if a worker was lost.")
    error: PredictionError | None = Field(description="Null unless `failed`.")
    output_url: str | None = Field(
        description="Address of the video, which needs the same key; null unless `succeeded`."
    )
    details: dict[str, Any] | None = Field(
        description="How the video was made (engine, seed, frames, seconds per stage and more); "
        "null unless `succeeded`. The schema is PredictDetails."
    )
    webhook: WebhookDelivery | None = Field(
        None, description="Delivery of the webhook; null if the request named none."
    )


def to_response(
    job: Job, queue_position: int | None, base_url: str, delivery: Delivery | None = None
) -> Prediction:
    """Return a job as callers see it.

    Args:
        job: the job.
        queue_position: how many are ahead of it; None unless it is queued.
        base_url: address of the server, as the caller knows it; empty if that is not known.
        delivery: of its webhook; None if the request named none.
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


class PredictionPage(BaseModel):
    """A page of your predictions, newest first."""

    predictions: list[Prediction]
    next_cursor: str | None = Field(
        description="Pass it as `cursor` to get the next page; null on the last one."
    )


class PredictionList(BaseModel):
    """The predictions of one call, in the order of its list."""

    predictions: list[Prediction]


class Upload(BaseModel):
    """A stored file."""

    id: str = Field(description="Id of the upload.")
    url: str = Field(
        description="Address to use as `video_url` or `audio_url`, `upload://` and the id."
    )
    size_bytes: int = Field(description="Size of the file.")
