"""Parts of a video that are said by different people, or that have recordings of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from latentsync.client.media import Media
from latentsync.errors import ConflictingFields, InvalidField, MissingField, shorten
from latentsync.fields import Speaker
from latentsync.request import segment_recording


@dataclass(frozen=True)
class Segment:
    """A part of the video that one speaker says.

    Attributes:
        audio: its own recording: path, file name, address or bytes; by default the one for all.
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
    return {
        "start_s": segment.start_s,
        "end_s": segment.end_s,
        "audio_start_s": segment.audio_start_s,
        "speaker": segment.speaker,
    }


def check_speech(audio: Media | None, segments: Sequence[Segment]) -> None:
    """Check that there is speech for everybody, and none for nobody.

    Raises:
        InvalidField: something else than a segment is among the segments.
        MissingField: there is no recording, or none for a segment.
        ConflictingFields: ``audio`` is there, but for no segment.
    """
    for index, segment in enumerate(segments):
        if not isinstance(segment, Segment):
            name = f"segments.{index}"
            raise InvalidField(f"{name} is {shorten(segment)}: it must be a Segment.", field=name)
    without = [index for index, segment in enumerate(segments) if segment.audio is None]
    if not segments and audio is None:
        raise MissingField("Give audio, or segments with audio of their own.", field="audio")
    if without and audio is None:
        name = segment_recording(without[0])
        raise MissingField(
            f"Give {name}, or one audio for all segments that have none of their own.", field=name
        )
    if segments and not without and audio is not None:
        raise ConflictingFields(
            "Every segment has audio of its own, so the one for all is used by none.",
            field="audio",
        )


def named_media(video: Media, audio: Media | None, segments: Sequence[Segment]) -> dict[str, Media]:
    """Return all media by the names of a request: ``video``, ``audio``, ``segments.0.audio``, …"""
    of_segments = {segment_recording(n): segment.audio for n, segment in enumerate(segments)}
    named = {"video": video, "audio": audio, **of_segments}
    return {name: media for name, media in named.items() if media is not None}
