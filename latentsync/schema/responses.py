"""Response models."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from latentsync.schema.fields import SchedulerName, SyncMode


class WarningCode(StrEnum):
    """What was not as asked or not as usual, but was handled. Codes are stable.

    docs/make_errors.py describes each one for callers.
    """

    ALPHA_COMPOSITED = "ALPHA_COMPOSITED"  # a transparent video was put on black
    CHANNEL_CHOSEN = "CHANNEL_CHOSEN"  # the lips follow some channels or a difference of two
    CHANNELS_MIXED = "CHANNELS_MIXED"  # more channels than an MP4 can have were mixed to stereo
    CLOCK_MENDED = "CLOCK_MENDED"  # jumps of the timestamps were closed
    DEINTERLACED = "DEINTERLACED"  # interlaced fields became whole frames
    FRAME_SIZE_CHANGED = "FRAME_SIZE_CHANGED"  # frames of other sizes were fitted into the first
    FRAMES_WITHOUT_FACE = "FRAMES_WITHOUT_FACE"  # lips were left unchanged in some frames
    SIZE_ROUNDED = "SIZE_ROUNDED"  # an odd width or height was extended by one pixel
    STREAM_CHOSEN = "STREAM_CHOSEN"  # one of several streams of a kind was used
    TONE_MAPPED = "TONE_MAPPED"  # high dynamic range became BT.709


class RunWarning(BaseModel, frozen=True):
    """Something that was not as asked or not as usual, but was handled.

    The code is a string, not a WarningCode, so that a client can read those of later versions.
    """

    code: str = Field(description="Stable code; later versions may add codes.")
    message: str = Field(description="A sentence with the request field and what was done.")


class SegmentDetails(BaseModel):
    """A segment's position in the result, rounded to whole frames (25 per second)."""

    start_s: float = Field(description="Start in seconds.")
    end_s: float = Field(description="End in seconds.")


# Without null: FastAPI leaves such fields out of examples, and the first three are required.
EXAMPLE_DETAILS: JsonDict = {
    "guidance_scale": 1.5,
    "inference_steps": 20,
    "seed": 1247,
    "engine": "latentsync-1.6",
    "model_version": "latentsync-1.6",
    "scheduler": "ddim",
    "feature_cache_interval": 1,
    "guidance_interval": [0.0, 1.0],
    "sync_mode": "bounce",
    "frames": 161,
    "frames_without_face": 12,
    "faces_found": 1,
    "fps": 25.0,
    "width": 642,
    "height": 482,
    "duration_s": 6.44,
    "segments": [],
    "warnings": [
        {
            "code": WarningCode.SIZE_ROUNDED.value,
            "message": "video_url is 641x481 pixels; its frames were extended to 642x482, because "
            "H.264 needs even sides.",
        },
        {
            "code": WarningCode.FRAMES_WITHOUT_FACE.value,
            "message": "video_url shows no usable face of the speaker in 12 of the result's 161 "
            "frames; the lips were left unchanged there.",
        },
    ],
    "seconds": {"fetch": 0.004, "probe": 0.041, "read": 0.808, "generate": 42.3, "write": 0.732},
}


class PredictDetails(BaseModel):
    """How the video was made. Fields may be added but are never renamed.

    Options that the engine does not use are null.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_DETAILS]})

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
        [], description="What was not as asked or not as usual, but was handled; mostly empty."
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
