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
        kind: ``status``, ``progress``, ``log``, ``position`` (in the queue) or, only if events are
            requested after the end, ``webhook``.
        data: what changed; see the table in docs/jobs.md.
        number: pass it as ``after`` to continue from here; None for a queue position, which is not
            stored.
    """

    kind: str
    data: dict[str, Any] = field(default_factory=dict)
    number: int | None = None

    @property
    def at(self) -> datetime | None:
        """When it happened, with its zone; None if the server does not say.

        Servers send ISO 8601; earlier versions sent seconds since 1970.
        """
        sent = self.data.get("at")
        try:
            if isinstance(sent, str):
                return datetime.fromisoformat(sent)
            if isinstance(sent, int | float):
                return datetime.fromtimestamp(sent, UTC)
        except (ValueError, OverflowError, OSError):
            pass
        return None

    @property
    def ends_job(self) -> bool:
        """Whether this is the last event of the job."""
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
        status: pending, delivered or, when no further attempt is made, failed.
        attempts: how often it was sent.
        reason: why the last attempt failed.
    """

    model_config = ConfigDict(frozen=True)

    status: str
    attempts: int
    reason: str | None = None


class Job(BaseModel):
    """A prediction, as it was when the server was asked.

    Attributes:
        id: given by the server or by Modal.
        status: queued, processing, succeeded, failed or canceled.
        progress: of the running attempt: stage, fraction of the whole run, frames.
        queue_position: how many are ahead, 0 is next; None unless it is queued, and on Modal.
        created_at: when it was submitted; None if unknown, like the next two.
        started_at: when the latest attempt began.
        finished_at: when it ended.
        attempts: how often it was started.
        error: why it failed.
        output_url: address of the video, which requires the same key; earlier servers send a path.
            None unless it succeeded.
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
        """Whether it has ended, successfully or not."""
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
        """Return the job as it is once ``event`` has happened; raises pydantic's ValidationError.

        An event older than this state changes nothing: a stream starts with a job's past. Events
        carry less than the server's response for the job.
        """
        job = Job.model_validate({**dict(self), **self._changes(event)})
        return job if job._how_far() >= self._how_far() else self

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
        if "attempt" in data:  # each begins from the start
            changes |= {"attempts": data["attempt"], "progress": Progress("", 0.0)}
        return changes

    def _how_far(self) -> tuple[bool, int, bool, float, bool]:
        now = self.progress
        is_begun = self.status != "queued"
        return self.is_final, self.attempts, is_begun, now.fraction, bool(now.stage)


@dataclass(frozen=True)
class JobPage:
    """A page of jobs, newest first: ``for job in page``, ``len(page)``.

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
        run_id: the server's id of the run.
        run_time_ms: milliseconds that the server spent on the run.
        details: how the video was made.
        video: the MP4 file's bytes.
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
        Path(partial).chmod(0o644)  # mkstemp makes private files
        Path(partial).replace(target)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    return target
