"""What a caller may ask for, checked once for every door (contract A and its additions).

A door hands its JSON object to :func:`parse_request`; everything behind the door works with the
frozen :class:`RunRequest`, which no longer knows which contract it came from.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from latentsync.errors import (
    ConflictingFields,
    InvalidField,
    InvalidRequest,
    MalformedBody,
    MissingField,
    UnknownField,
    shorten,
)

GUIDANCE_SCALE_MIN, GUIDANCE_SCALE_MAX = 1.0, 3.0
INFERENCE_STEPS_MIN, INFERENCE_STEPS_MAX = 1, 50
SEED_RANDOM = -1  # asks the server to draw a seed and report it
SEED_MAX = 2**63 - 1  # largest seed that every random generator used here accepts
CACHE_INTERVAL_MAX = 10
SEGMENTS_MAX = 100
FRAME_INDEX_MAX = 2**31 - 1  # beyond every video; keeps absurd numbers out of the floors below
SECONDS_MAX = 1e6  # likewise


class SyncMode(StrEnum):
    """What happens when the audio and the video have different lengths."""

    BOUNCE = "bounce"  # the video plays forwards and backwards until the audio ends
    LOOP = "loop"  # the video starts again until the audio ends
    CUT_OFF = "cut_off"  # both end with the shorter one
    SILENCE = "silence"  # both end with the longer one: silence, or the last picture held
    REMAP = "remap"  # the video is slowed down or sped up to the audio's length


class StrictModel(BaseModel):
    """Fields of a call: each checked as it is, none that the contract does not have."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _whole_unicode(text: str) -> str:
    """Refuse halves of surrogate pairs, which JSON can spell but nothing can send or store."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("the text is not valid Unicode") from None
    return text


Text = Annotated[str, AfterValidator(_whole_unicode)]
Coordinate = Annotated[float, Field(strict=True, ge=0)]
FrameIndex = Annotated[int, Field(strict=True, ge=0, le=FRAME_INDEX_MAX)]
Seconds = Annotated[float, Field(strict=True, ge=0, le=SECONDS_MAX)]


class SpeakerPoint(StrictModel):
    """The face at ``point`` (x, y in pixels of the upright picture) in ``frame`` (25 fps)."""

    frame: FrameIndex = 0
    point: tuple[Coordinate, Coordinate]


class SpeakerBox(StrictModel):
    """The face that overlaps ``box`` (x1, y1, x2, y2 in pixels) most in ``frame`` (25 fps)."""

    frame: FrameIndex = 0
    box: tuple[Coordinate, Coordinate, Coordinate, Coordinate]

    @model_validator(mode="after")
    def _corners_in_order(self) -> SpeakerBox:
        x1, y1, x2, y2 = self.box
        if x2 <= x1 or y2 <= y1:
            raise ValueError("the box must be x1, y1, x2, y2 with x1 < x2 and y1 < y2")
        return self


Speaker = Literal["auto"] | SpeakerPoint | SpeakerBox
EngineName = Literal["auto", "latentsync-1.6", "latentsync-1.5", "draft"]
SchedulerName = Literal["ddim", "dpm-solver++"]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
GuidanceScale = Annotated[
    float,
    Field(
        strict=True,
        ge=GUIDANCE_SCALE_MIN,
        le=GUIDANCE_SCALE_MAX,
        description="strength of classifier-free guidance; 1.0 means none (diffusion engines)",
    ),
]
InferenceSteps = Annotated[
    int,
    Field(
        strict=True,
        ge=INFERENCE_STEPS_MIN,
        le=INFERENCE_STEPS_MAX,
        description="denoising steps (diffusion engines)",
    ),
]
Seed = Annotated[
    int,
    Field(
        strict=True,
        ge=SEED_RANDOM,
        le=SEED_MAX,
        description="seed of the run; -1 draws a random one and reports it",
    ),
]


def _exactly_one_source(schema: dict[str, Any]) -> None:
    """Say in the JSON schema what :func:`parse_request` enforces: one form of each medium.

    Segments may bring all the speech there is.
    """
    video, audio = (
        {"oneOf": [{"required": [f"{medium}_url"]}, {"required": [f"{medium}_base64"]}]}
        for medium in ("video", "audio")
    )
    no_audio = {"not": {"anyOf": audio["oneOf"]}, "required": ["segments"]}
    schema["allOf"] = [video, {"anyOf": [audio, no_audio]}]


class SegmentFields(StrictModel):
    """A part of the video that one speaker says, with its own piece of speech."""

    audio_url: Text | None = Field(None, description="http(s) address of its recording")
    audio_base64: Text | None = Field(
        None, description="its recording as base64 or data: URI; by default the request's recording"
    )
    start_s: Seconds = Field(0.0, description="where in the video it begins, in seconds")
    end_s: Seconds | None = Field(
        None, description="where in the video it ends; by default where its recording does"
    )
    audio_start_s: Seconds = Field(0.0, description="where in the recording it begins, in seconds")
    speaker: Speaker | None = Field(None, description="whose lips move; by default the request's")

    @model_validator(mode="after")
    def _start_before_end(self) -> SegmentFields:
        if self.end_s is not None and self.end_s <= self.start_s:
            raise ValueError(f"end_s ({self.end_s:g}) must lie after start_s ({self.start_s:g})")
        return self


class PredictRequest(StrictModel):
    """The body of ``POST /predict``: one video, one speech recording and the options of the run."""

    model_config = ConfigDict(json_schema_extra=_exactly_one_source)

    video_url: Text | None = Field(None, description="http(s) address of the source video")
    video_base64: Text | None = Field(None, description="source video as base64 or data: URI")
    audio_url: Text | None = Field(None, description="http(s) address of the speech recording")
    audio_base64: Text | None = Field(None, description="speech recording as base64 or data: URI")
    guidance_scale: GuidanceScale = 1.5
    inference_steps: InferenceSteps = 20
    seed: Seed = 1247
    sync_mode: SyncMode = Field(
        SyncMode.BOUNCE, description="what to do when audio and video lengths differ"
    )
    speaker: Speaker = Field(
        "auto", description="whose lips move: auto, a frame with a point, or a frame with a box"
    )
    deadline_s: float | None = Field(
        None, strict=True, gt=0, description="give up when the run takes longer, in seconds"
    )
    engine: EngineName | None = Field(
        None, description="which engine makes the lips; by default the server's"
    )
    scheduler: SchedulerName = Field(
        "ddim", description="how a step is taken; dpm-solver++ needs fewer steps, approximately"
    )
    feature_cache_interval: int = Field(
        1,
        strict=True,
        ge=1,
        le=CACHE_INTERVAL_MAX,
        description="run the whole network only every so many steps; above 1 approximate",
    )
    guidance_interval: tuple[Share, Share] = Field(
        (0.0, 1.0),
        description="part of the steps with guidance, start and end in 0..1; less is approximate",
    )

    segments: tuple[SegmentFields, ...] = Field(
        (),
        max_length=SEGMENTS_MAX,
        description="parts with a recording or a speaker of their own, instead of one recording "
        "from start to end; they may overlap where different people speak",
    )
    keep_sound: bool = Field(
        True,
        strict=True,
        description="with segments: the video's own sound is heard where nobody speaks",
    )

    @field_validator("guidance_interval")
    @classmethod
    def _start_before_end(cls, interval: tuple[float, float]) -> tuple[float, float]:
        if interval[0] >= interval[1]:
            raise ValueError("the start must lie before the end")
        return interval


class SegmentDetails(BaseModel):
    """Where a segment was spoken: what was asked for, on the grid of 25 frames per second."""

    start_s: float
    end_s: float


class PredictDetails(BaseModel):
    """How the answer was made. Doors of later engines add fields, none is ever renamed."""

    guidance_scale: float
    inference_steps: int
    seed: int
    engine: str = Field(description="which engine made the lips; draft is the embedded default")
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


@dataclass(frozen=True)
class UrlSource:
    """Media behind an http or https address; ``name`` is the request field, for messages."""

    url: str
    name: str


@dataclass(frozen=True)
class InlineSource:
    """Media inside the request as base64 text, with or without a ``data:`` prefix."""

    base64: str = field(repr=False)
    name: str


@dataclass(frozen=True)
class PathSource:
    """Media that already lies on this machine, inside an allowed root."""

    path: Path
    name: str


MediaSource = UrlSource | InlineSource | PathSource


@dataclass(frozen=True)
class RunOptions:
    """Options of one run, every value final (the seed is drawn)."""

    guidance_scale: float = 1.5
    inference_steps: int = 20
    seed: int = 1247
    sync_mode: SyncMode = SyncMode.BOUNCE
    speaker: Speaker = "auto"
    deadline_s: float | None = None
    engine: EngineName | None = None
    scheduler: SchedulerName = "ddim"
    feature_cache_interval: int = 1
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    keep_sound: bool = True


@dataclass(frozen=True)
class Segment:
    """A part of the video that one speaker says.

    Attributes:
        audio: its own recording; None stands for the request's.
        start_s: where in the video it begins.
        end_s: where in the video it ends; None where its recording does.
        audio_start_s: where in the recording it begins.
        speaker: whose lips move.
    """

    audio: MediaSource | None
    start_s: float = 0.0
    end_s: float | None = None
    audio_start_s: float = 0.0
    speaker: Speaker = "auto"


@dataclass(frozen=True)
class RunRequest:
    """One job for the runner, whatever door it came through.

    Attributes:
        video: the source video.
        audio: the speech; None if every segment brings its own.
        options: of the run.
        segments: what is said where and by whom; none: the speech, from start to end.
    """

    video: MediaSource
    audio: MediaSource | None
    options: RunOptions = RunOptions()
    segments: tuple[Segment, ...] = ()

    @property
    def recordings(self) -> dict[str, MediaSource]:
        """Return the speech by name: ``audio``, ``segments.0.audio``, …"""
        named = {"audio": self.audio} if self.audio is not None else {}
        own = ((segment_recording(i), segment.audio) for i, segment in enumerate(self.segments))
        return named | {name: source for name, source in own if source is not None}

    @property
    def media(self) -> dict[str, MediaSource]:
        """Return everything that must be brought here, by name: ``video`` and the recordings."""
        return {"video": self.video} | self.recordings


def segment_recording(index: int) -> str:
    """Return the name of a segment's own recording."""
    return f"segments.{index}.audio"


def validate_fields(body: object) -> PredictRequest:
    """Check every field of a decoded JSON body of contract A by itself.

    Args:
        body: the decoded JSON value; anything but an object is refused.

    Raises:
        MalformedBody, UnknownField, InvalidField
    """
    return validate_as(PredictRequest, body)


Fields = TypeVar("Fields", bound=StrictModel)


def validate_as(model: type[Fields], body: object) -> Fields:
    """Check every field of a decoded JSON body of any contract.

    Args:
        model: the contract's fields.
        body: the decoded JSON value; anything but an object is refused.

    Raises:
        MalformedBody, MissingField, UnknownField, InvalidField
    """
    if not isinstance(body, dict):
        raise MalformedBody(f"The body must be a JSON object, not {_json_type(body)}.")
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise _first_problem(error, model) from None


def parse_request(body: object) -> RunRequest:
    """Validate a decoded JSON body of contract A and turn it into one job.

    Args:
        body: the decoded JSON value; anything but an object is refused.

    Raises:
        MalformedBody, MissingField, ConflictingFields, UnknownField, InvalidField
    """
    request = validate_fields(body)
    video = _required("video", _source("video", request.video_url, request.video_base64))
    audio = _source("audio", request.audio_url, request.audio_base64)
    segments = build_segments(request)
    check_recordings(audio, segments)
    return RunRequest(video, audio, build_options(request), segments)


def build_segments(request: PredictRequest) -> tuple[Segment, ...]:
    """Return the segments, each with its speaker; raises ConflictingFields."""
    if request.segments and request.sync_mode is SyncMode.REMAP:
        raise ConflictingFields(
            "sync_mode remap stretches the video to one recording; it cannot go with segments.",
            field="sync_mode",
        )
    return tuple(
        Segment(
            audio=_source(segment_recording(index), fields.audio_url, fields.audio_base64),
            start_s=fields.start_s,
            end_s=fields.end_s,
            audio_start_s=fields.audio_start_s,
            speaker=request.speaker if fields.speaker is None else fields.speaker,
        )
        for index, fields in enumerate(request.segments)
    )


def check_recordings(audio: MediaSource | None, segments: Sequence[Segment]) -> None:
    """Check that there is speech for everybody, and none for nobody.

    Raises:
        MissingField, ConflictingFields
    """
    without = [index for index, segment in enumerate(segments) if segment.audio is None]
    if not segments:
        _required("audio", audio)
    elif without and audio is None:
        name = segment_recording(without[0])
        raise MissingField(
            f"Give one of {name}_url or {name}_base64, or one recording for all segments as "
            "audio_url or audio_base64.",
            field=f"{name}_url",
        )
    elif not without and audio is not None:
        raise ConflictingFields(
            f"Every segment has its own recording; {audio.name} is used by none.", field=audio.name
        )


def build_options(request: PredictRequest) -> RunOptions:
    """Return the run's options, with a random seed drawn where the caller asked for one."""
    seed = secrets.randbelow(2**32) if request.seed == SEED_RANDOM else request.seed
    return RunOptions(
        guidance_scale=request.guidance_scale,
        inference_steps=request.inference_steps,
        seed=seed,
        sync_mode=request.sync_mode,
        speaker=request.speaker,
        deadline_s=request.deadline_s,
        engine=request.engine,
        scheduler=request.scheduler,
        feature_cache_interval=request.feature_cache_interval,
        guidance_interval=request.guidance_interval,
        keep_sound=request.keep_sound,
    )


def _source(medium: str, url: str | None, base64: str | None) -> MediaSource | None:
    url_field, base64_field = f"{medium}_url", f"{medium}_base64"
    if url is not None and base64 is not None:
        raise ConflictingFields(
            f"Give either {url_field} or {base64_field}, not both.", field=url_field
        )
    if url is not None:
        return UrlSource(url=url, name=url_field)
    if base64 is not None:
        return InlineSource(base64=base64, name=base64_field)
    return None


def _required(medium: str, source: MediaSource | None) -> MediaSource:
    if source is None:
        raise MissingField(f"Give one of {medium}_url or {medium}_base64.", field=f"{medium}_url")
    return source


def _first_problem(error: ValidationError, model: type[StrictModel]) -> InvalidRequest:
    """Turn pydantic's first finding into one sentence with field, value and what is allowed."""
    problem: Any = error.errors(include_url=False, include_context=False)[0]
    name = ".".join(str(part) for part in problem["loc"])
    top = str(problem["loc"][0]) if problem["loc"] else ""
    if top not in model.model_fields:
        # pydantic names no place for a key that is not valid Unicode: its input is the key then.
        return unknown_field(name or problem["input"], model.model_fields)
    if problem["type"] == "missing" and name == top:
        return MissingField(f"Give {name}.", field=top)
    given = shorten(problem["input"])
    if "speaker" in problem["loc"]:  # a union: what pydantic says of its members confuses
        name = name.partition("speaker")[0] + "speaker"
        allowed = '"auto", {"frame": n, "point": [x, y]} or {"frame": n, "box": [x1, y1, x2, y2]}'
        return InvalidField(f"{name} holds {given}. Allowed: {allowed}.", field=name)
    field = name if top == "segments" else top
    if problem["type"] == "extra_forbidden":
        return unknown_field(name, SegmentFields.model_fields)
    if problem["type"] == "model_type":
        return InvalidField(f"{name} is {given}: it must be an object.", field=field)
    reason = problem["msg"].removeprefix("Value error, ").replace("a valid tuple", "an array")
    reason = reason[:1].lower() + reason[1:]
    return InvalidField(f"{name} is {given}: {reason}{_range_of(top)}.", field=field)


def unknown_field(name: str, allowed: Iterable[str]) -> UnknownField:
    """Return the error for a field that a contract does not have; ``name`` may be any text."""
    excerpt = shorten(name)  # from the caller: any length, any characters
    return UnknownField(
        f"Unknown field {excerpt}. Allowed: {', '.join(allowed)}.", field=excerpt.strip("'\"")
    )


def _json_type(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _range_of(name: str) -> str:
    ranges = {
        "guidance_scale": f" (allowed: {GUIDANCE_SCALE_MIN} to {GUIDANCE_SCALE_MAX})",
        "inference_steps": f" (allowed: {INFERENCE_STEPS_MIN} to {INFERENCE_STEPS_MAX})",
        "seed": f" (allowed: {SEED_RANDOM} to {SEED_MAX})",
        "feature_cache_interval": f" (allowed: 1 to {CACHE_INTERVAL_MAX})",
        "guidance_interval": " (allowed: [start, end] with 0 <= start < end <= 1)",
    }
    return ranges.get(name, "")
