"""Request bodies: options, segments, and media as URLs, base64 or form files."""

import base64
import json
import os
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypedDict

from latentsync.errors import ConflictingFields, InvalidField, MissingField, shorten
from latentsync.schema.fields import EngineName, SchedulerName, Speaker, SyncMode
from latentsync.schema.predict import build_segments, validate_fields
from latentsync.schema.run import segment_recording

Media = Path | str | bytes  # a path, a file name, an http(s) URL, or the content

_ADDRESSES = ("http://", "https://", "upload://")


def as_address(name: str, media: Media) -> dict[str, str]:
    """Return ``{"url": …}`` for a URL, nothing for media that are sent as files."""
    return {"url": media} if isinstance(media, str) and media.startswith(_ADDRESSES) else {}


def as_text(name: str, media: Media) -> dict[str, str]:
    """Return ``{"url": …}`` for a URL, ``{"base64": …}`` for anything else.

    Raises:
        InvalidField: the file cannot be read.
    """
    address = as_address(name, media)
    if address:
        return address
    if not isinstance(media, bytes):
        with _open(name, media) as file:
            media = file.read()
    return {"base64": base64.b64encode(media).decode("ascii")}


def open_file(name: str, path: Path | str) -> BinaryIO:
    """Open a regular file. Pipes are refused, since retries have to read it again.

    Raises:
        InvalidField: the file cannot be read.
    """
    file = _open(name, path)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise InvalidField(f"{name} {shorten(str(path))} is not a file.", field=name)
    return file


def _open(name: str, path: Path | str) -> BinaryIO:
    try:
        return Path(path).open("rb")
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = getattr(error, "strerror", None) or "not a usable path"
        raise InvalidField(
            f"{name} {shorten(str(path))} cannot be read: {reason}.", field=name
        ) from error


@dataclass(frozen=True)
class Segment:
    """A part of the video with one speaker.

    Attributes:
        audio: its own recording: path, file name, URL or bytes; by default the common one.
        start_s: start in the video, in seconds.
        end_s: end in the video, in seconds; by default where its recording ends.
        audio_start_s: start in the recording, in seconds.
        speaker: the face to animate; by default the option ``speaker``.
    """

    audio: Media | None = field(default=None, repr=False)
    start_s: float = 0.0
    end_s: float | None = None
    audio_start_s: float = 0.0
    speaker: Speaker | Mapping[str, Any] | None = None


def segment_fields(segment: Segment) -> dict[str, Any]:
    """Return the request fields of a segment, without its recording."""
    return {
        "start_s": segment.start_s,
        "end_s": segment.end_s,
        "audio_start_s": segment.audio_start_s,
        "speaker": segment.speaker,
    }


def check_speech(audio: Media | None, segments: Sequence[Segment]) -> None:
    """Check that every segment has a recording, and that ``audio`` is used.

    Raises:
        InvalidField: an item is not a Segment.
        MissingField: there is no recording, or none for a segment.
        ConflictingFields: ``audio`` is given, but every segment has its own.
    """
    for index, segment in enumerate(segments):
        if not isinstance(segment, Segment):
            name = f"segments.{index}"
            raise InvalidField(f"{name} is {shorten(segment)}: it must be a Segment.", field=name)
    without = [index for index, segment in enumerate(segments) if segment.audio is None]
    if not segments and audio is None:
        raise MissingField("Give audio, or segments with their own audio.", field="audio")
    if without and audio is None:
        name = segment_recording(without[0])
        raise MissingField(f"Give {name}, or audio for all segments without their own.", field=name)
    if segments and not without and audio is not None:
        raise ConflictingFields(
            "Every segment has its own audio, so audio would not be used.",
            field="audio",
        )


def named_media(video: Media, audio: Media | None, segments: Sequence[Segment]) -> dict[str, Media]:
    """Return all media by request name: ``video``, ``audio``, ``segments.0.audio``, …"""
    of_segments = {segment_recording(n): segment.audio for n, segment in enumerate(segments)}
    named = {"video": video, "audio": audio, **of_segments}
    return {name: media for name, media in named.items() if media is not None}


_KEY_CHARACTERS_MAX = 200


class Options(TypedDict, total=False):
    """Options of a run; missing ones default to the server's.

    Attributes:
        guidance_scale: 1.0 to 3.0.
        inference_steps: 1 to 50.
        seed: -1 for a random seed, reported in the details.
        sync_mode: what to do if video and speech differ in length.
        speaker: the face to animate.
        deadline_s: seconds after which the run fails.
        engine: engine to use; by default the server's.
        scheduler: ``dpm-solver++`` needs fewer steps than ``ddim`` and is approximate.
        feature_cache_interval: above 1 the full network runs only every N steps; approximate.
        guidance_interval: start and end of the steps with guidance, in 0..1.
        keep_sound: with segments, keep the video's own sound outside them.
    """

    guidance_scale: float
    inference_steps: int
    seed: int
    sync_mode: SyncMode | str
    speaker: Speaker | Mapping[str, Any]
    deadline_s: float | None
    engine: EngineName | None
    scheduler: SchedulerName
    feature_cache_interval: int
    guidance_interval: tuple[float, float]
    keep_sound: bool


@dataclass(frozen=True)
class PredictArgs:
    """Arguments of a prediction.

    Attributes:
        video: the source video.
        audio: the speech; None if every segment has its own.
        segments: parts with their own recording or speaker.
        options: of the run.
    """

    video: Media
    audio: Media | None
    segments: Sequence[Segment]
    options: Options


def inline_body(args: PredictArgs) -> dict[str, Any]:
    """Return the body of ``/predict``, with files as base64.

    Raises:
        InvalidField: a file cannot be read, or a value is not allowed.
        UnknownField: an option is unknown.
        MissingField, ConflictingFields: a recording is missing or unused.
    """
    return _fields(args, as_text)


@contextmanager
def open_submission(args: PredictArgs, webhook_url: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the arguments with which httpx builds the request, also for retries.

    Files are streamed and stay open inside the block.

    Raises:
        InvalidField: a file cannot be read, or a value is not allowed.
        UnknownField: an option is unknown.
        MissingField, ConflictingFields: a recording is missing or unused.
    """
    fields = _fields(args, as_address)
    if webhook_url is not None:
        fields["webhook"] = webhook_url
    with ExitStack() as opened:
        files: dict[str, BinaryIO | bytes] = {}
        for name, media in named_media(args.video, args.audio, args.segments).items():
            if isinstance(media, bytes):
                files[name] = media
            elif not as_address(name, media):
                files[name] = opened.enter_context(open_file(name, media))
        yield _form(fields, files) if files else {"json": fields}


def idempotency_key(given: str | None) -> str:
    """Return the caller's idempotency key, or a new one; raises InvalidField."""
    if given is None:
        return uuid.uuid4().hex
    if not given.isascii() or not given.isprintable() or not 0 < len(given) <= _KEY_CHARACTERS_MAX:
        raise InvalidField(
            f"idempotency_key is {shorten(given)}. Allowed: 1 to {_KEY_CHARACTERS_MAX} printable "
            "ASCII characters.",
            field="idempotency_key",
        )
    return given


def _fields(args: PredictArgs, form_of: Callable[[str, Media], dict[str, str]]) -> dict[str, Any]:
    """Return the fields as JSON values.

    Defaults are left out, so that servers of other versions understand the request.

    Args:
        args: the arguments.
        form_of: returns the fields of a medium, such as ``{"url": …}``.
    """
    check_speech(args.audio, args.segments)

    def medium(field: str, name: str, media: Media | None) -> dict[str, str]:
        forms = {} if media is None else form_of(name, media)
        return {f"{field}_{form}": value for form, value in forms.items()}

    segments = [
        medium("audio", segment_recording(index), segment.audio) | segment_fields(segment)
        for index, segment in enumerate(args.segments)
    ]
    fields = {
        **medium("video", "video", args.video),
        **medium("audio", "audio", args.audio),
        **args.options,
        "segments": segments,
    }
    checked = validate_fields(fields)
    build_segments(checked)
    body = checked.model_dump(mode="json", exclude_defaults=True)
    if segments and "sync_mode" in args.options:
        # An explicit default matters: it allows segments beyond the end of the video.
        body["sync_mode"] = checked.sync_mode.value
    return body


def _form(fields: Mapping[str, Any], files: Mapping[str, BinaryIO | bytes]) -> dict[str, Any]:
    """Return form fields and files: values as JSON, files without their names."""
    texts = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in fields.items()
    }
    parts = {name: (name, file, "application/octet-stream") for name, file in files.items()}
    return {"data": texts, "files": parts}
