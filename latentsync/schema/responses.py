"""What callers get back: a finished run, or an error."""

from pydantic import BaseModel, Field

from latentsync.schema.fields import SchedulerName, SyncMode


class SegmentDetails(BaseModel):
    """Where a segment lies in the result, rounded to whole frames (25 per second)."""

    start_s: float = Field(description="Start in seconds.")
    end_s: float = Field(description="End in seconds.")


class PredictDetails(BaseModel):
    """How the video was made. Fields may be added, none is ever renamed.

    An option that the engine does not use is null, whatever the request said.
    """

    guidance_scale: float | None = Field(description="As requested.")
    inference_steps: int | None = Field(description="As requested.")
    seed: int | None = Field(description="Seed of the run, the drawn one if the request had -1.")
    engine: str = Field(description="Engine that made the lips.")
    model_version: str = Field(description="Version of its weights or rules.")
    scheduler: SchedulerName | None = Field("ddim", description="As requested.")
    feature_cache_interval: int | None = Field(1, description="As requested.")
    guidance_interval: tuple[float, float] | None = Field((0.0, 1.0), description="As requested.")
    sync_mode: SyncMode
    frames: int = Field(description="Frames of the result.")
    frames_without_face: int = Field(description="Frames that passed through unchanged.")
    faces_found: int = Field(description="Different faces seen in the video.")
    fps: float = Field(description="Frames per second of the result.")
    width: int = Field(description="Width of the result in pixels.")
    height: int = Field(description="Height of the result in pixels.")
    duration_s: float = Field(description="Duration of the result in seconds.")
    segments: list[SegmentDetails] = Field(
        [], description="The segments of the request; empty without them."
    )
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
