"""Probing media in one pass over their packets, before any expensive work.

Headers are not trusted: lengths and rates are measured from the packets. Only the first frame is
decoded. The result can be stored with a job, so that the worker does not scan the file again.
"""

from __future__ import annotations  # the generics of av exist for type checkers only

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from dataclasses import field as default
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from pydantic import TypeAdapter

from latentsync import errors
from latentsync.formats import ROUNDING
from latentsync.media.colour import Colour, Orientation, read_colour, read_orientation
from latentsync.media.container import BrokenOff, describe, open_media, read_packets
from latentsync.media.timeline import Timeline, Timestamps, build_timeline
from latentsync.schema.responses import RunWarning
from latentsync.settings import Settings

_SAMPLE_RATES = (1_000, 768_000)  # Hz; rates outside this are damaged headers
_ROUNDED_RATE = 1.01  # a rate measured on rounded timestamps may be this much too high
_PACKETS_BEFORE_FIRST_FRAME = 250  # give up when so many packets decode to nothing


# Limits of media, each with its own error.


def check_audio_length(duration_s: float, settings: Settings, field: str) -> None:
    """Raise AudioTooShort or MediaTooLong if the sound's length is outside the limits."""
    if duration_s < settings.min_audio_s - ROUNDING:
        raise errors.AudioTooShort(
            f"{field} lasts {duration_s * 1000:.0f} ms; at least "
            f"{settings.min_audio_s * 1000:.0f} ms of sound are needed.",
            field=field,
        )
    check_length(duration_s, settings.max_duration_s, field)


def check_length(duration_s: float, max_duration_s: float, field: str) -> None:
    """Raise MediaTooLong if a video or recording lasts longer than allowed."""
    if duration_s > max_duration_s + ROUNDING:
        raise errors.MediaTooLong(
            f"{field} lasts longer than {max_duration_s:g} s, the longest allowed.",
            field=field,
        )


def check_sample_rate(sample_rate: int, field: str) -> None:
    """Raise UnreadableMedia if a sample rate (Hz) is implausible."""
    low, high = _SAMPLE_RATES
    if not low <= sample_rate <= high:
        raise errors.UnreadableMedia(
            f"{field} claims {sample_rate} samples per second (allowed: {low} to {high}).",
            field=field,
        )


def check_picture(width: int, height: int, settings: Settings, field: str) -> None:
    """Raise PictureTooLarge or PictureTooSmall if a size in pixels is outside the limits."""
    if not width or not height:  # decoders return no size for pictures beyond their limit
        raise errors.PictureTooLarge(
            f"{field} has pictures of no stated size, or beyond the "
            f"{settings.max_pixels} pixels allowed.",
            field=field,
        )
    if width * height > settings.max_pixels:
        raise errors.PictureTooLarge(
            f"{field} has pictures of {width}x{height} pixels "
            f"(allowed: {settings.max_pixels} pixels in all).",
            field=field,
        )
    if min(width, height) < settings.min_side:
        raise errors.PictureTooSmall(
            f"{field} has pictures of {width}x{height} pixels "
            f"(allowed: {settings.min_side} or more on each side).",
            field=field,
        )


def check_frame_rate(fps: float, settings: Settings, field: str) -> None:
    """Raise TooManyFrames if there are more frames per second than allowed."""
    if fps > settings.max_fps * _ROUNDED_RATE:
        raise errors.TooManyFrames(
            f"{field} has {fps:.0f} frames per second (allowed: {settings.max_fps:g}).",
            field=field,
        )


class _FirstFrame:
    """Decodes packets until the first frame, skipping damaged ones."""

    def __init__(self) -> None:
        self._frame: VideoFrame | AudioFrame | None = None
        self._reason = "nothing in it can be decoded"
        self._packets_left = _PACKETS_BEFORE_FIRST_FRAME

    def feed(self, packet: Packet[Stream]) -> None:
        if self._frame is not None or not self._packets_left:
            return
        self._packets_left -= 1
        try:
            for frame in packet.decode():
                assert isinstance(frame, VideoFrame | AudioFrame)
                self._frame = frame
                return
        except av.FFmpegError as error:
            self._reason = describe(error)

    def require(self, field: str) -> VideoFrame | AudioFrame:
        """Return the frame; raises UnreadableMedia if none came out."""
        if self._frame is None:
            raise errors.UnreadableMedia(f"{field} cannot be decoded: {self._reason}.", field=field)
        return self._frame


def _packets(
    container: InputContainer, stream: Stream, first_frame: _FirstFrame, field: str
) -> Iterator[Packet[Stream]]:
    """Yield the stream's packets; a file that breaks off is an error."""
    corrupt = False
    try:
        for packet in read_packets(container, stream):
            first_frame.feed(packet)
            if packet.size:
                corrupt = packet.is_corrupt
                yield packet
    except BrokenOff as error:
        raise errors.TruncatedMedia(f"{field} breaks off: {error}.", field=field) from error
    if corrupt:
        raise errors.TruncatedMedia(
            f"{field} is cut off in the middle of its last packet.", field=field
        )


def _scan_frames(
    container: InputContainer,
    stream: VideoStream,
    first_frame: _FirstFrame,
    settings: Settings,
    field: str,
) -> Timeline:
    """Build the 25 fps timeline, stopping at the first limit that is exceeded.

    Raises:
        NoVideo, MediaTooLong, TooManyFrames, TruncatedMedia
    """
    time_base = stream.time_base or Fraction(1, 1000)
    most_frames = settings.max_duration_s * settings.max_fps
    stamps = _Stamps()
    for packet in _packets(container, stream, first_frame, field):
        stamps.add(packet)
        check_length(float(stamps.span * time_base), settings.max_duration_s, field)
        if len(stamps.shown) > most_frames:
            break  # the rate is refused below
    if not stamps.shown:
        raise errors.NoVideo(f"{field} has a video stream without a single frame.", field=field)
    timeline = build_timeline(
        _rising(stamps.shown), _rising(stamps.keyframes), stamps.last_duration, time_base
    )
    check_frame_rate(timeline.fps, settings, field)
    return timeline


class _Stamps:
    """The timestamps of a video's packets, in units of its time base."""

    def __init__(self) -> None:
        self.shown: list[int] = []
        self.keyframes: list[int] = []
        self.last_duration = 0
        self._first = self._last = 0

    def add(self, packet: Packet[Stream]) -> None:
        """Record the timestamps of a packet."""
        stamp = _stamp(packet)
        if stamp is None:
            return
        if packet.is_keyframe:
            self.keyframes.append(stamp)
        if packet.is_discard:  # decoded only as a reference, before the start of an edit list
            return
        if not self.shown:
            self._first = self._last = stamp
        self.shown.append(stamp)
        self._first = min(self._first, stamp)
        if stamp >= self._last:
            self._last, self.last_duration = stamp, packet.duration or 0

    @property
    def span(self) -> int:
        """From the first frame to the end of the last."""
        return self._last + self.last_duration - self._first


def _stamp(packet: Packet[Stream]) -> int | None:
    return packet.pts if packet.pts is not None else packet.dts


def _rising(stamps: Iterable[int]) -> Timestamps:
    return np.unique(np.fromiter(stamps, np.int64))


def _scan_sound(
    container: InputContainer,
    stream: AudioStream,
    first_frame: _FirstFrame,
    settings: Settings,
    field: str,
) -> float:
    """Return the sound's length in seconds, without the samples marked to be skipped at its ends.

    Raises:
        NoAudio, MediaTooLong, TruncatedMedia
    """
    unit_s = float(stream.time_base or 0)
    sample_rate = max(1, stream.rate)  # as declared: decoding may change it (HE-AAC)
    first_s, end_s, sounding_s = None, 0.0, 0.0
    skipped_samples = 0
    for packet in _packets(container, stream, first_frame, field):
        length_s, stamp = (packet.duration or 0) * unit_s, _stamp(packet)
        start_s = end_s if stamp is None else stamp * unit_s
        first_s = start_s if first_s is None else first_s
        end_s = max(end_s, start_s + length_s)
        sounding_s += length_s
        skipped_samples += _skipped_samples(packet)
        length_s = max(sounding_s, end_s - first_s) - skipped_samples / sample_rate
        check_length(length_s, settings.max_duration_s, field)
    if first_s is None:
        raise errors.NoAudio(f"{field} has a sound stream without any sound.", field=field)
    return max(0.0, length_s)


def _skipped_samples(packet: Packet[Stream]) -> int:
    if not packet.has_sidedata("skip_samples"):
        return 0
    start, end = struct.unpack("<II", bytes(packet.get_sidedata("skip_samples"))[:8])
    return int(start + end)


# Usual layouts of wave files without a channel mask, by number of channels.
_USUAL_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}
_SANE_ASPECT = (Fraction(1, 4), Fraction(4))  # pixel shapes outside this are damaged metadata


@dataclass(frozen=True, eq=False)
class VideoInfo:
    """A video that passed every check.

    Attributes:
        width, height: size of the upright picture with square pixels.
        coded_width, coded_height: the same before rotation.
        colour: colour metadata of the source.
        timeline: the source frame of each 25 fps slot.
        warnings: what is unusual about the file and how it is handled.
    """

    width: int
    height: int
    coded_width: int
    coded_height: int
    orientation: Orientation
    codec: str
    colour: Colour
    stream_index: int
    max_pixels: int
    field: str
    timeline: Timeline = default(repr=False)
    warnings: tuple[RunWarning, ...] = ()

    @property
    def num_frames(self) -> int:
        """Number of frames at 25 fps."""
        return int(self.timeline.slot_pts.size)

    @property
    def duration_s(self) -> float:
        """Seconds from the first frame to the end of the last one."""
        return self.timeline.duration_s


@dataclass(frozen=True)
class AudioInfo:
    """A sound stream that passed every check; ``layout`` is FFmpeg's name, such as ``5.1``.

    ``duration_s`` is computed from packets; decoding stops at ``max_duration_s``. ``warnings`` say
    what is unusual about the file and how it is handled.
    """

    duration_s: float
    max_duration_s: float
    sample_rate: int
    layout: str
    codec: str
    stream_index: int
    field: str
    warnings: tuple[RunWarning, ...] = ()


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
    with open_media(path, field, settings.max_pixels) as container:
        stream = _video_stream(container, field)
        check_picture(stream.width, stream.height, settings, field)
        first_frame = _FirstFrame()
        timeline = _scan_frames(container, stream, first_frame, settings, field)
        frame = first_frame.require(field)
        assert isinstance(frame, VideoFrame)
        return _describe_video(stream, frame, timeline, settings, field)


def probe_audio(path: Path, settings: Settings, field: str) -> AudioInfo:
    """Check the sound in ``path`` against the limits of ``settings`` and describe it.

    Raises:
        EmptyMedia, UnreadableMedia, TruncatedMedia, NoAudio, AudioTooShort, MediaTooLong
    """
    with open_media(path, field, settings.max_pixels) as container:
        stream = _audio_stream(container, field)
        name_layout(stream)
        first_frame = _FirstFrame()
        duration_s = _scan_sound(container, stream, first_frame, settings, field)
        check_audio_length(duration_s, settings, field)
        frame = first_frame.require(field)
        assert isinstance(frame, AudioFrame)
        check_sample_rate(frame.sample_rate, field)
        return AudioInfo(
            duration_s=duration_s,
            max_duration_s=settings.max_duration_s,
            sample_rate=frame.sample_rate,
            layout=frame.layout.name,
            codec=stream.codec_context.name,
            stream_index=stream.index,
            field=field,
        )


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
    """Set the usual channel layout of a stream that only has a number of channels."""
    if stream.layout.name.endswith(" channels"):
        usual = _USUAL_LAYOUTS.get(stream.layout.nb_channels)
        if usual is not None:
            stream.codec_context.layout = usual


def _video_stream(container: InputContainer, field: str) -> VideoStream:
    """Return the first video stream that is not cover art."""
    if container.format.name.endswith("_pipe"):
        kind = container.format.name.removesuffix("_pipe")
        raise errors.NoVideo(f"{field} is a still picture ({kind}), not a video.", field=field)
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            _require_decoder(stream, field)
            return stream
    raise errors.NoVideo(f"{field} holds no video stream.", field=field)


def _audio_stream(container: InputContainer, field: str) -> AudioStream:
    if not container.streams.audio:
        raise errors.NoAudio(f"{field} holds no sound.", field=field)
    stream = container.streams.audio[0]
    _require_decoder(stream, field)
    return stream


def _require_decoder(stream: Stream, field: str) -> None:
    if stream.codec_context is None:
        raise errors.UnreadableMedia(
            f"{field} holds a {stream.type} stream in a format without a decoder.", field=field
        )


def _describe_video(
    stream: VideoStream, frame: VideoFrame, timeline: Timeline, settings: Settings, field: str
) -> VideoInfo:
    aspect = _pixel_aspect(stream)
    coded = _square_pixels(frame.width, frame.height, aspect)
    orientation = read_orientation(frame)
    width, height = orientation.upright_size(*coded)
    check_picture(width, height, settings, field)
    return VideoInfo(
        width=width,
        height=height,
        coded_width=coded[0],
        coded_height=coded[1],
        orientation=orientation,
        codec=stream.codec_context.name,
        colour=read_colour(frame),
        stream_index=stream.index,
        max_pixels=settings.max_pixels,
        field=field,
        timeline=timeline,
    )


def _pixel_aspect(stream: VideoStream) -> Fraction:
    aspect = stream.sample_aspect_ratio or Fraction(1)
    low, high = _SANE_ASPECT
    return aspect if low <= aspect <= high else Fraction(1)


def _square_pixels(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """Return the size with square pixels; the shorter side of a pixel is stretched."""
    if aspect >= 1:
        return round(width * aspect), height
    return width, round(height / aspect)
