"""The request of ``/predict`` and its validation.

:func:`parse_request` turns a JSON object into a :class:`latentsync.schema.run.RunRequest`, which
no longer depends on the API it came through.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from pydantic import ConfigDict, Field, ValidationError, model_validator

from latentsync import errors
from latentsync.schema import run
from latentsync.schema.fields import (
    CACHE_INTERVAL_MAX,
    GUIDANCE_SCALE_MAX,
    GUIDANCE_SCALE_MIN,
    INFERENCE_STEPS_MAX,
    INFERENCE_STEPS_MIN,
    SEED_MAX,
    SEED_RANDOM,
    SEGMENTS_MAX,
    Seconds,
    Speaker,
    StrictModel,
    SyncMode,
    Text,
)


def _exactly_one_source(schema: dict[str, Any]) -> None:
    """Add to the JSON schema what :func:`parse_request` checks: one form of each medium.

    ``audio`` may be absent where every segment has its own recording.
    """
    video, audio = (
        {"oneOf": [{"required": [f"{medium}_url"]}, {"required": [f"{medium}_base64"]}]}
        for medium in ("video", "audio")
    )
    no_audio = {"not": {"anyOf": audio["oneOf"]}, "required": ["segments"]}
    schema["allOf"] = [video, {"anyOf": [audio, no_audio]}]


class SegmentFields(StrictModel):
    """A part of the video in which one speaker speaks."""

    audio_url: Text | None = Field(
        None, description="URL of the recording of this segment, as for the video."
    )
    audio_base64: Text | None = Field(
        None,
        description="The recording of this segment as base64 or `data:` URI. A segment without a "
        "recording uses the recording of the request.",
    )
    start_s: Seconds = Field(0.0, description="Start of the segment in the video, in seconds.")
    end_s: Seconds | None = Field(
        None,
        description="End of the segment in the video, in seconds; by default where its recording "
        "ends. A longer recording is cut, a shorter one padded with silence.",
    )
    audio_start_s: Seconds = Field(0.0, description="Start in the recording, in seconds.")
    speaker: Speaker | None = Field(
        None, description="The speaker; by default the `speaker` of the request."
    )

    @model_validator(mode="after")
    def _start_before_end(self) -> SegmentFields:
        if self.end_s is not None and self.end_s <= self.start_s:
            raise ValueError(f"end_s ({self.end_s:g}) must lie after start_s ({self.start_s:g})")
        return self


class _MediaFields(StrictModel):
    video_url: Text | None = Field(
        None, description="URL of the source video: http or https, or `upload://…` of an upload."
    )
    video_base64: Text | None = Field(
        None, description="The source video as base64 or `data:` URI."
    )
    audio_url: Text | None = Field(
        None, description="URL of the speech recording, as for the video."
    )
    audio_base64: Text | None = Field(
        None, description="The speech recording as base64 or `data:` URI."
    )


class PredictRequest(run.RunOptions, _MediaFields):
    """One video, one speech recording and the options of the run."""

    model_config = ConfigDict(json_schema_extra=_exactly_one_source)

    segments: tuple[SegmentFields, ...] = Field(
        (),
        max_length=SEGMENTS_MAX,
        description="Parts of the video with their own recording or speaker, instead of one "
        "recording from start to end. They may overlap if the speakers differ.",
    )


def validate_fields(body: object) -> PredictRequest:
    """Validate the fields of a body of ``/predict``, each by itself.

    Args:
        body: the decoded JSON value; it must be an object.

    Raises:
        MalformedBody, UnknownField, InvalidField
    """
    return validate_as(PredictRequest, body)


Fields = TypeVar("Fields", bound=StrictModel)


def validate_as(model: type[Fields], body: object) -> Fields:
    """Validate the fields of a JSON body.

    Args:
        model: the fields of the API.
        body: the decoded JSON value; anything but an object is refused.

    Raises:
        MalformedBody, MissingField, UnknownField, InvalidField
    """
    if not isinstance(body, dict):
        raise errors.MalformedBody(f"The body must be a JSON object, not {_json_type(body)}.")
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise _first_problem(error, model) from None


def parse_request(body: object) -> run.RunRequest:
    """Validate a JSON body of ``/predict`` and return the run that it asks for.

    Args:
        body: the decoded JSON value; it must be an object.

    Raises:
        MalformedBody, MissingField, ConflictingFields, UnknownField, InvalidField
    """
    request = validate_fields(body)
    video = _required("video", _source("video", request.video_url, request.video_base64))
    audio = _source("audio", request.audio_url, request.audio_base64)
    segments = build_segments(request)
    check_recordings(audio, segments)
    return run.RunRequest(video, audio, build_options(request), segments)


def build_segments(request: PredictRequest) -> tuple[run.Segment, ...]:
    """Build the segments, each with its speaker; raises ConflictingFields."""
    if request.segments and request.sync_mode is SyncMode.REMAP:
        raise errors.ConflictingFields(
            "sync_mode remap stretches the video to one recording; it does not support segments.",
            field="sync_mode",
        )
    return tuple(
        run.Segment(
            audio=_source(run.segment_recording(index), fields.audio_url, fields.audio_base64),
            start_s=fields.start_s,
            end_s=fields.end_s,
            audio_start_s=fields.audio_start_s,
            speaker=request.speaker if fields.speaker is None else fields.speaker,
        )
        for index, fields in enumerate(request.segments)
    )


def check_recordings(audio: run.MediaSource | None, segments: Sequence[run.Segment]) -> None:
    """Check that every segment has a recording, and that every recording is used.

    Raises:
        MissingField, ConflictingFields
    """
    without = [index for index, segment in enumerate(segments) if segment.audio is None]
    if not segments:
        _required("audio", audio)
    elif without and audio is None:
        name = run.segment_recording(without[0])
        raise errors.MissingField(
            f"Give one of {name}_url or {name}_base64, or one recording for all segments as "
            "audio_url or audio_base64.",
            field=f"{name}_url",
        )
    elif not without and audio is not None:
        raise errors.ConflictingFields(
            f"Every segment has its own recording, so {audio.name} would not be used.",
            field=audio.name,
        )


def build_options(request: StrictModel, **more: Any) -> run.RunOptions:
    """Return the options of a run, with a random seed drawn where the request asks for one.

    Args:
        request: a request of any API; its fields that are no options are ignored.
        more: options that the request does not have.
    """
    shared = type(request).model_fields.keys() & run.RunOptions.model_fields.keys()
    options = {name: getattr(request, name) for name in shared} | more
    if options.get("seed") == SEED_RANDOM:
        options["seed"] = secrets.randbelow(2**32)
    given = request.model_fields_set & shared | more.keys()
    # Validated before; model_validate would lose which of them were given.
    return run.RunOptions.model_construct(given, **options)


def _source(medium: str, url: str | None, base64: str | None) -> run.MediaSource | None:
    url_field, base64_field = f"{medium}_url", f"{medium}_base64"
    if url is not None and base64 is not None:
        raise errors.ConflictingFields(
            f"Give either {url_field} or {base64_field}, not both.", field=url_field
        )
    if url is not None:
        return run.UrlSource(url=url, name=url_field)
    if base64 is not None:
        return run.InlineSource(base64=base64, name=base64_field)
    return None


def _required(medium: str, source: run.MediaSource | None) -> run.MediaSource:
    if source is None:
        raise errors.MissingField(
            f"Give one of {medium}_url or {medium}_base64.", field=f"{medium}_url"
        )
    return source


def _first_problem(error: ValidationError, model: type[StrictModel]) -> errors.InvalidRequest:
    """Return pydantic's first error as one sentence with field, value and what is allowed."""
    problem: Any = error.errors(include_url=False, include_context=False)[0]
    name = ".".join(str(part) for part in problem["loc"])
    top = str(problem["loc"][0]) if problem["loc"] else ""
    if top not in model.model_fields:
        # For a key that is not valid Unicode pydantic gives no location; its input is the key.
        return unknown_field(name or problem["input"], model.model_fields)
    if problem["type"] == "missing" and name == top:
        return errors.MissingField(f"Give {name}.", field=top)
    given = errors.shorten(problem["input"])
    if "speaker" in problem["loc"]:  # a union: pydantic's messages about its members confuse
        name = name.partition("speaker")[0] + "speaker"
        allowed = '"auto", {"frame": n, "point": [x, y]} or {"frame": n, "box": [x1, y1, x2, y2]}'
        return errors.InvalidField(f"{name} holds {given}. Allowed: {allowed}.", field=name)
    field = name if top == "segments" else top
    if problem["type"] == "extra_forbidden":
        return unknown_field(name, SegmentFields.model_fields)
    if problem["type"] == "model_type":
        return errors.InvalidField(f"{name} is {given}: it must be an object.", field=field)
    reason = problem["msg"].removeprefix("Value error, ").replace("a valid tuple", "an array")
    reason = reason[:1].lower() + reason[1:]
    return errors.InvalidField(f"{name} is {given}: {reason}{_range_of(top)}.", field=field)


def unknown_field(name: str, allowed: Iterable[str]) -> errors.UnknownField:
    """Return the error for a field that does not exist; ``name`` may be any text."""
    excerpt = errors.shorten(name)  # from the caller: any length, any characters
    return errors.UnknownField(
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
