"""Reads a video as 25 fps RGB frames, in any order with bounded memory.

Forwards, frames are decoded one after the other. Backwards, a group of pictures is decoded from
its keyframe, and its decoded frames are kept within a byte limit (as YUV, which takes half the
memory of RGB for 8-bit 4:2:0); frames beyond the limit are decoded again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import chain, islice
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from latentsync.errors import UnreadableMedia
from latentsync.formats import Frame
from latentsync.media.animation import is_animation, open_animation
from latentsync.media.colour import ToRgb
from latentsync.media.container import BrokenOff, open_media, read_packets, unreadable_errors
from latentsync.media.decoding import ONE_TIME_PER_FRAME, Decoder, stamp_by_decoding
from latentsync.media.probe import VideoInfo

_HELD_BYTES = 64 * 1024 * 1024  # decoded frames kept for reading backwards
_SKIP_S = 1.0  # longer jumps ahead seek a keyframe instead of decoding


class VideoReader:
    """The frames of a probed video at a constant 25 fps, upright, square pixels.

    Args:
        path: the file that was probed.
        info: what :func:`~latentsync.media.probe.probe_video` found.

    Attributes:
        has_deinterlaced: whether some of the frames read so far were interlaced.
    """

    def __init__(self, path: Path, info: VideoInfo) -> None:
        self._path = path
        self._info = info
        self._other_sizes: set[tuple[int, int]] = set()
        self.has_deinterlaced = False

    @property
    def other_sizes(self) -> list[tuple[int, int]]:
        """Stored sizes, other than the first frame's, of the frames read so far."""
        return sorted(self._other_sizes)

    @property
    def num_frames(self) -> int:
        """Number of frames at 25 fps."""
        return self._info.num_frames

    @property
    def width(self) -> int:
        """Width in pixels of every frame."""
        return self._info.width

    @property
    def height(self) -> int:
        """Height in pixels of every frame."""
        return self._info.height

    def read(self, indices: Iterable[int]) -> Iterator[Frame]:
        """Yield the frames with these numbers, in this order, each a new H,W,3 uint8 RGB array.

        A damaged frame is replaced by the one before it, as in players.

        Raises:
            IndexError: a number outside 0..num_frames-1.
            UnreadableMedia: nothing could be decoded where frames should be.
        """
        info = self._info
        # Of this reading alone: several threads may read at once.
        to_rgb = ToRgb(info.coded_width, info.coded_height, info.colour, info.pixel_aspect)
        open_cursor = _AnimationCursor if is_animation(self._path) else _Cursor
        with open_cursor(self._path, info) as cursor:
            for index in indices:
                if not 0 <= index < self.num_frames:
                    raise IndexError(f"frame {index} of a video of {self.num_frames} frames")
                frame = cursor.frame_at(int(info.timeline.slot_pts[index]))
                self.has_deinterlaced |= cursor.has_deinterlaced
                with unreadable_errors(info.field):
                    rgb = to_rgb(frame)
                self._other_sizes.update(to_rgb.other_sizes)
                yield info.orientation.apply(rgb)


class _Cursor:
    """A position in a video that can be moved to any timestamp; a context manager."""

    def __init__(self, path: Path, info: VideoInfo) -> None:
        self._path = path
        self._info = info
        self._opened = ExitStack()
        self._held: deque[VideoFrame] = deque()
        self._held_until = 0
        self.has_deinterlaced = False

    def __enter__(self) -> _Cursor:
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def _open(self) -> None:
        """Open the file at its first frame."""
        self._opened.close()
        self._container: InputContainer = self._opened.enter_context(
            open_media(self._path, self._info.field, self._info.max_pixels)
        )
        stream = self._container.streams[self._info.stream_index]
        assert isinstance(stream, VideoStream)
        self._stream = stream
        self._stream.thread_type = "AUTO"
        self._frames = self._decode(self._packets())
        self._shown: VideoFrame | None = None  # newest decoded frame not after the requested one
        self._ahead: VideoFrame | None = None  # the frame after it, if already decoded

    def frame_at(self, pts: int) -> VideoFrame:
        """Return the newest frame whose timestamp is not after ``pts``."""
        held = self._held_at(pts)
        if held is not None:
            return held
        self._held.clear()
        if self._shown is None:
            self._advance(int(self._info.timeline.slot_pts[0]))
        assert self._shown is not None
        if pts < _stamp(self._shown):
            return self._rewind(pts)
        if pts - _stamp(self._shown) > _SKIP_S / self._info.timeline.time_base:
            self._skip(pts)
        return self._advance(pts)

    def _held_at(self, pts: int) -> VideoFrame | None:
        if not self._held or pts > self._held_until:
            return None
        while self._held and _stamp(self._held[-1]) > pts:
            self._held.pop()
        self._held_until = pts
        return self._held[-1] if self._held else None

    def _advance(self, pts: int) -> VideoFrame:
        """Decode forwards until ``pts``."""
        while self._shown is None or _stamp(self._shown) < pts:
            frame = self._next()
            if frame is None:
                break
            if self._shown is not None and _stamp(frame) > pts:
                self._ahead = frame
                break
            self._shown = frame
        if self._shown is None:
            raise UnreadableMedia(
                f"{self._info.field} cannot be decoded beyond its first frames.",
                field=self._info.field,
            )
        return self._shown

    def _rewind(self, pts: int) -> VideoFrame:
        """Decode from the keyframe before ``pts`` and hold the newest frames."""
        self._seek(pts)
        held_bytes = 0
        while self._shown is None or _stamp(self._shown) < pts:
            frame = self._next()
            if frame is None or (self._held and _stamp(frame) > pts):
                self._ahead = frame
                break
            self._shown = frame
            self._held.append(frame)
            held_bytes += _size_bytes(frame)
            while held_bytes > _HELD_BYTES and len(self._held) > 1:
                held_bytes -= _size_bytes(self._held.popleft())
        self._held_until = pts
        return self._advance(pts)

    def _skip(self, pts: int) -> None:
        """Jump ahead to the last keyframe before ``pts`` if that saves decoding."""
        assert self._shown is not None
        keyframe = self._keyframe_before(pts)
        if keyframe is not None and keyframe > _stamp(self._shown):
            self._seek(pts)

    def _keyframe_before(self, pts: int) -> int | None:
        keyframes = self._info.timeline.keyframe_pts
        position = int(np.searchsorted(keyframes, pts, side="right")) - 1
        return int(keyframes[position]) if position >= 0 else None

    def _earlier_keyframe(self, pts: int, count: int) -> int:
        """Return the keyframe ``count`` before the one at ``pts``, or the first."""
        keyframes = self._info.timeline.keyframe_pts
        return int(keyframes[max(0, int(np.searchsorted(keyframes, pts)) - count)])

    def _seek(self, pts: int) -> None:
        """Seek so that the next frame is not after ``pts``."""
        target = self._keyframe_before(pts)
        if target is not None and self._info.lacks_times:
            # The first frames lack those that they depend on; times are right again from the
            # second keyframe on.
            target = self._earlier_keyframe(target, 2)
        while target is not None:
            if self._seek_to(target) and self._is_on_keyframe(pts):
                return
            target = self._keyframe_before(target - 1)
        self._open()  # no seek succeeded: decode from the beginning

    def _is_on_keyframe(self, pts: int) -> bool:
        """Return whether a seek was correct: some containers renumber frames after one."""
        if self._ahead is None or _stamp(self._ahead) > pts:
            return False
        return self._keyframe_before(_stamp(self._ahead)) == _stamp(self._ahead)

    def _seek_to(self, pts: int) -> bool:
        """Seek the keyframe with this timestamp; returns False if the container cannot."""
        if self._info.clock.sections:
            return self._seek_to_packet(pts)
        if self._info.lacks_times and self._container.format.name not in ONE_TIME_PER_FRAME:
            self._read_to(pts)  # after a seek nothing would tell which frame was found
            return True
        try:
            self._container.seek(pts, stream=self._stream, backward=True)
        except av.FFmpegError:
            return False
        self._restart(self._packets())
        return True

    def _seek_to_packet(self, pts: int) -> bool:
        """Seek a keyframe in a file whose clock jumps.

        Containers seek by bytes or by their own timestamps. Which packet was found shows its
        position in the file.
        """
        timeline, clock = self._info.timeline, self._info.clock
        keyframe = int(np.searchsorted(timeline.keyframe_pts, pts))
        number = int(timeline.keyframe_numbers[keyframe])
        position = int(timeline.keyframe_positions[keyframe])
        if position < 0:
            return False
        for seek in (
            partial(self._container.seek, position, unsupported_byte_offset=True),
            partial(self._container.seek, clock.unmend(number, pts), stream=self._stream),
        ):
            try:
                seek()
                packets = self._read_on()
                first = next(packets)
            except (av.FFmpegError, BrokenOff, StopIteration):
                continue
            if first.pos == position:
                self._restart(clock.mend(chain([first], packets), number))
                return True
        return False

    def _read_to(self, pts: int) -> None:
        """Read from the beginning of the file to the keyframe before ``pts``, without decoding."""
        self._open()
        keyframes = self._info.timeline.keyframe_pts
        keyframe = int(np.searchsorted(keyframes, pts, side="right")) - 1
        if keyframe >= 0:
            number = int(self._info.timeline.keyframe_numbers[keyframe])
            self._restart(islice(self._packets(), number, None))

    def _restart(self, packets: Iterator[Packet[VideoStream]]) -> None:
        self._frames = self._decode(packets)
        self._shown = None
        self._ahead = next(self._frames, None)

    def _next(self) -> VideoFrame | None:
        if self._ahead is not None:
            frame, self._ahead = self._ahead, None
            return frame
        return next(self._frames, None)

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        """Return the packets from here on; here is the first one, or the clock does not jump."""
        return self._info.clock.mend(self._read_on())

    def _read_on(self) -> Iterator[Packet[VideoStream]]:
        """Return the packets from here on, with the timestamps of the file."""
        packets = read_packets(self._container, self._stream)
        return stamp_by_decoding(packets) if self._info.lacks_times else packets

    def _decode(self, packets: Iterator[Packet[VideoStream]]) -> Iterator[VideoFrame]:
        info = self._info
        decoder = Decoder(info.decoder, info.max_pixels, lacks_times=info.lacks_times)
        try:
            for packet in packets:
                frames = _decode_packet(decoder, packet)
                self.has_deinterlaced |= decoder.has_deinterlaced
                yield from frames
        except BrokenOff:
            # The probe has read all packets, so this only happens after a wrong seek, which
            # _is_on_keyframe detects.
            return


class _AnimationCursor(_Cursor):
    """A position in an animated WebP, which FFmpeg does not read."""

    def _open(self) -> None:
        self._opened.close()
        self._animation = self._opened.enter_context(open_animation(self._path, self._info.field))
        self._frames = self._animation.decode()
        self._shown = self._ahead = None

    def _seek_to(self, pts: int) -> bool:
        self._frames = self._animation.decode(pts)
        self._shown, self._ahead = None, next(self._frames, None)
        return True


def _decode_packet(decoder: Decoder, packet: Packet[VideoStream]) -> list[VideoFrame]:
    try:
        frames = decoder.decode(packet)
    except av.FFmpegError:
        return []  # a damaged frame is replaced by the one before it
    return [frame for frame in frames if frame.pts is not None or frame.dts is not None]


def _stamp(frame: VideoFrame) -> int:
    stamp = frame.pts if frame.pts is not None else frame.dts
    assert stamp is not None
    return stamp


def _size_bytes(frame: VideoFrame) -> int:
    return sum(plane.buffer_size for plane in frame.planes)
