"""Probing media in one pass over their packets, before any expensive work.

Headers are not trusted: lengths and rates are measured from the packets. Only the first frame is
decoded. The result can be stored with a job, so that the worker does not scan the file again.
"""

from __future__ import annotations  # the generics of av exist for type checkers only

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from dataclasses import field as default
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.layout import AudioLayout
from av.audio.stream import AudioStream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from pydantic import TypeAdapter

from latentsync import errors
from latentsync.media.animation import TIME_BASE, is_animation, open_animation
from latentsync.media.channels import MOST_WRITTEN_CHANNELS
from latentsync.media.clock import Clock
from latentsync.media.colour import (
    Colour,
    Orientation,
    is_transparent,
    read_colour,
    read_orientation,
)
from latentsync.media.container import open_media, unreadable_errors
from latentsync.media.limits import (
    check_audio_length,
    check_channels,
    check_frame_rate,
    check_length,
    check_picture,
    check_sample_rate,
)
from latentsync.media.pictures import recognise_picture
from latentsync.media.scan import scan_sound, scan_video
from latentsync.media.timeline import Timeline, build_timeline
from latentsync.media.tracks import Track, VideoTrack
from latentsync.schema.responses import RunWarning, WarningCode
from latentsync.settings import Settings

# Usual layouts of wave files without a channel mask, by number of channels.
_USUAL_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}
_NAMELESS = re.compile(r"\d channels( \(.*\))?$")
_SANE_ASPECT = (Fraction(1, 4), Fraction(4))  # pixel shapes outside this are damaged metadata


@dataclass(frozen=True, eq=False)
class VideoInfo:
    """A video that passed every check.

    Attributes:
        width, height: size of the upright picture with square pixels.
        coded_width, coded_height: the same before rotation.
        colour: colour metadata of the source.
        decoder: name of the decoder if it is not FFmpeg's usual one for the codec.
        lacks_times: whether frames have only times of decoding (:mod:`.decoding`).
        pixel_aspect: width of a stored pixel divided by its height.
        timeline: the source frame of each 25 fps slot.
        clock: how the timestamps of its packets become those of ``timeline``.
        warnings: what is unusual about the file and how it is handled.
    """

    width: int
    height: int
    coded_width: int
    coded_height: int
    orientation: Orientation
    codec: str
    decoder: str | None
    lacks_times: bool
    pixel_aspect: float
    colour: Colour
    stream_index: int
    max_pixels: int
    field: str
    timeline: Timeline = default(repr=False)
    clock: Clock = default(repr=False)
    warnings: tuple[RunWarning, ...] = ()

    @property
    def num_frames(self) -> int:
        """Number of frames at 25 fps."""
        return int(self.timeline.slot_pts.size)

    @property
    def start_s(self) -> float:
        """Time of the first frame."""
        return self.timeline.start_s

    @property
    def duration_s(self) -> float:
        """Seconds from the first frame to the end of the last one."""
        return self.timeline.duration_s


@dataclass(frozen=True)
class AudioInfo:
    """A sound stream that passed every check.

    Attributes:
        start_s: time of the first audible sample, on the same clock as the file's video.
        duration_s: computed from packets.
        max_duration_s: where decoding stops.
        layout: FFmpeg's name, such as ``5.1``.
        clock: how the timestamps of its packets are made continuous.
        warnings: what is unusual about the file and how it is handled.
    """

    start_s: float
    duration_s: float
    max_duration_s: float
    sample_rate: int
    layout: str
    codec: str
    stream_index: int
    field: str
    clock: Clock = default(repr=False)
    warnings: tuple[RunWarning, ...] = ()

    @property
    def written_layout(self) -> str:
        """Layout of the sound of a result: its own, or stereo if that is too large for an MP4."""
        num_channels = AudioLayout(self.layout).nb_channels
        return self.layout if num_channels <= MOST_WRITTEN_CHANNELS else "stereo"


@dataclass(frozen=True, eq=False)
class Probes:
    """Media of a run that were probed before it starts.

    Attributes:
        video: None if it was not probed.
        recordings: by the names of :attr:`latentsync.schema.run.RunRequest.recordings`.
    """

    video: VideoInfo | None = None
    recordings: Mapping[str, AudioInfo] = default(default_factory=dict)


def probe_video(path: Path, settings: Settings, field: str) -> VideoInfo:
    """Check the video in ``path`` against the limits of ``settings`` and describe it.

    Args:
        path: the media file.
        settings: limits of length, size and frame rate.
        field: request field of the file, for messages.

    Raises:
        EmptyMedia, UnreadableMedia, TruncatedMedia, NoVideo, MediaTooLong, PictureTooLarge,
        PictureTooSmall, TooManyFrames
    """
    picture = recognise_picture(path)
    if picture is not None:
        raise errors.NoVideo(f"{field} is a picture ({picture}), not a video.", field=field)
    if is_animation(path):
        return _probe_animation(path, settings, field)
    with open_media(path, field, settings.max_pixels) as container:
        track = scan_video(container, settings, field)
        timeline = _build_timeline(track, settings, field)
        with unreadable_errors(field):
            return _describe_video(track, timeline, settings, field)


def _probe_animation(path: Path, settings: Settings, field: str) -> VideoInfo:
    """Do the same for an animated WebP, which FFmpeg does not read."""
    with open_animation(path, field) as animation:
        check_picture(animation.width, animation.height, settings, field)
        frames = []
        for frame in animation.frames():
            check_length((frame.pts + frame.duration_ms) / 1000, settings.max_duration_s, field)
            frames.append(frame)
        picture, is_transparent = animation.first_picture()
    timeline = build_timeline(
        np.array([frame.pts for frame in frames]),
        np.array([frame.pts for frame in frames if frame.is_keyframe]),
        frames[-1].duration_ms,
        TIME_BASE,
    )
    check_frame_rate(timeline.fps, settings, field)
    return VideoInfo(
        width=picture.width,
        height=picture.height,
        coded_width=picture.width,
        coded_height=picture.height,
        orientation=Orientation(),
        codec="webp",
        decoder=None,
        lacks_times=False,
        pixel_aspect=1.0,
        colour=read_colour(picture),
        stream_index=0,
        max_pixels=settings.max_pixels,
        field=field,
        timeline=timeline,
        clock=Clock(),
        warnings=(_composited(field),) if is_transparent else (),
    )


def _composited(field: str) -> RunWarning:
    return RunWarning(
        code=WarningCode.ALPHA_COMPOSITED,
        message=f"{field} has transparent pixels; they are shown on black.",
    )


def probe_audio(path: Path, settings: Settings, field: str) -> AudioInfo:
    """Check the sound in ``path`` against the limits of ``settings`` and describe it.

    Raises:
        EmptyMedia, UnreadableMedia, TruncatedMedia, NoAudio, AudioTooShort, MediaTooLong
    """
    picture = recognise_picture(path)
    if picture is not None:
        raise errors.NoAudio(f"{field} is a picture ({picture}) and holds no sound.", field=field)
    if is_animation(path):
        raise errors.NoAudio(f"{field} is an animation (WebP) and holds no sound.", field=field)
    with open_media(path, field, settings.max_pixels) as container:
        for stream in container.streams.audio:
            name_layout(stream)
        track = scan_sound(container, settings, field)
        check_audio_length(track.duration_s, settings, field)
        frame = track.first_frame.frame
        assert isinstance(frame, AudioFrame)
        check_sample_rate(frame.sample_rate, field)
        check_channels(frame.layout.nb_channels, field)
        return AudioInfo(
            start_s=track.start_s,
            duration_s=track.duration_s,
            max_duration_s=settings.max_duration_s,
            sample_rate=frame.sample_rate,
            layout=frame.layout.name,
            codec=track.stream.codec_context.name,
            stream_index=track.stream.index,
            field=field,
            clock=track.clock,
            warnings=(*_warnings(track, field), *_mixed_channels(frame.layout, field)),
        )


def _mixed_channels(layout: AudioLayout, field: str) -> list[RunWarning]:
    if layout.nb_channels <= MOST_WRITTEN_CHANNELS:
        return []
    message = (
        f"{field} has {layout.nb_channels} channels; the sound of the result is mixed to stereo, "
        f"because an MP4 has at most {MOST_WRITTEN_CHANNELS}."
    )
    return [RunWarning(code=WarningCode.CHANNELS_MIXED, message=message)]


def dump_info(info: VideoInfo | AudioInfo) -> dict[str, Any]:
    """Return the result of a probe as plain JSON, to be stored with a job."""
    adapter: TypeAdapter[Any] = _VIDEO_INFO if isinstance(info, VideoInfo) else _AUDIO_INFO
    dumped: dict[str, Any] = adapter.dump_python(info, mode="json")
    return dumped


def load_video_info(dumped: Mapping[str, Any], settings: Settings) -> VideoInfo:
    """Return the stored probe of a video, checked against the limits of ``settings``.

    Raises:
        pydantic.ValidationError: another version stored it.
        MediaTooLong, PictureTooLarge, PictureTooSmall, TooManyFrames
    """
    info = _VIDEO_INFO.validate_python(dumped)
    check_picture(info.width, info.height, settings, info.field)
    # No limit applies to the duration of the last frame, which may be an estimate.
    known_s = info.duration_s - 1 / info.timeline.fps
    check_length(known_s, settings.max_duration_s, info.field)
    check_frame_rate(info.timeline.fps, settings, info.field)
    return replace(info, max_pixels=settings.max_pixels)


def load_audio_info(dumped: Mapping[str, Any], settings: Settings) -> AudioInfo:
    """Return the stored probe of a recording, checked against the limits of ``settings``.

    Raises:
        pydantic.ValidationError: another version stored it.
        AudioTooShort, MediaTooLong
    """
    info = _AUDIO_INFO.validate_python(dumped)
    check_audio_length(info.duration_s, settings, info.field)
    return replace(info, max_duration_s=settings.max_duration_s)


_VIDEO_INFO, _AUDIO_INFO = TypeAdapter(VideoInfo), TypeAdapter(AudioInfo)


def name_layout(stream: AudioStream) -> None:
    """Set the usual channel layout of a stream that has none, or one that cannot be converted."""
    context = stream.codec_context
    if context is not None and context.channels and _NAMELESS.search(stream.layout.name):
        count = stream.layout.nb_channels
        stream.codec_context.layout = _USUAL_LAYOUTS.get(count, f"{count} channels")


def _build_timeline(track: VideoTrack, settings: Settings, field: str) -> Timeline:
    """Map the track's frames to 25 fps, checking its length and rate first."""
    frames = track.frames()
    span = int(frames.stamps[-1] - frames.stamps[0]) + frames.last_duration
    check_length(float(span * track.time_base), settings.max_duration_s, field)
    timeline = build_timeline(
        frames.stamps, frames.keyframe_stamps, frames.last_duration, track.time_base
    )
    check_frame_rate(timeline.fps, settings, field)
    timeline = replace(
        timeline,
        start_s=timeline.start_s - track.late_s,
        keyframe_numbers=frames.keyframe_numbers,
    )
    if track.clock.sections:
        return replace(timeline, keyframe_positions=frames.keyframe_positions)
    return timeline


def _describe_video(
    track: VideoTrack, timeline: Timeline, settings: Settings, field: str
) -> VideoInfo:
    stream, frame = track.stream, track.first_frame.frame
    assert isinstance(frame, VideoFrame)
    aspect = _pixel_aspect(stream)
    coded = _square_pixels(frame.width, frame.height, aspect)
    orientation = read_orientation(frame)
    width, height = orientation.upright_size(*coded)
    check_picture(width, height, settings, field)
    colour = read_colour(frame)
    return VideoInfo(
        width=width,
        height=height,
        coded_width=coded[0],
        coded_height=coded[1],
        orientation=orientation,
        codec=stream.codec_context.name,
        decoder=track.decoder_name,
        lacks_times=track.lacks_times,
        pixel_aspect=float(aspect),
        colour=colour,
        stream_index=stream.index,
        max_pixels=settings.max_pixels,
        field=field,
        timeline=timeline,
        clock=track.clock,
        warnings=(*_warnings(track, field), *_picture_warnings(frame, colour, field)),
    )


def _picture_warnings(frame: VideoFrame, colour: Colour, field: str) -> list[RunWarning]:
    """Return how the pictures of a video are changed."""
    found = []
    if colour.hdr_name is not None:
        message = (
            f"{field} has a high dynamic range ({colour.hdr_name}); it is mapped to BT.709, the "
            "range of ordinary screens."
        )
        found.append(RunWarning(code=WarningCode.TONE_MAPPED, message=message))
    if is_transparent(frame):
        found.append(_composited(field))
    return found


def _warnings(track: Track, field: str) -> tuple[RunWarning, ...]:
    """Return what is unusual about a track: it is one of several, or its clock jumps."""
    found = []
    if track.alternatives:
        others = ", ".join(other.name for other in track.alternatives)
        message = f"{field} has several streams of a kind: {track.name} is used, not {others}."
        found.append(RunWarning(code=WarningCode.STREAM_CHOSEN, message=message))
    if track.clock.sections:
        jumps = len(track.clock.sections) - 1
        times = "once" if jumps == 1 else f"{jumps} times"
        message = f"The timestamps of {field} jump {times}; the parts were joined without a gap."
        found.append(RunWarning(code=WarningCode.CLOCK_MENDED, message=message))
    return tuple(found)


def _pixel_aspect(stream: VideoStream) -> Fraction:
    aspect = stream.sample_aspect_ratio or Fraction(1)
    low, high = _SANE_ASPECT
    return aspect if low <= aspect <= high else Fraction(1)


def _square_pixels(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """Return the size with square pixels; the shorter side of a pixel is stretched."""
    if aspect >= 1:
        return round(width * aspect), height
    return width, round(height / aspect)
