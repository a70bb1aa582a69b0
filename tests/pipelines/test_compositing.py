"""Consecutive and overlapping utterances, with edits that paint their number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from latentsync.errors import InvalidField, NoFace
from latentsync.formats import Frame
from latentsync.pipelines.base import GenerationReport, Utterance
from latentsync.pipelines.compositing import (
    FrameEdit,
    FrameEdits,
    check_mouths,
    check_seen,
    composite,
    num_frames_searched,
)
from latentsync.schema.fields import SpeakerPoint
from tests.demo_media import FramesInMemory

NUM_FRAMES = 20
SOURCE = FramesInMemory([np.full((4, 4, 3), number, np.uint8) for number in range(NUM_FRAMES)])
SILENCE = np.zeros(0, np.float32)


def said(start: int, stop: int, field: str = "speaker") -> Utterance:
    return Utterance(SILENCE, start, stop, field=field)


class Choir:
    """Each voice paints the pixel with the number of its face; notes what was begun and left."""

    def __init__(self, *utterances: Utterance, faces: list[int], missing: tuple[int, ...] = ()):
        self.utterances, self.faces, self.missing = utterances, faces, missing
        self.events: list[str] = []

    def begin(self, number: int) -> FrameEdits:
        self.events.append(f"begin {number}")
        one, face = self.utterances[number], self.faces[number]

        def paint(frame: Frame) -> Frame:
            painted = frame.copy()
            painted[face, face] = 200
            return painted

        try:
            for index, frame in zip(
                range(one.start, one.stop), SOURCE.read(range(one.start, one.stop)), strict=True
            ):
                yield FrameEdit(frame, None if index in self.missing else paint)
        finally:
            self.events.append(f"leave {number}")

    def frames(self, report: GenerationReport | None = None) -> list[Frame]:
        return list(self.stream(report))

    def stream(self, report: GenerationReport | None = None):
        return composite(
            SOURCE,
            np.arange(NUM_FRAMES),
            self.utterances,
            self.faces,
            self.begin,
            report or GenerationReport(),
        )


def painted(frames: list[Frame], face: int) -> list[int]:
    return [int(frame[face, face, 0]) for frame in frames]


def untouched(frames: list[Frame], but: Callable[[int], bool] = lambda face: False) -> bool:
    return all(
        (frame[row, column] == number).all()
        for number, frame in enumerate(frames)
        for row in range(4)
        for column in range(4)
        if row != column or not but(row)
    )


def test_one_voice_over_everything_is_not_faded() -> None:
    frames = Choir(said(0, NUM_FRAMES), faces=[1]).frames()
    assert painted(frames, 1) == NUM_FRAMES * [200]
    assert untouched(frames, but=lambda face: face == 1)


def test_frames_without_an_utterance_are_those_of_the_source() -> None:
    frames = Choir(said(5, 9), faces=[0]).frames()
    assert len(frames) == NUM_FRAMES
    assert untouched(frames[:5])
    assert painted(frames, 0)[9:] == list(range(9, NUM_FRAMES))


def test_lips_come_and_go_softly() -> None:
    levels = painted(Choir(said(5, 15), faces=[0]).frames(), 0)
    shares = [(levels[n] - n) / (200 - n) for n in range(5, 15)]
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 0.75, 0.5, 0.25], abs=0.005)


def test_a_face_that_goes_on_speaking_shows_nothing_of_the_source_between() -> None:
    levels = painted(Choir(said(2, 10), said(10, 18), faces=[0, 0]).frames(), 0)
    assert levels[5:15] == 10 * [200]
    other = painted(Choir(said(2, 10), said(10, 18), faces=[0, 1]).frames(), 0)
    assert other[9] < 200


def test_two_faces_speak_at_once() -> None:
    frames = Choir(said(0, 12), said(6, NUM_FRAMES), faces=[0, 3]).frames()
    assert painted(frames, 0)[:9] == 9 * [200]
    assert painted(frames, 3)[9:] == 11 * [200]
    assert untouched(frames, but=lambda face: face in (0, 3))


def test_frames_in_which_a_face_is_missing_are_counted_and_left() -> None:
    report = GenerationReport()
    frames = Choir(said(0, NUM_FRAMES), faces=[0], missing=(3, 4)).frames(report)
    assert report.frames_without_face == 2
    assert painted(frames, 0)[3:5] == [3, 4]


def test_work_on_a_voice_begins_with_its_first_frame_and_is_ended() -> None:
    choir = Choir(said(0, 4), said(8, 12), faces=[0, 1])
    stream = choir.stream()
    for _ in range(8):
        next(stream)
    assert choir.events[0] == "begin 0"
    assert "begin 1" not in choir.events
    next(stream)
    stream.close()
    assert sorted(choir.events[1:]) == ["begin 1", "leave 0", "leave 1"]


def test_one_mouth_does_not_say_two_things_at_once() -> None:
    one, other = said(0, 10, "segments.0.speaker"), said(9, 12, "segments.1.speaker")
    check_mouths([one, other], [0, 1])
    check_mouths([one, said(10, 12)], [0, 0])
    with pytest.raises(
        InvalidField, match=r"segments\.1\.speaker is the same person as .* 0\.36 s"
    ):
        check_mouths([one, other], [2, 2])


def test_a_speaker_who_is_never_seen_speaking_is_no_face() -> None:
    seen = np.arange(NUM_FRAMES) < 5
    indices = np.arange(NUM_FRAMES)
    check_seen([said(4, 9)], indices, [seen])
    with pytest.raises(NoFace, match=r"segments\.1\.speaker: .* from 0\.2 to 0\.36 s"):
        check_seen([said(0, 9), said(5, 9, "segments.1.speaker")], indices, [seen, seen])


def test_only_the_part_of_the_source_with_speech_or_named_frames_is_searched() -> None:
    indices = np.array([9, 8, 7, 6, 5, 4])
    assert num_frames_searched(indices, [said(2, 4)], NUM_FRAMES) == 8
    named = Utterance(SILENCE, 2, 4, SpeakerPoint(frame=12, point=(1, 1)))
    assert num_frames_searched(indices, [said(3, 4), named], NUM_FRAMES) == 13
    assert num_frames_searched(indices, [named], 10) == 10
