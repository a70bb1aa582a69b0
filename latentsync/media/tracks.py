"""What the streams of a file hold, as their packets show it.

Headers are not trusted: lengths and rates are measured from the packets. Of a stream only the first
frame is decoded, which also shows that it can be.
"""

from __future__ import annotations  # the generics of av exist for type checkers only

import struct
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from operator import methodcaller
from typing import Any, TypeVar

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.frame import Frame
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from latentsync.media.clock import (
    LONGEST_GAP_S,
    Clock,
    Stretch,
    Stretches,
    VideoStretches,
    extend,
    is_long_gap,
)
from latentsync.media.container import describe
from latentsync.media.decoding import (
    ONE_TIME_PER_FRAME,
    Decoder,
    DecodingTimes,
    choose_decoder,
    lacks_times,
)

EMPTY = "is empty"
MOST_JUMPS = 1_000
_PACKETS_BEFORE_FIRST_FRAME = 250  # give up when so many packets decode to nothing
_DAMAGED = "invalid data found when processing input"  # FFmpeg's words
_HALF, _FEW = 0.5, 0.1  # shares of packets without a timestamp
_OVERLAP_S = 0.1  # if packets of sound overlap by more, the clock starts anew


class FirstFrame:
    """Decodes packets until the first frame, skipping damaged ones."""

    def __init__(self, decode: Callable[[Packet[Any]], Iterable[Frame]]) -> None:
        self._decode = decode
        self.frame: VideoFrame | AudioFrame | None = None
        self.reason = "nothing in it can be decoded"
        self._packets_left = _PACKETS_BEFORE_FIRST_FRAME

    def feed(self, packet: Packet[Stream]) -> None:
        """Decode a packet, unless a frame is there already."""
        if self.frame is not None or not self._packets_left:
            return
        self._packets_left -= 1
        try:
            for frame in self._decode(packet):
                assert isinstance(frame, VideoFrame | AudioFrame)
                self.frame = frame
                return
        except av.FFmpegError as error:
            self.reason = describe(error)


def name_stream(stream: Stream) -> str:
    """Return number and format of a stream, for messages."""
    context = stream.codec_context
    return f"stream {stream.index} ({context.name if context else 'unknown format or damaged'})"


class Track(ABC):
    """One stream, as its packets show it.

    Attributes:
        stream: the stream.
        num_packets: packets so far.
        first_frame: its first frame, if the stream is wanted.
        clock: how its timestamps are made continuous.
        alternatives: usable tracks of the same kind that were not chosen.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.num_packets = 0
        self.first_frame = FirstFrame(methodcaller("decode"))
        self.clock = Clock()
        self.alternatives: list[Track] = []
        self.time_base = stream.time_base or Fraction(1, 1000)
        self.is_cut = False  # in the middle of the last packet

    @property
    def is_default(self) -> bool:
        """Whether the file marks it as the one to play."""
        return bool(self.stream.disposition & Disposition.default)

    @property
    @abstractmethod
    def is_empty(self) -> bool:
        """Whether it has nothing that could be shown or heard."""

    @property
    @abstractmethod
    def is_full(self) -> bool:
        """Whether it has more than any limit allows, so that the rest need not be recorded."""

    @property
    @abstractmethod
    def end_s(self) -> float:
        """The last timestamp in the file, in seconds; 0 if there is none."""

    @property
    def obstacle(self) -> str | None:
        """Why it cannot be used, as in "stream 1 (apac) …"; None if it can."""
        if self.obstacle_to_reading is None and self.first_frame.frame is None:
            return f"cannot be decoded ({self.first_frame.reason})"
        return self.obstacle_to_reading

    @property
    def obstacle_to_reading(self) -> str | None:
        """The same without regard to whether a frame was decoded."""
        if self.stream.codec_context is None:
            return "is in a format without a decoder"
        return EMPTY if self.is_empty else None

    @property
    def name(self) -> str:
        """Number and format, for messages."""
        return name_stream(self.stream)

    def add(self, packet: Packet[Stream]) -> None:
        """Record a packet."""
        self.is_cut = packet.is_corrupt
        self.record(packet)
        self.num_packets += 1

    @abstractmethod
    def record(self, packet: Packet[Stream]) -> None:
        """Record what is needed of a packet."""

    @abstractmethod
    def stretches(self) -> Stretches:
        """Return the packets between the jumps of the clock."""


TrackT = TypeVar("TrackT", bound=Track)


class VideoTrack(Track):
    """A stream of pictures.

    Attributes:
        lacks_times: whether its frames have only times of decoding (:mod:`.decoding`).
    """

    stream: VideoStream

    def __init__(
        self, stream: VideoStream, container: str, most_frames: float, max_pixels: int
    ) -> None:
        super().__init__(stream)
        self.lacks_times = lacks_times(stream, container)
        self._starts_decoded = container in ONE_TIME_PER_FRAME
        self.decoder_name = choose_decoder(stream)
        decoder = Decoder(self.decoder_name, max_pixels, deinterlace=False)
        self.first_frame = FirstFrame(decoder.decode)
        self._most_frames = most_frames
        self._decoding_times = DecodingTimes()
        self._numbers = array("q")  # of the packets that have a timestamp
        self._shown = array("q")  # times of display
        self._decoded = array("q")  # times of decoding
        self._durations = array("q")
        self._positions = array("q")  # in the file; -1 if not known
        self._is_key = array("B")
        self._is_hidden = array("B")
        self._is_timed = array("B")

    @property
    def has_size(self) -> bool:
        """Whether the size of the pictures is known, or was refused by the decoder."""
        is_damaged = self.first_frame.reason == _DAMAGED
        return bool(self.stream.width and self.stream.height) or not is_damaged

    def record(self, packet: Packet[Stream]) -> None:
        decoded = self._decoding_times.time_of(packet)
        if decoded is None:
            return
        shown = _stamp_of(packet)
        self._is_timed.append(shown is not None)
        self._numbers.append(self.num_packets)
        self._shown.append(decoded if shown is None else shown)
        self._decoded.append(decoded)
        self._durations.append(packet.duration or 0)
        self._positions.append(-1 if packet.pos is None else packet.pos)
        self._is_key.append(packet.is_keyframe)
        # Decoded only as a reference, before the start of an edit list.
        self._is_hidden.append(packet.is_discard)

    @property
    def _stamps(self) -> array[int]:
        """The timestamps by which frames are placed, in the order of the file."""
        return self._decoded if self.lacks_times else self._shown

    @property
    def is_empty(self) -> bool:
        return False not in self._is_hidden

    @property
    def is_full(self) -> bool:
        return len(self._shown) > self._most_frames

    @property
    def late_s(self) -> float:
        """How much later than in the file FFmpeg places the frames: in AVI and ASF it guesses."""
        if not self._starts_decoded:
            return 0.0
        return float((self._stamps[0] - self._decoded[0]) * self.time_base)

    @property
    def end_s(self) -> float:
        return max(self._stamps, default=0) * float(self.time_base)

    def drop_last(self) -> None:
        """Forget the last packet, which is incomplete, unless no other is shown."""
        is_recorded = self._numbers[-1] == self.num_packets - 1
        if is_recorded and False in self._is_hidden[:-1]:
            for column in self._columns:
                column.pop()

    @property
    def _columns(self) -> tuple[array[int], ...]:
        return (
            *(self._numbers, self._shown, self._decoded, self._durations, self._positions),
            *(self._is_key, self._is_hidden, self._is_timed),
        )

    def settle(self) -> None:
        """Decide, when all packets are recorded, which of those without a timestamp are frames.

        If few have one, all are frames. Otherwise a packet without one is the second field of a
        frame, or its frame is not shown.
        """
        share = self._is_timed.count(False) / max(1, len(self._is_timed))
        frame = self.first_frame.frame
        has_fields = isinstance(frame, VideoFrame) and frame.interlaced_frame
        if share > (_HALF if has_fields else _FEW):
            self.lacks_times = True
        if share and not self.lacks_times:
            kept = [number for number, is_timed in enumerate(self._is_timed) if is_timed]
            for column in self._columns:
                column[:] = array(column.typecode, [column[number] for number in kept])

    def frames(self) -> Frames:
        """Return the frames with continuous timestamps."""
        numbers, stamps = _column(self._numbers), _column(self._stamps)
        if self.clock.sections:
            pairs = zip(numbers.tolist(), stamps.tolist(), strict=True)
            stamps = stamps + np.array([self.clock.shift_at(*pair) for pair in pairs], np.int64)
        is_key = np.frombuffer(self._is_key, np.bool_)
        is_shown = ~np.frombuffer(self._is_hidden, np.bool_)
        keys = np.flatnonzero(is_key)
        keys = keys[np.unique(stamps[keys], return_index=True)[1]]
        last = int(np.argmax(np.where(is_shown, stamps, np.iinfo(np.int64).min)))
        return Frames(
            stamps=np.unique(stamps[is_shown]),
            last_duration=self._durations[last],
            keyframe_stamps=stamps[keys],
            keyframe_numbers=numbers[keys],
            keyframe_positions=_column(self._positions)[keys],
        )

    def stretches(self) -> Stretches:
        """Find the jumps of the clock.

        Packets come in the order of decoding, a few frames apart from the order of display. A
        keyframe comes after all frames displayed before it, so that a clock that starts anew is
        noticed there at once.
        """
        unit_s = float(self.time_base)
        steps = np.abs(np.diff(_column(self._stamps))) * unit_s
        usual_s = float(np.median(steps)) if steps.size else 0.0
        found = VideoStretches(unit_s, usual_s)
        for number, stamp, duration, is_key in zip(
            self._numbers, self._stamps, self._durations, self._is_key, strict=True
        ):
            found.add(number, stamp, duration, bool(is_key))
        return Stretches(unit_s, found.stretches, is_even=_is_even(steps, usual_s))


def _column(values: array[int]) -> NDArray[np.int64]:
    return np.frombuffer(values, np.int64) if values else np.zeros(0, np.int64)


def _is_even(steps: NDArray[np.float64], usual_s: float) -> bool:
    """Return whether frames come at a constant rate but for a few long gaps."""
    long = np.count_nonzero(steps > LONGEST_GAP_S)
    irregular = np.count_nonzero((steps > 4 * usual_s) & (steps <= LONGEST_GAP_S))
    return int(irregular) <= max(1, int(long))


@dataclass(frozen=True)
class Frames:
    """The frames of a video in units of its time base.

    Attributes:
        stamps: int64 (n,), n >= 1, of the frames shown, ascending.
        last_duration: of the last frame; 0 if not known.
        keyframe_stamps: int64 (num_keyframes,), ascending.
        keyframe_numbers: int64 (num_keyframes,), numbers of their packets.
        keyframe_positions: int64 (num_keyframes,), bytes from the start of the file, or -1.
    """

    stamps: NDArray[np.int64]
    last_duration: int
    keyframe_stamps: NDArray[np.int64]
    keyframe_numbers: NDArray[np.int64]
    keyframe_positions: NDArray[np.int64]


class SoundTrack(Track):
    """A stream of sound."""

    stream: AudioStream

    def __init__(self, stream: AudioStream, longest_s: float) -> None:
        super().__init__(stream)
        self._longest_s = longest_s
        self._stretches: list[Stretch] = []
        self._whole = (0, 0)  # duration and bytes of the packet before
        self._sounding = 0  # units of all packets together
        self._skipped_at_start = 0  # samples, as those at the end marked to be skipped
        self._skipped_samples = 0
        # As declared: decoding may change it (HE-AAC). A stream without a decoder has none.
        self._sample_rate = max(1, stream.rate) if stream.codec_context is not None else 1

    @property
    def sounding_s(self) -> float:
        """Seconds of all packets together, without the samples to be skipped."""
        return self._sounding * float(self.time_base) - self._skipped_samples / self._sample_rate

    @property
    def end_s(self) -> float:
        return max((one.end for one in self._stretches), default=0) * float(self.time_base)

    @property
    def is_empty(self) -> bool:
        return not self._stretches

    @property
    def is_full(self) -> bool:
        return self.sounding_s > self._longest_s or len(self._stretches) > MOST_JUMPS + 1

    def record(self, packet: Packet[Stream]) -> None:
        if packet.is_discard:  # before the start of an edit list
            return
        start, end = _skipped_samples(packet)
        if not self._stretches:
            self._skipped_at_start = start
        whole = self._whole[0]
        duration = self._duration(packet)
        if duration + round(end / self._sample_rate / self.time_base) == whole:
            end = 0  # the duration is without them already
        self._skipped_samples += start + end
        self._sounding += duration
        last = self._stretches[-1] if self._stretches else None
        stamp = _stamp_of(packet)
        if stamp is None:
            stamp = last.end if last is not None else 0
        if last is None or self._jumps(stamp, last):
            self._stretches.append(Stretch(self.num_packets, stamp, stamp, stamp + duration))
        else:
            self._stretches[-1] = extend(last, stamp, stamp + duration)

    def _duration(self, packet: Packet[Stream]) -> int:
        """Return a packet's duration; a last one that is shorter is given that of a whole one."""
        duration, whole = packet.duration or 0, self._whole
        if duration >= 1 << 31:  # of the last packet of Vorbis in Ogg: less than nothing
            duration -= 1 << 32
        self._whole = (duration, packet.size)
        if packet.is_corrupt and duration == whole[0] and packet.size < whole[1]:
            return duration * packet.size // whole[1]
        return duration

    def _jumps(self, stamp: int, last: Stretch) -> bool:
        gap_s = (stamp - last.end) * float(self.time_base)
        return is_long_gap(gap_s) or gap_s < -_OVERLAP_S

    def stretches(self) -> Stretches:
        return Stretches(float(self.time_base), self._stretches)

    @property
    def start_s(self) -> float:
        """Time of the first audible sample.

        Decoders of WMA return nothing for the first packets, whose end is heard later.
        """
        frame = self.first_frame.frame
        if frame is not None and frame.time is not None:
            return frame.time
        unit_s = float(self.time_base)
        return self._stretches[0].earliest * unit_s + self._skipped_at_start / self._sample_rate

    @property
    def duration_s(self) -> float:
        """Seconds of sound and of the gaps that are kept, without the samples to be skipped."""
        first, last = self._stretches[0], self._stretches[-1]
        shift = self.clock.shift_at(self.num_packets - 1, last.latest)
        span_s = (last.end + shift - first.earliest) * float(self.time_base)
        return max(0.0, self.sounding_s, span_s - self._skipped_samples / self._sample_rate)


def _stamp_of(packet: Packet[Stream]) -> int | None:
    """Return the timestamp by which a packet is placed."""
    return packet.pts if packet.pts is not None else packet.dts


def _skipped_samples(packet: Packet[Stream]) -> tuple[int, int]:
    """Return the samples at the packet's start and end that are not to be heard."""
    if not packet.has_sidedata("skip_samples"):
        return 0, 0
    start, end = struct.unpack("<II", bytes(packet.get_sidedata("skip_samples"))[:8])
    return int(start), int(end)
