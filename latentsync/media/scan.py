"""Going through a file's packets without decoding them, and decoding the first thing in it.

Headers are never believed: lengths and rates are counted from the packets themselves.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import islice

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from latentsync.errors import NoAudio, NoVideo, TruncatedMedia, UnreadableMedia
from latentsync.media.container import BrokenOff, describe, read_packets
from latentsync.media.limits import check_frame_rate, check_length
from latentsync.media.timeline import Timeline, Timestamps, build_timeline
from latentsync.settings import Settings

_PACKETS_BEFORE_FIRST_FRAME = 250  # give up when so many packets decode to nothing


def _packets(container: InputContainer, stream: Stream, field: str) -> Iterator[Packet[Stream]]:
    """Yield the stream's packets without decoding; a file that breaks off is an error."""
    corrupt = False
    try:
        for packet in read_packets(container, stream):
            if packet.size:
                corrupt = packet.is_corrupt
                yield packet
    except BrokenOff as error:
        raise TruncatedMedia(f"{field} breaks off: {error}.", field=field) from error
    if corrupt:
        raise TruncatedMedia(f"{field} is cut off in the middle of its last packet.", field=field)


def scan_frames(
    container: InputContainer, stream: VideoStream, settings: Settings, field: str
) -> Timeline:
    """Lay the video's frames onto the 25 fps timeline, stopping at the first broken limit.

    Raises:
        NoVideo, MediaTooLong, TooManyFrames, TruncatedMedia
    """
    time_base = stream.time_base or Fraction(1, 1000)
    most_frames = settings.max_duration_s * settings.max_fps
    stamps = _Stamps()
    for packet in _packets(container, stream, field):
        stamps.add(packet)
        check_length(float(stamps.span * time_base), settings.max_duration_s, field)
        if len(stamps.shown) > most_frames:
            break  # far too fast; its rate so far is refused below
    if not stamps.shown:
        raise NoVideo(f"{field} has a video stream without a single frame.", field=field)
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
        """Take note of one packet."""
        stamp = _stamp(packet)
        if stamp is None:
            return
        if packet.is_keyframe:
            self.keyframes.append(stamp)
        if packet.is_discard:  # only there to be decoded: it lies before the start of an edit
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


def scan_sound(
    container: InputContainer, stream: AudioStream, settings: Settings, field: str
) -> float:
    """Return the sound's length in seconds, less what FFmpeg is told to skip at its ends.

    Raises:
        NoAudio, MediaTooLong, TruncatedMedia
    """
    unit_s = float(stream.time_base or 0)
    first_s, end_s, sounding_s = None, 0.0, 0.0
    skipped_samples = 0
    for packet in _packets(container, stream, field):
        length_s, stamp = (packet.duration or 0) * unit_s, _stamp(packet)
        start_s = end_s if stamp is None else stamp * unit_s
        first_s = start_s if first_s is None else first_s
        end_s = max(end_s, start_s + length_s)
        sounding_s += length_s
        skipped_samples += _skipped_samples(packet)
        length_s = max(sounding_s, end_s - first_s) - skipped_samples / max(1, stream.rate)
        check_length(length_s, settings.max_duration_s, field)
    if first_s is None:
        raise NoAudio(f"{field} has a sound stream without any sound.", field=field)
    return max(0.0, length_s)


def _skipped_samples(packet: Packet[Stream]) -> int:
    if not packet.has_sidedata("skip_samples"):
        return 0
    start, end = struct.unpack("<II", bytes(packet.get_sidedata("skip_samples"))[:8])
    return int(start + end)


def first_frame(
    container: InputContainer, stream: VideoStream | AudioStream, field: str
) -> VideoFrame | AudioFrame:
    """Decode until the first frame comes out; broken packets before it are passed over.

    Raises:
        UnreadableMedia: nothing comes out.
    """
    words = "nothing in it can be decoded"
    packets = islice(read_packets(container, stream), _PACKETS_BEFORE_FIRST_FRAME)
    try:
        for packet in packets:
            try:
                for frame in packet.decode():
                    assert isinstance(frame, VideoFrame | AudioFrame)
                    return frame
            except av.FFmpegError as error:
                words = describe(error)
    except BrokenOff as error:
        words = str(error)
    raise UnreadableMedia(f"{field} cannot be decoded: {words}.", field=field)
