"""What a job is, and the words for its state."""

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


@dataclass(frozen=True)
class JobError:
    """Why a job failed, as every door answers errors."""

    code: str
    message: str
    status_code: int = 500
    field: str | None = None


@dataclass(frozen=True)
class Webhook:
    """Where to tell of a job.

    Attributes:
        url: http(s) address; checked against private addresses whenever it is called.
        events: kinds of events to tell of.
        base_url: address of the server at which the job was handed in, if it was over HTTP; the
            notice is written by a worker, which cannot know it.
    """

    url: str
    events: tuple[str, ...] = ("succeeded", "failed", "canceled")
    base_url: str | None = None


@dataclass(frozen=True)
class Delivery:
    """How far the word of a job's end is on its way to a webhook's receiver.

    Attributes:
        status: ``pending``, ``delivered`` or, when no further attempt is made, ``failed``.
        attempts: how often it was sent.
        reason: why the last attempt failed, for people.
    """

    status: str = "pending"
    attempts: int = 0
    reason: str | None = None


@dataclass(frozen=True)
class NewJob:
    """A job as a door hands it in.

    Attributes:
        id: unguessable, or the caller's own.
        owner: whose job it is; nobody else sees it. Not the key itself.
        request: the run's request as plain JSON; see ``requests``.
        fingerprint: of what the caller asked for, to tell a repeated call from another one.
        idempotency_key: the caller's name for this submission.
        webhook: whom to tell.
        input_bytes: media that were stored for it.
        entry: what the caller calls it if it is one of several; not recorded.
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
    """A job as it is recorded; times are seconds since 1970.

    Attributes:
        number: in the order of arrival.
        started_at: when the latest attempt began; None after one that was handed back.
        stage, fraction, frames_done, frames_total: how far the running attempt is.
        attempts: how often it was begun.
        cancel_requested: somebody wants it to stop.
        result_key: of the finished file in the file store.
        details: of the finished run.
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
    """Something that happened to a job.

    Attributes:
        number: rises with every event of every job; a reader goes on after the last one it saw.
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
    """Of a whole device, whoever uses it; in bytes."""

    used_bytes: int
    total_bytes: int


SILENCE_S = 20.0  # after which a worker counts as dead and others take its jobs
