"""Request bodies: options, segments, and media as addresses, base64 or files of a form."""

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

Media = Path | str | bytes  # a file, a file name or an http(s) address, or the media itself

_ADDRESSES = ("http://", "https://", "upload://")


def as_address(name: str, media: Media) -> dict[str, str]:
    """Return ``{"url": …}`` for an address, nothing for media that are sent as files."""
    return {"url": media} if isinstance(media, str) and media.startswith(_ADDRESSES) else {}


def as_text(name: str, media: Media) -> dict[str, str]:
    """Return ``{"url": …}`` for an address, ``{"base64": …}`` for anything else.

    Raises:
        InvalidField: there is no such file.
    """
    address = as_address(name, media)
    if address:
        return address
    if not isinstance(media, bytes):
        with _open(name, media) as file:
            media = file.read()
    return {"base64": base64.b64encode(media).decode("ascii")}


def open_file(name: str, path: Path | str) -> BinaryIO:
    """Open a regular file: a pipe could not be sent again by a retry.

    Raises:
        InvalidField: there is no such file.
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
    """A part of the video with its own speech.

    Attributes:
        audio: its own recording: path, file name, address or bytes; by default the shared one.
        start_s: where in the video it begins, in seconds.
        end_s: where in the video it ends; by default where its recording does.
        audio_start_s: where in the recording it begins, in seconds.
        speaker: whose lips move; by default those of the option ``speaker``.
    """

    audio: Media | None = field(default=None, repr=False)
    start_s: float = 0.0
    end_s: float | None = None
    audio_start_s: float = 0.0
    speaker: Speaker | Mapping[str, Any] | None = None


def segment_fields(segment: Segment) -> dict[str, Any]:
    """Return a segment's fields of a request, but for its recording."""
    return {name: value for name, value in vars(segment).items() if name != "audio"}


def check_speech(audio: Media | None, segments: Sequence[Segment]) -> None:
    """Check that every segment has speech and that all speech is used.

    Raises:
        InvalidField: a segment is not a Segment.
        MissingField: there is no recording, or none for a segment.
        ConflictingFields: ``audio`` is given, but no segment uses it.
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
        raise MissingField(
            f"Give {name}, or one audio for all segments without their own.", field=name
        )
    if segments and not without and audio is not None:
        raise ConflictingFields(
            "Every segment has its own audio, so the shared audio is not used.",
            field="audio",
        )


def named_media(video: Media, audio: Media | None, segments: Sequence[Segment]) -> dict[str, Media]:
    """Return all media by the names of a request: ``video``, ``audio``, ``segments.0.audio``, …"""
    of_segments = {segment_recording(n): segment.audio for n, segment in enumerate(segments)}
    named = {"video": video, "audio": audio, **of_segments}
    return {name: media for name, media in named.items() if media is not None}


_KEY_CHARACTERS_MAX = 200


class Options(TypedDict, total=False):
    """Options of a run; what is left out is decided by the server.

    Attributes:
        guidance_scale: 1.0 to 3.0.
        inference_steps: 1 to 50.
        seed: -1 draws a random one, which the details report.
        sync_mode: what to do when the lengths differ.
        speaker: whose lips move.
        deadline_s: seconds after which the server gives up the run.
        engine: which engine makes the lips; by default the server's.
        scheduler: ``dpm-solver++`` needs fewer steps than ``ddim``, approximately.
        feature_cache_interval: above 1 the network runs whole only every so many steps.
        guidance_interval: start and end, in 0..1, of the steps with guidance.
        keep_sound: with segments, keep the sound of the video outside the segments.
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
    """Arguments of a prediction, before any file is read.

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


def inline_body(asked: PredictArgs) -> dict[str, Any]:
    """Return contract A's fields; files become base64.

    Raises:
        InvalidField: there is no such file, or a value is not allowed.
        UnknownField: there is no such option.
        MissingField, ConflictingFields: a segment has no speech, or audio is not used by any.
    """
    return _fields(asked, as_text)


@contextmanager
def open_submission(asked: PredictArgs, webhook_url: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the httpx arguments of a submission, which can be used again for retries.

    Files are streamed and stay open inside the block.

    Raises:
        InvalidField: there is no such file, or a value is not allowed.
        UnknownField: there is no such option.
        MissingField, ConflictingFields: a segment has no speech, or audio is not used by any.
    """
    fields = _fields(asked, as_address)
    if webhook_url is not None:
        fields["webhook"] = webhook_url
    with ExitStack() as opened:
        files: dict[str, BinaryIO | bytes] = {}
        for name, media in named_media(asked.video, asked.audio, asked.segments).items():
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


def _fields(asked: PredictArgs, form_of: Callable[[str, Media], dict[str, str]]) -> dict[str, Any]:
    """Return the fields as JSON values.

    Defaults are left out: the server has its own, and other versions may lack the fields.

    Args:
        asked: what is asked for.
        form_of: returns the fields of a medium, such as ``{"url": …}``, by its name.
    """
    check_speech(asked.audio, asked.segments)

    def medium(field: str, name: str, media: Media | None) -> dict[str, str]:
        forms = {} if media is None else form_of(name, media)
        return {f"{field}_{form}": value for form, value in forms.items()}

    segments = [
        medium("audio", segment_recording(index), segment.audio) | segment_fields(segment)
        for index, segment in enumerate(asked.segments)
    ]
    fields = {
        **medium("video", "video", asked.video),
        **medium("audio", "audio", asked.audio),
        **asked.options,
        "segments": segments,
    }
    checked = validate_fields(fields)
    build_segments(checked)
    body = checked.model_dump(mode="json", exclude_defaults=True)
    if segments and "sync_mode" in asked.options:
        # An explicit default differs from none: it decides what follows the video's end.
        body["sync_mode"] = checked.sync_mode.value
    return body


def _form(fields: Mapping[str, Any], files: Mapping[str, BinaryIO | bytes]) -> dict[str, Any]:
    """Encode numbers and objects as JSON; send files without their names."""
    texts = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in fields.items()
    }
    parts = {name: (name, file, "application/octet-stream") for name, file in files.items()}
    return {"data": texts, "files": parts}
