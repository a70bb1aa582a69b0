"""Response models."""

from enum import StrEnum

from pydantic import BaseModel, Field

from latentsync.schema.fields import SchedulerName, SyncMode


class WarningCode(StrEnum):
    """What was not as asked or not as usual, but was handled. Codes are stable."""

    ALPHA_COMPOSITED = "ALPHA_COMPOSITED"  # a transparent video was put on black
    CHANNEL_CHOSEN = "CHANNEL_CHOSEN"  # the lips follow one channel or a difference of two
    CHANNELS_MIXED = "CHANNELS_MIXED"  # more channels than an MP4 can have became stereo
    CLOCK_MENDED = "CLOCK_MENDED"  # jumps of the timestamps were closed
    DEINTERLACED = "DEINTERLACED"  # fields were joined to whole frames
    FRAME_SIZE_CHANGED = "FRAME_SIZE_CHANGED"  # frames of other sizes were fitted into the first
    FRAMES_WITHOUT_FACE = "FRAMES_WITHOUT_FACE"  # frames were left unchanged
    SIZE_ROUNDED = "SIZE_ROUNDED"  # odd sides were extended by one pixel
    STREAM_CHOSEN = "STREAM_CHOSEN"  # one of several streams of a kind was used
    TONE_MAPPED = "TONE_MAPPED"  # high dynamic range became BT.709


class RunWarning(BaseModel, frozen=True):
    """Something that was not as asked or not as usual, but was handled."""

    code: WarningCode = Field(description="Stable code.")
    message: str = Field(description="A sentence with the request field and what was done.")


class SegmentDetails(BaseModel):
    """A segment's position in the result, rounded to whole frames (25 per second)."""

    start_s: float = Field(description="Start in seconds.")
    end_s: float = Field(description="End in seconds.")


class PredictDetails(BaseModel):
    """How the video was made. Fields may be added but are never renamed.

    Options that the engine does not use are null.
    """

    guidance_scale: float | None = Field(description="As requested.")
    inference_steps: int | None = Field(description="As requested.")
    seed: int | None = Field(description="Seed of the run; the random one if the request had -1.")
    engine: str = Field(description="Engine that made the video.")
    model_version: str = Field(description="Version of its weights or algorithm.")
    scheduler: SchedulerName | None = Field("ddim", description="As requested.")
    feature_cache_interval: int | None = Field(1, description="As requested.")
    guidance_interval: tuple[float, float] | None = Field((0.0, 1.0), description="As requested.")
    sync_mode: SyncMode
    frames: int = Field(description="Frames of the result.")
    frames_without_face: int = Field(description="Frames left unchanged.")
    faces_found: int = Field(description="Number of different faces in the video.")
    fps: float = Field(description="Frames per second of the result.")
    width: int = Field(description="Width of the result in pixels.")
    height: int = Field(description="Height of the result in pixels.")
    duration_s: float = Field(description="Duration of the result in seconds.")
    segments: list[SegmentDetails] = Field([], description="Segments of the request, if any.")
    warnings: list[RunWarning] = Field(
        [], description="What was not as asked or not as usual, but was handled."
    )
    seconds: dict[str, float] = Field(
        description="Seconds per stage; `a.b` is a part of stage `a`."
    )


class PredictResult(BaseModel):
    """The finished video and how it was made."""

    video_base64: str = Field(description="The MP4 as base64.")
    details: PredictDetails


class PredictResponse(BaseModel):
    """Result of a finished run."""

    run_id: str = Field(description="Id of the run, as in the server's log.")
    result: PredictResult
    run_time_ms: float = Field(description="Duration of the run in milliseconds.")


class ErrorResponse(BaseModel):
    """An error."""

    status_code: int = Field(description="HTTP status.")
    code: str = Field(description="Stable error code.")
    message: str = Field(description="A sentence with the field, the value and the allowed range.")
    field: str | None = Field(None, description="Request field at fault.")
    run_id: str | None = Field(None, description="Reference of the error in the server's log.")


class Problem(BaseModel):
    """An error: problem details as defined by RFC 9457."""

    type: str = Field(description="URN that ends with the code.")
    title: str = Field(description="Meaning of the HTTP status.")
    status: int = Field(description="HTTP status.")
    detail: str = Field(description="A sentence with the field, the value and the allowed range.")
    code: str = Field(description="Stable error code.")
    field: str | None = Field(
        None, description="Request field at fault, for example `predictions.3.seed`."
    )
    run_id: str | None = Field(None, description="Reference of the error in the server's log.")
