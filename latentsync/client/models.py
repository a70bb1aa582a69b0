"""Jobs, their events, and finished videos."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from latentsync.errors import Canceled, ServerError, error_from_code
from latentsync.monitor import Progress
from latentsync.schema.responses import PredictDetails

JobStatus = Literal["queued", "processing", "succeeded", "failed", "canceled"]
_RUNNING = ("queued", "processing")


@dataclass(frozen=True)
class JobEvent:
    """An event of a job.

    Attributes:
        kind: ``status``, ``progress``, ``log``, ``position`` (queue position) or, for streams that
            are opened after the end of the job, ``webhook``.
        data: the fields of the event; see the table in docs/jobs.md.
        number: pass it as ``after`` to continue from here; None for ``position``, which is not
            stored.
    """

    kind: str
    data: dict[str, Any] = field(default_factory=dict)
    number: int | None = None

    @property
    def at(self) -> datetime | None:
        """Time of the event, with time zone; None if the server does not send it.

        Servers send ISO 8601; those of earlier versions seconds since 1970.
        """
        value = self.data.get("at")
        try:
            if isinstance(value, str):
                return datetime.fromisoformat(value)
            if isinstance(value, int | float):
                return datetime.fromtimestamp(value, UTC)
        except (ValueError, OverflowError, OSError):
            pass
        return None

    @property
    def ends_job(self) -> bool:
        """Whether this event ends the job."""
        return self.kind == "status" and self.data.get("status") not in _RUNNING


class JobError(BaseModel):
    """Why a job failed."""

    model_config = ConfigDict(frozen=True)

    code: str
    message: str
    field: str | None = None


class WebhookDelivery(BaseModel):
    """Delivery state of a job's webhook.

    Attributes:
        status: pending, delivered or, after the last attempt, failed.
        attempts: number of attempts.
        reason: why the last attempt failed.
    """

    model_config = ConfigDict(frozen=True)

    status: str
    attempts: int
    reason: str | None = None


class Job(BaseModel):
    """State of a job at the time of the request.

    Attributes:
        id: the server's or Modal's id.
        status: queued, processing, succeeded, failed or canceled.
        progress: of the running attempt: stage, fraction of the whole run, frames.
        queue_position: jobs ahead, 0 is next; None unless it is queued, and on Modal.
        created_at: time of submission; None on Modal, like the next two.
        started_at: start of the last attempt.
        finished_at: time of its end.
        attempts: number of attempts started.
        error: why it failed.
        output_url: URL of the video, which requires the same key; from servers of earlier versions
            a path. None unless it succeeded.
        details: how the video was made; None unless it succeeded.
        webhook: delivery state of its webhook; None without one.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    status: JobStatus
    progress: Progress = Progress("", 0.0)
    queue_position: int | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    attempts: int = 0
    error: JobError | None = None
    output_url: str | None = None
    details: PredictDetails | None = None
    webhook: WebhookDelivery | None = None

    @property
    def is_final(self) -> bool:
        """Whether it has succeeded, failed or been canceled."""
        return self.status not in _RUNNING

    def raise_for_status(self) -> Job:
        """Return the job unless it failed or was canceled.

        Raises:
            ServerError: it failed; ``server_code`` says why.
            Canceled: it was canceled.
        """
        if self.status == "canceled":
            raise Canceled(f"Job {self.id} was canceled.")
        if self.error is None:
            return self
        raise ServerError(
            self.error.message,
            server_status=error_from_code(self.error.code, "").status,
            server_code=self.error.code,
            field=self.error.field,
        )

    def after(self, event: JobEvent) -> Job:
        """Return the job updated by ``event``; raises pydantic's ValidationError.

        Older events, with which a stream starts, change nothing. Events contain only some of the
        fields of a job.
        """
        job = Job.model_validate({**dict(self), **self._changes(event)})
        return job if job._order() >= self._order() else self

    def _changes(self, event: JobEvent) -> dict[str, Any]:
        data = event.data
        if event.kind == "progress":
            return {"progress": {**data}}
        if event.kind == "position" and self.status == "queued":
            return {"queue_position": data.get("queue_position")}
        if event.kind != "status":
            return {}
        changes = {"status": data.get("status"), "error": data.get("error")}
        if changes["status"] != "queued":
            changes["queue_position"] = None
        if "attempt" in data:  # every attempt starts from zero
            changes |= {"attempts": data["attempt"], "progress": Progress("", 0.0)}
        return changes

    def _order(self) -> tuple[bool, int, bool, float, bool]:
        now = self.progress
        is_begun = self.status != "queued"
        return self.is_final, self.attempts, is_begun, now.fraction, bool(now.stage)


@dataclass(frozen=True)
class JobPage:
    """A page of jobs, newest first. Supports iteration and ``len``.

    Attributes:
        jobs: the jobs.
        next_cursor: pass it as ``cursor`` for the next page; None on the last one.
    """

    jobs: tuple[Job, ...]
    next_cursor: str | None

    def __iter__(self) -> Iterator[Job]:
        return iter(self.jobs)

    def __len__(self) -> int:
        return len(self.jobs)


@dataclass(frozen=True)
class Prediction:
    """One finished video.

    Attributes:
        run_id: id of the run in the server's log.
        run_time_ms: duration of the run on the server, in milliseconds.
        details: how the video was made.
        video: content of the MP4 file.
    """

    run_id: str
    run_time_ms: float
    details: PredictDetails
    video: bytes = field(repr=False)

    def save(self, path: Path | str) -> Path:
        """Write the MP4 to ``path`` atomically; missing folders are created."""
        return save_whole(self.video, Path(path))


def save_whole(content: bytes, target: Path) -> Path:
    """Write a file atomically; missing folders are created."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=target.parent, prefix=".saving-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(partial).chmod(0o644)  # mkstemp creates private files
        Path(partial).replace(target)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    return target
