"""A job as its server tells it, and what happens to it.

A finished video and where it is saved.
"""

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
    """Something that happened to a job.

    Attributes:
        kind: ``status``, ``progress``, ``log``, ``position`` (a new place in the line) or, only for
            those who ask after the end, ``webhook``.
        data: what is new; see the README's table.
        number: give it as ``after`` to go on from here; None for a place in the line, which is of
            the moment.
    """

    kind: str
    data: dict[str, Any] = field(default_factory=dict)
    number: int | None = None

    @property
    def at(self) -> datetime | None:
        """When it happened, with its zone; None if the server does not say.

        Servers tell it as ISO 8601; those of earlier versions as seconds since 1970.
        """
        told = self.data.get("at")
        try:
            if isinstance(told, str):
                return datetime.fromisoformat(told)
            if isinstance(told, int | float):
                return datetime.fromtimestamp(told, UTC)
        except (ValueError, OverflowError, OSError):
            pass
        return None

    @property
    def ends_job(self) -> bool:
        """Whether nothing happens to the job after this."""
        return self.kind == "status" and self.data.get("status") not in _RUNNING


class JobError(BaseModel):
    """Why a job failed."""

    model_config = ConfigDict(frozen=True)

    code: str
    message: str
    field: str | None = None


class WebhookDelivery(BaseModel):
    """Whether the receiver of a job's webhook has heard of its end.

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
    """One prediction that was handed in, as it was when the server was asked.

    Attributes:
        id: the server's name for it, or Modal's.
        status: queued, processing, succeeded, failed or canceled.
        progress: of the running attempt: stage, fraction of the whole run, frames.
        queue_position: how many are ahead, 0 is next; None unless it is queued, and on Modal.
        created_at: when it was handed in; None if the platform does not say, as are the next two.
        started_at: when the latest attempt began.
        finished_at: when it ended.
        attempts: how often it was begun.
        error: why it failed.
        output_url: address of the video, which wants the same key; from servers of earlier versions
            a path. None unless it succeeded.
        details: how the video was made; None unless it succeeded.
        webhook: how far the word of its end is; None if nobody is to be told.
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
        """Whether it has ended, well or not."""
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

        What is known already changes nothing: a stream begins with a job's past. An event tells
        less than the server does when it is asked for the job.
        """
        job = Job.model_validate({**dict(self), **self._changes(event)})
        return job if job._how_far() >= self._how_far() else self

    def _changes(self, event: JobEvent) -> dict[str, Any]:
        news = event.data
        if event.kind == "progress":
            return {"progress": {**news}}
        if event.kind == "position" and self.status == "queued":
            return {"queue_position": news.get("queue_position")}
        if event.kind != "status":
            return {}
        changes = {"status": news.get("status"), "error": news.get("error")}
        if changes["status"] != "queued":
            changes["queue_position"] = None
        if "attempt" in news:  # each begins from the start
            changes |= {"attempts": news["attempt"], "progress": Progress("", 0.0)}
        return changes

    def _how_far(self) -> tuple[bool, int, bool, float, bool]:
        now = self.progress
        is_begun = self.status != "queued"
        return self.is_final, self.attempts, is_begun, now.fraction, bool(now.stage)


@dataclass(frozen=True)
class JobPage:
    """Some of one's jobs, latest first: ``for job in page``, ``len(page)``.

    Attributes:
        jobs: the jobs.
        next_cursor: give it as ``cursor`` for those that come after; None if there are no more.
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
        run_id: the server's reference.
        run_time_ms: milliseconds that the server spent on the run.
        details: how the video was made.
        video: the MP4 file's bytes.
    """

    run_id: str
    run_time_ms: float
    details: PredictDetails
    video: bytes = field(repr=False)

    def save(self, path: Path | str) -> Path:
        """Write the MP4 to ``path``, whole or not at all; missing folders are created."""
        return save_whole(self.video, Path(path))


def save_whole(content: bytes, target: Path) -> Path:
    """Write a file, whole or not at all; missing folders are created."""
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
