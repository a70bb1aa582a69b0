"""What callers get back: a finished run, or an error."""

from __future__ import annotations

from pydantic import BaseModel, Field

from latentsync.fields import SchedulerName, SyncMode


class SegmentDetails(BaseModel):
    """Where a segment lies in the result, rounded to whole frames (25 per second)."""

    start_s: float = Field(description="Start in seconds.")
    end_s: float = Field(description="End in seconds.")


class PredictDetails(BaseModel):
    """How the video was made. Fields may be added, none is ever renamed."""

    guidance_scale: float
    inference_steps: int
    seed: int
    engine: str = Field(description="Engine that made the lips.")
    model_version: str
    scheduler: SchedulerName = "ddim"
    feature_cache_interval: int = 1
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    sync_mode: SyncMode
    frames: int
    frames_without_face: int
    faces_found: int
    fps: float
    width: int
    height: int
    duration_s: float
    segments: list[SegmentDetails] = []
    seconds: dict[str, float] = Field(
        description="Seconds per stage; a name with a dot is a part of the stage before the dot."
    )


class PredictResult(BaseModel):
    """The finished video and how it was made."""

    video_base64: str = Field(description="The finished MP4 as base64.")
    details: PredictDetails


class PredictResponse(BaseModel):
    """Answer of a finished run."""

    run_id: str = Field(description="Id of the run; name it when you ask about it.")
    result: PredictResult
    run_time_ms: float = Field(description="Duration of the run in milliseconds.")


class ErrorResponse(BaseModel):
    """An error."""

    status_code: int = Field(description="HTTP status of the answer.")
    code: str = Field(description="Stable code, for programs.")
    message: str = Field(description="One sentence, for people: field, value and what is allowed.")
    field: str | None = Field(None, description="Field of the request that is at fault.")
    run_id: str | None = Field(None, description="Id under which the server's log has the cause.")


class Problem(BaseModel):
    """An error: problem details as defined by RFC 9457."""

    type: str = Field(description="URN that ends with the code.")
    title: str = Field(description="Meaning of the HTTP status.")
    status: int = Field(description="HTTP status of the answer.")
    detail: str = Field(description="One sentence, for people: field, value and what is allowed.")
    code: str = Field(description="Stable code, for programs.")
    field: str | None = Field(
        None, description="Field of the request that is at fault, for example `predictions.3.seed`."
    )
    run_id: str | None = Field(None, description="Id under which the server's log has the cause.")
