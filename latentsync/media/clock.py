"""Closes jumps in the timestamps of a file, so that picture and sound go on from where they were.

Joined recordings, captured streams, paused recorders and clocks that start anew leave jumps. The
packets between two jumps are a stretch. Stretches are placed one after the other; picture and sound
move together, so that they stay in step. A gap of up to a second is kept, as is a longer one during
which the other stream continues.
"""

from __future__ import annotations  # the generics of av exist for type checkers only

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TypeVar

from av.packet import Packet
from av.stream import Stream

_REORDERED = 16  # frames by which decoding and display may differ at most
LONGEST_GAP_S = 1.0  # longer gaps in both streams are closed
_ROUNDED_S = 0.002  # timestamps of a gap are rounded, in Matroska to 1 ms
_UNEVEN_GAP_S = 10.0  # a frame of a screen recorder may be shown for so long
_COVERED = 0.5  # share of a gap in which the other stream continues
_SAME_JUMP_S = 1.5  # two streams do not jump by exactly the same time
StreamT = TypeVar("StreamT", bound=Stream)


@dataclass(frozen=True)
class Section:
    """Packets of a stream whose timestamps are shifted alike, in units of its time base.

    Attributes:
        first_packet: number of its first packet, counted from 0 in the order of the file.
        shift: to be added to the timestamps.
        earliest, latest: lowest and highest timestamp in the file.
    """

    first_packet: int
    shift: int
    earliest: int
    latest: int


@dataclass(frozen=True)
class Clock:
    """How the timestamps of one stream are made continuous; without sections they already are."""

    sections: tuple[Section, ...] = ()

    def mend(
        self, packets: Iterable[Packet[StreamT]], number: int = 0
    ) -> Iterator[Packet[StreamT]]:
        """Yield the packets with continuous timestamps.

        Args:
            packets: of the stream, in the order of the file.
            number: of the first of them.
        """
        for packet in packets:
            if self.sections and packet.size:
                stamp = packet.pts if packet.pts is not None else packet.dts
                if stamp is not None:
                    shift = self.shift_at(number, stamp)
                    packet.pts = None if packet.pts is None else packet.pts + shift
                    packet.dts = None if packet.dts is None else packet.dts + shift
                number += 1
            yield packet

    def shift_at(self, number: int, stamp: int) -> int:
        """Return what is added to the timestamp of a packet.

        Frames are stored in the order of decoding: a few of the section before may come after the
        first one of the next, and are recognised by their timestamps.
        """
        if not self.sections:
            return 0
        index = bisect_right(self.sections, number, key=lambda one: one.first_packet) - 1
        own, before = self.sections[index], self.sections[max(0, index - 1)]
        is_stray = not own.earliest <= stamp <= own.latest
        return before.shift if is_stray and before.earliest <= stamp <= before.latest else own.shift

    @property
    def joints(self) -> tuple[int, ...]:
        """Continuous timestamps at which one section ends and the next begins."""
        return tuple(one.earliest + one.shift for one in self.sections[1:])

    def unmend(self, number: int, stamp: int) -> int:
        """Return the timestamp in the file of a packet whose continuous timestamp is ``stamp``."""
        index = bisect_right(self.sections, number, key=lambda one: one.first_packet) - 1
        return stamp - self.sections[index].shift


@dataclass(frozen=True)
class Stretch:
    """Packets of a stream between two jumps of its clock.

    Attributes:
        first_packet: number of its first packet.
        earliest, latest: lowest and highest timestamp, in units of the time base.
        end: end of the packet with the highest timestamp.
    """

    first_packet: int
    earliest: int
    latest: int
    end: int


@dataclass(frozen=True)
class Stretches:
    """The stretches of one stream.

    Attributes:
        unit_s: seconds per unit of the time base.
        stretches: in the order of the file.
        is_even: whether packets come at a constant rate, so that a long gap is no still picture.
    """

    unit_s: float
    stretches: Sequence[Stretch]
    is_even: bool = True

    @cached_property
    def spans_s(self) -> list[tuple[float, float]]:
        """Start and end of each stretch in seconds of the file's clock."""
        return [(one.earliest * self.unit_s, one.end * self.unit_s) for one in self.stretches]

    @cached_property
    def jumps_s(self) -> list[float]:
        """By how much the clock jumps before each stretch but the first; negative if back."""
        return [after[0] - before[1] for before, after in pairwise(self.spans_s)]

    def jump_s(self, index: int) -> float:
        """Return by how much the clock jumps before a stretch that is not the first."""
        return self.jumps_s[index - 1]


def is_long_gap(gap_s: float) -> bool:
    """Return whether a gap between two packets is longer than the longest that is kept."""
    return gap_s > LONGEST_GAP_S + _ROUNDED_S


class VideoStretches:
    """Finds the jumps in the timestamps of a video, in the order of decoding."""

    def __init__(self, unit_s: float, usual_s: float) -> None:
        self._unit_s = unit_s
        self._reordered = _REORDERED * usual_s / unit_s
        self._two_frames = 2 * usual_s / unit_s
        self._usual = round(usual_s / unit_s)
        self._finished: list[Stretch] = []
        self._open: Stretch | None = None

    @property
    def stretches(self) -> list[Stretch]:
        """The packets added so far, between the jumps of the clock."""
        return self._finished + ([self._open] if self._open is not None else [])

    def add(self, number: int, stamp: int, duration: int, is_key: bool) -> None:
        """Add the timestamp of a packet to the newest stretch, the one before, or a new one."""
        end = stamp + (duration or self._usual)
        if self._open is None:
            self._open = Stretch(number, stamp, stamp, end)
        elif self._is_stray(number, stamp):
            self._finished[-1] = extend(self._finished[-1], stamp, end)
        elif self._jumps(stamp, is_key):
            self._finished.append(self._open)
            self._open = Stretch(number, stamp, stamp, end)
        else:
            self._open = extend(self._open, stamp, end)

    def _jumps(self, stamp: int, is_key: bool) -> bool:
        assert self._open is not None
        ahead = stamp - self._open.latest
        if is_long_gap((stamp - self._open.end) * self._unit_s) and ahead > self._reordered / 2:
            return True
        if is_key:
            return ahead < -self._two_frames
        return ahead < -max(self._reordered, LONGEST_GAP_S / self._unit_s)

    def _is_stray(self, number: int, stamp: int) -> bool:
        """Return whether a frame belongs to the stretch before, decoded after the jump."""
        if not self._finished or self._open is None:
            return False
        is_close = number - self._open.first_packet <= _REORDERED
        is_outside = abs(stamp - self._open.latest) > max(
            self._reordered, LONGEST_GAP_S / self._unit_s
        )
        return is_close and is_outside and abs(stamp - self._finished[-1].latest) <= self._reordered


def extend(stretch: Stretch, stamp: int, end: int) -> Stretch:
    """Return a stretch with one more packet."""
    return Stretch(
        stretch.first_packet,
        min(stretch.earliest, stamp),
        max(stretch.latest, stamp),
        max(stretch.end, end),
    )


def close_jumps(video: Stretches, sound: Stretches) -> tuple[Clock, Clock]:
    """Return continuous clocks for a file's video and sound; either may have no stretches."""
    jumps = _real_jumps(video, sound), _real_jumps(sound, video)
    pairs = _match(video, sound, jumps)
    shifts = _Shifts(video), _Shifts(sound)
    for pair in pairs:
        starts, ends = [], []
        for index, one, place in zip(pair, (video, sound), shifts, strict=True):
            if index is not None:
                starts.append(one.spans_s[index][0])
                ends.append(one.spans_s[index - 1][1] + place.shift_s)
        for index, place in zip(pair, shifts, strict=True):
            if index is not None:
                place.begin(index, max(ends) - min(starts))
    return shifts[0].clock(), shifts[1].clock()


def _real_jumps(own: Stretches, other: Stretches) -> list[int]:
    """Return the stretches that begin with a jump, without gaps in which the other continues."""
    return [index for index in range(1, len(own.stretches)) if not _is_kept_gap(own, index, other)]


def _is_kept_gap(own: Stretches, index: int, other: Stretches) -> bool:
    gap_s = own.jump_s(index)
    if gap_s <= 0:
        return False
    start_s, end_s = own.spans_s[index - 1][1], own.spans_s[index][0]
    covered_s = sum(max(0.0, min(end_s, end) - max(start_s, start)) for start, end in other.spans_s)
    if covered_s > _COVERED * gap_s:
        return True
    jumps_too = any(abs(jump_s - gap_s) < _SAME_JUMP_S for jump_s in other.jumps_s)
    return not own.is_even and gap_s < _UNEVEN_GAP_S and not jumps_too


def _match(
    video: Stretches, sound: Stretches, jumps: tuple[list[int], list[int]]
) -> list[tuple[int | None, int | None]]:
    """Return the jumps of both streams in order, the same jump of both as one pair."""
    pairs: list[tuple[int | None, int | None]] = []
    left = list(jumps[1])
    for index in jumps[0]:
        same = next(
            (one for one in left if abs(sound.jump_s(one) - video.jump_s(index)) < _SAME_JUMP_S),
            None,
        )
        if same is not None:
            alone = left[: left.index(same)]
            pairs += [(None, one) for one in alone]
            left = left[len(alone) + 1 :]
        pairs.append((index, same))
    return pairs + [(None, one) for one in left]


class _Shifts:
    """The shifts of one stream while its jumps are closed in order."""

    def __init__(self, own: Stretches) -> None:
        self._own = own
        self._begun: list[tuple[int, float]] = [(0, 0.0)]

    @property
    def shift_s(self) -> float:
        """Shift of the newest section in seconds."""
        return self._begun[-1][1]

    def begin(self, index: int, shift_s: float) -> None:
        """Begin a section with a stretch."""
        self._begun.append((index, shift_s))

    def clock(self) -> Clock:
        """Return the sections; none if there is no jump."""
        if len(self._begun) == 1:
            return Clock()
        stops = [index for index, _ in self._begun[1:]] + [len(self._own.stretches)]
        return Clock(
            tuple(
                Section(
                    first_packet=self._own.stretches[index].first_packet,
                    shift=round(shift_s / self._own.unit_s),
                    earliest=min(one.earliest for one in self._own.stretches[index:stop]),
                    latest=max(one.latest for one in self._own.stretches[index:stop]),
                )
                for (index, shift_s), stop in zip(self._begun, stops, strict=True)
            )
        )
