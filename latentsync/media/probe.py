"""What a media file holds, found out from its packets, before any heavy work.

Headers are never believed: lengths and rates are counted from the packets themselves, and the
first picture and the first sound are really decoded.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from dataclasses import field as default
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from latentsync.errors import (
    AudioTooShort,
    MediaTooLong,
    NoAudio,
    NoVideo,
    PictureTooLarge,
    PictureTooSmall,
    TooManyFrames,
    TruncatedMedia,
    UnreadableMedia,
)
from latentsync.media.colour import Colour, read_colour
from latentsync.media.container import describe, open_media
from latentsync.media.orientation import Orientation, read_orientation
from latentsync.media.timeline import Timeline, Timestamps, build_timeline
from latentsync.settings import Settings

# What wave files without a channel mask mean, by number of channels.
_USUAL_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}
_SANE_ASPECT = (Fraction(1, 4), Fraction(4))  # pixel shapes outside this are damaged metadata
_PACKETS_BEFORE_FIRST_FRAME = 250  # give up when so many packets decode to nothing


@dataclass(frozen=True, eq=False)
class VideoInfo:
    """A video that passed every check.

    Attributes:
        width, height: size of the upright picture with square pixels.
        coded_width, coded_height: the same before it is turned upright.
        pixel_aspect: width of a source pixel divided by its height.
        colour: meaning of the source's numbers.
        timeline: which source frame each 25 fps slot shows.
    """

    width: int
    height: int
    coded_width: int
    coded_height: int
    orientation: Orientation
    pixel_aspect: Fraction
    codec: str
    colour: Colour
    stream_index: int
    max_pixels: int
    field: str
    timeline: Timeline = default(repr=False)

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
    """A sound stream that passed every check; ``layout`` is FFmpeg's name, such as ``5.1``."""

    duration_s: float
    sample_rate: int
    num_channels: int
    layout: str
    codec: str
    stream_index: int
    field: str


def probe_video(path: Path, settings: Settings, field: str) -> VideoInfo:
    """Check the video in ``path`` against the limits of ``settings`` and describe it.

    Args:
        path: the media file.
        settings: limits of length, size and frame rate.
        field: request field that brought the file, for messages.

    Raises:
        EmptyMedia, UnreadableMedia, TruncatedMedia, NoVideo, MediaTooLong, PictureTooLarge,
        PictureTooSmall, TooManyFrames
    """
    with open_media(path, field, settings.max_pixels) as container:
        stream = _video_stream(container, field)
        _check_picture(stream.width, stream.height, settings, field)
        timeline = _scan_frames(container, stream, settings, field)
    with open_media(path, field, settings.max_pixels) as container:
        return _describe_video(container, timeline, settings, field)


def probe_audio(path: Path, settings: Settings, field: str) -> AudioInfo:
    """Check the sound in ``path`` against the limits of ``settings`` and describe it.

    Raises:
        EmptyMedia, UnreadableMedia, TruncatedMedia, NoAudio, AudioTooShort, MediaTooLong
    """
    with open_media(path, field, settings.max_pixels) as container:
        stream = _audio_stream(container, field)
        duration_s = _scan_sound(container, stream, settings, field)
    check_audio_length(duration_s, settings, field)
    with open_media(path, field, settings.max_pixels) as container:
        stream = _audio_stream(container, field)
        name_layout(stream)
        frame = _first_frame(container, stream, field)
        assert isinstance(frame, av.AudioFrame)
        return AudioInfo(
            duration_s=duration_s,
            sample_rate=frame.sample_rate,
            num_channels=frame.layout.nb_channels,
            layout=frame.layout.name,
            codec=stream.codec_context.name,
            stream_index=stream.index,
            field=field,
        )


def check_audio_length(duration_s: float, settings: Settings, field: str) -> None:
    """Raise AudioTooShort or MediaTooLong if the sound's length is outside the limits."""
    if duration_s < settings.min_audio_s:
        raise AudioTooShort(
            f"{field} lasts {duration_s * 1000:.0f} ms; at least "
            f"{settings.min_audio_s * 1000:.0f} ms of sound are needed.",
            field=field,
        )
    _check_length(duration_s, settings, field)


def name_layout(stream: AudioStream) -> None:
    """Name the channels of a stream that only says how many it has, before it is decoded."""
    if stream.layout.name.endswith(" channels"):
        usual = _USUAL_LAYOUTS.get(stream.layout.nb_channels)
        if usual is not None:
            stream.codec_context.layout = usual


def _video_stream(container: InputContainer, field: str) -> VideoStream:
    """Pick the first stream of moving pictures; cover art does not count."""
    if container.format.name.endswith("_pipe"):
        kind = container.format.name.removesuffix("_pipe")
        raise NoVideo(f"{field} is a still picture ({kind}), not a video.", field=field)
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            _require_decoder(stream, field)
            return stream
    raise NoVideo(f"{field} holds no video stream.", field=field)


def _audio_stream(container: InputContainer, field: str) -> AudioStream:
    if not container.streams.audio:
        raise NoAudio(f"{field} holds no sound.", field=field)
    stream = container.streams.audio[0]
    _require_decoder(stream, field)
    return stream


def _require_decoder(stream: Stream, field: str) -> None:
    if stream.codec_context is None:
        raise UnreadableMedia(
            f"{field} holds a {stream.type} stream in a format without a decoder.", field=field
        )


def _check_picture(width: int, height: int, settings: Settings, field: str) -> None:
    if not width or not height:  # a decoder that meets a larger picture gives no size at all
        raise PictureTooLarge(
            f"{field} has pictures of no stated size, or beyond the "
            f"{settings.max_pixels} pixels allowed.",
            field=field,
        )
    if width * height > settings.max_pixels:
        raise PictureTooLarge(
            f"{field} has pictures of {width}x{height} pixels "
            f"(allowed: {settings.max_pixels} pixels in all).",
            field=field,
        )
    if min(width, height) < settings.min_side:
        raise PictureTooSmall(
            f"{field} has pictures of {width}x{height} pixels "
            f"(allowed: {settings.min_side} or more on each side).",
            field=field,
        )


def _check_length(duration_s: float, settings: Settings, field: str) -> None:
    if duration_s > settings.max_duration_s:
        raise MediaTooLong(
            f"{field} lasts longer than {settings.max_duration_s:g} s, the longest allowed.",
            field=field,
        )


def _packets(container: InputContainer, stream: Stream, field: str) -> Iterator[Packet[Stream]]:
    """Yield the stream's packets without decoding; a file that breaks off is an error."""
    corrupt = False
    try:
        for packet in container.demux(stream):
            if packet.size:
                corrupt = packet.is_corrupt
                yield packet
    except av.FFmpegError as error:
        raise TruncatedMedia(f"{field} breaks off: {describe(error)}.", field=field) from error
    if corrupt:
        raise TruncatedMedia(f"{field} is cut off in the middle of its last packet.", field=field)


def _scan_frames(
    container: InputContainer, stream: VideoStream, settings: Settings, field: str
) -> Timeline:
    """Collect every frame's timestamp, stopping at the first that breaks a limit."""
    time_base = stream.time_base or Fraction(1, 1000)
    longest = settings.max_duration_s / time_base
    most = settings.max_duration_s * settings.max_fps
    shown: list[int] = []
    keyframes: list[int] = []
    last, last_duration, first = -(2**63), 0, None
    for packet in _packets(container, stream, field):
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is None:
            continue
        if packet.is_keyframe:
            keyframes.append(stamp)
        if packet.is_discard:
            continue
        first = stamp if first is None else min(first, stamp)
        shown.append(stamp)
        if stamp >= last:
            last, last_duration = stamp, packet.duration or 0
        if last + last_duration - first > longest:
            _check_length(float((last + last_duration - first) * time_base), settings, field)
        if len(shown) > most:
            raise _too_many_frames(settings, field)
    if not shown:
        raise NoVideo(f"{field} has a video stream without a single frame.", field=field)
    timeline = build_timeline(_rising(shown), _rising(keyframes), last_duration, time_base)
    if timeline.fps > settings.max_fps * 1.01:  # room for rounded timestamps
        raise _too_many_frames(settings, field, timeline.fps)
    return timeline


def _rising(stamps: Iterable[int]) -> Timestamps:
    return np.unique(np.fromiter(stamps, np.int64))


def _too_many_frames(settings: Settings, field: str, fps: float | None = None) -> TooManyFrames:
    rate = "too many frames" if fps is None else f"{fps:.0f} frames per second"
    return TooManyFrames(
        f"{field} has {rate} (allowed: {settings.max_fps:g} per second).", field=field
    )


def _scan_sound(
    container: InputContainer, stream: AudioStream, settings: Settings, field: str
) -> float:
    """Return the sound's length in seconds, less what FFmpeg is told to skip at its ends."""
    unit_s = float(stream.time_base or 0)
    sounding_s, first_s, end_s = 0.0, None, 0.0
    skipped_samples = 0
    for packet in _packets(container, stream, field):
        length_s = (packet.duration or 0) * unit_s
        stamp = packet.pts if packet.pts is not None else packet.dts
        start_s = end_s if stamp is None else stamp * unit_s
        first_s = start_s if first_s is None else first_s
        end_s = max(end_s, start_s + length_s)
        sounding_s += length_s
        skipped_samples += _skipped_samples(packet)
        _check_length(max(sounding_s, end_s - first_s) - 1.0, settings, field)
    if first_s is None:
        raise NoAudio(f"{field} has a sound stream without any sound.", field=field)
    return max(0.0, sounding_s - skipped_samples / max(1, stream.rate))


def _skipped_samples(packet: Packet[Stream]) -> int:
    if not packet.has_sidedata("skip_samples"):
        return 0
    start, end = struct.unpack("<II", bytes(packet.get_sidedata("skip_samples"))[:8])
    return int(start + end)


def _describe_video(
    container: InputContainer, timeline: Timeline, settings: Settings, field: str
) -> VideoInfo:
    stream = _video_stream(container, field)
    frame = _first_frame(container, stream, field)
    assert isinstance(frame, VideoFrame)
    aspect = _pixel_aspect(stream)
    coded = _square_pixels(frame.width, frame.height, aspect)
    orientation = read_orientation(frame)
    width, height = orientation.upright_size(*coded)
    _check_picture(width, height, settings, field)
    return VideoInfo(
        width=width,
        height=height,
        coded_width=coded[0],
        coded_height=coded[1],
        orientation=orientation,
        pixel_aspect=aspect,
        codec=stream.codec_context.name,
        colour=read_colour(frame),
        stream_index=stream.index,
        max_pixels=settings.max_pixels,
        field=field,
        timeline=timeline,
    )


def _first_frame(
    container: InputContainer, stream: VideoStream | AudioStream, field: str
) -> VideoFrame | av.AudioFrame:
    """Decode until the first frame comes out; broken packets before it are passed over."""
    words = "nothing in it can be decoded"
    for count, packet in enumerate(container.demux(stream)):
        try:
            for frame in packet.decode():
                assert isinstance(frame, VideoFrame | av.AudioFrame)
                return frame
        except av.FFmpegError as error:
            words = describe(error)
        if count >= _PACKETS_BEFORE_FIRST_FRAME:
            break
    raise UnreadableMedia(f"{field} cannot be decoded: {words}.", field=field)


def _pixel_aspect(stream: VideoStream) -> Fraction:
    aspect = stream.sample_aspect_ratio or Fraction(1)
    low, high = _SANE_ASPECT
    return aspect if low <= aspect <= high else Fraction(1)


def _square_pixels(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """Stretch the shorter side of a pixel, so that no detail is lost."""
    if aspect >= 1:
        return round(width * aspect), height
    return width, round(height / aspect)
