"""Jobs and their states."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class JobStatus(StrEnum):
    """State of a job; `succeeded`, `failed` and `canceled` are final."""

    QUEUED = "queued"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def is_final(self) -> bool:
        return self not in (JobStatus.QUEUED, JobStatus.PROCESSING)


FINAL_STATUSES = [status for status in JobStatus if status.is_final]


@dataclass(frozen=True)
class JobError:
    """Why a job failed, as the API reports errors."""

    code: str
    message: str
    status_code: int = 500
    field: str | None = None


@dataclass(frozen=True)
class Webhook:
    """Where to report the outcome of a job.

    Attributes:
        url: http(s) address; checked for private addresses before every call.
        events: final states to report.
        base_url: address of the server to which the job was submitted, if it was over HTTP; the
            message is written by a worker, which does not know it.
    """

    url: str
    events: tuple[str, ...] = ("succeeded", "failed", "canceled")
    base_url: str | None = None


@dataclass(frozen=True)
class Delivery:
    """Delivery state of a job's webhook.

    Attributes:
        status: ``pending``, ``delivered`` or, when no further attempt is made, ``failed``.
        attempts: number of times it was sent.
        reason: why the last attempt failed, for display.
    """

    status: str = "pending"
    attempts: int = 0
    reason: str | None = None


@dataclass(frozen=True)
class NewJob:
    """A job to submit.

    Attributes:
        id: unguessable, or the caller's own.
        owner: hash of the caller's API key; only this owner can see the job.
        request: the run's request as plain JSON; see :mod:`latentsync.jobs.serialization`.
        fingerprint: hash of the request, to tell a repeated call from a different one.
        idempotency_key: the caller's name for this submission.
        webhook: called when the job ends.
        input_bytes: size of the media stored for it.
        entry: name of the batch item, for error messages; not stored.
    """

    id: str
    owner: str
    request: dict[str, Any]
    fingerprint: str
    idempotency_key: str | None = None
    webhook: Webhook | None = None
    input_bytes: int = 0
    entry: str | None = None


@dataclass(frozen=True)
class Job:
    """A stored job; times are seconds since 1970.

    Attributes:
        number: increases in the order of submission.
        started_at: when the latest attempt began; None if that attempt was undone.
        stage, fraction, frames_done, frames_total: progress of the running attempt.
        attempts: number of attempts begun.
        cancel_requested: the running attempt was asked to stop.
        result_key: key of the result in storage.
        details: how the result was made.
    """

    number: int
    id: str
    owner: str
    status: JobStatus
    request: dict[str, Any]
    fingerprint: str
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    stage: str = ""
    fraction: float = 0.0
    frames_done: int = 0
    frames_total: int = 0
    attempts: int = 0
    host: str | None = None
    cancel_requested: bool = False
    error: JobError | None = None
    result_key: str | None = None
    result_bytes: int | None = None
    details: dict[str, Any] | None = None
    idempotency_key: str | None = None
    webhook: Webhook | None = None
    input_bytes: int = 0


@dataclass(frozen=True)
class JobEvent:
    """An event of a job.

    Attributes:
        number: increases over the events of all jobs; a reader resumes after the last one it saw.
        kind: ``status``, ``progress``, ``log`` or, after the end, ``webhook``.
        data: plain JSON.
    """

    number: int
    job_id: str
    at: float
    kind: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DeviceMemory:
    """Memory of a whole device, used by any process; in bytes."""

    used_bytes: int
    total_bytes: int


SILENCE_S = 20.0  # without a heartbeat a worker counts as dead, and its jobs are recovered
