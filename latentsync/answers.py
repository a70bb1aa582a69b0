"""What callers get back: a finished run, or an error."""

from __future__ import annotations

from pydantic import BaseModel, Field

from latentsync.fields import SchedulerName, SyncMode


class SegmentDetails(BaseModel):
    """Where a segment was spoken: what was asked for, on the grid of 25 frames per second."""

    start_s: float
    end_s: float


class PredictDetails(BaseModel):
    """How the answer was made. Doors of later engines add fields, none is ever renamed.

    An option that the engine did not use is null, whatever was asked for.
    """

    guidance_scale: float | None
    inference_steps: int | None
    seed: int | None
    engine: str = Field(description="which engine made the lips; draft is the embedded default")
    model_version: str
    scheduler: SchedulerName | None = "ddim"
    feature_cache_interval: int | None = 1
    guidance_interval: tuple[float, float] | None = (0.0, 1.0)
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
        description="seconds of each stage; a name with a dot is a part of the stage before it"
    )


class PredictResult(BaseModel):
    """The inner object of contract A's answer."""

    video_base64: str = Field(description="the finished MP4")
    details: PredictDetails


class PredictResponse(BaseModel):
    """Contract A's envelope."""

    run_id: str
    result: PredictResult
    run_time_ms: float


class ErrorResponse(BaseModel):
    """Every error of every door."""

    status_code: int
    code: str = Field(description="stable, for programs")
    message: str = Field(description="one sentence, for people")
    field: str | None = None
    run_id: str | None = None


class Problem(BaseModel):
    """Every error of the native API: problem details as RFC 9457 defines them."""

    type: str = Field(description="a URN that ends with the code")
    title: str = Field(description="what the HTTP status means")
    status: int
    detail: str = Field(description="one sentence, for people")
    code: str = Field(description="stable, for programs")
    field: str | None = None
    run_id: str | None = None
