from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from latentsync.errors import InvalidField, NoFace
from latentsync.face.landmarks106 import Landmarks106
from latentsync.face.scrfd import DetectedFaces
from latentsync.face.speaker import Choice
from latentsync.formats import Frame
from latentsync.pipelines.lipsync.alignment import FaceAligner, points3, round_landmarks
from latentsync.pipelines.lipsync.face_finder import (
    FoundSpeakers,
    InsightFaceFinder,
    MeshFinder,
    align_speaker,
)
from latentsync.schema.fields import Speaker, SpeakerPoint
from tests.face.pictures import astronaut, blank, paste, stranger

GOLDEN = Path(__file__).parents[2] / "golden" / "detector"
Boxes = Sequence[tuple[float, float, float, float]]
LEFT, RIGHT = (74.0, 62.0, 171.0, 183.0), (270.0, 60.0, 375.0, 185.0)


class ScriptedDetector:
    """Finds the given boxes: the published detector may not be shipped.

    The first pixel of a frame says which one it is; frames are looked at side by side.
    """

    def __init__(self, boxes: Sequence[Boxes]) -> None:
        self._boxes = boxes

    def detect(self, frame: Frame) -> DetectedFaces:
        boxes = np.array(self._boxes[frame[0, 0, 0]], np.float32).reshape(-1, 4)
        count = len(boxes)
        return DetectedFaces(
            boxes, np.full(count, 0.9, np.float32), np.zeros((count, 5, 2), np.float32)
        )


class Found(NamedTuple):
    points: np.ndarray
    faces_found: int


def only(found: FoundSpeakers) -> Found:
    (face,) = found.faces
    return Found(found.points[face], found.faces_found)


@pytest.fixture(scope="module")
def landmarks() -> Landmarks106:
    return Landmarks106.from_file(GOLDEN / "landmark_standin.onnx")


def two_people() -> Frame:
    return paste(paste(blank(), astronaut(), 125, 125, 190), stranger(), 325, 125, 190)


def find(
    boxes: Sequence[Boxes],
    landmarks: Landmarks106,
    frame: Frame,
    speaker: Speaker = "auto",
) -> Found:
    def read() -> Iterator[Frame]:
        for number in range(len(boxes)):
            numbered = frame.copy()
            numbered[0, 0] = number
            yield numbered

    finder = InsightFaceFinder(ScriptedDetector(boxes), landmarks)  # type: ignore[arg-type]
    return only(finder.find(read, len(boxes), [Choice(speaker)]))


def wanted(landmarks: Landmarks106, frame: Frame, box: tuple[float, ...]) -> np.ndarray:
    of_face = landmarks.landmarks([frame], np.array([box], np.float32))
    return points3(round_landmarks(of_face)[0])


def test_one_person_gives_the_points_of_the_networks(landmarks: Landmarks106) -> None:
    found = find([[LEFT], [], [LEFT]], landmarks, astronaut())
    assert found.faces_found == 1
    assert np.isnan(found.points[1]).all()
    for frame in (0, 2):
        assert np.array_equal(found.points[frame], wanted(landmarks, astronaut(), LEFT))


def test_faces_that_are_too_small_for_latentsync_do_not_count(landmarks: Landmarks106) -> None:
    small = (10.0, 10.0, 59.0, 100.0)
    found = find([[small, LEFT]], landmarks, astronaut())
    assert np.array_equal(found.points[0], wanted(landmarks, astronaut(), LEFT))
    with pytest.raises(NoFace, match=r"any of the 2 frames.*at least 50 x 80"):
        find([[small], []], landmarks, astronaut())


def test_of_several_people_one_is_tracked_even_if_another_is_larger(
    landmarks: Landmarks106,
) -> None:
    near, far = (70.0, 60.0, 175.0, 185.0), (76.0, 66.0, 168.0, 178.0)
    people = two_people()
    found = find([[far, RIGHT], [near, RIGHT], [RIGHT, near]], landmarks, people, of(325))
    assert found.faces_found == 2
    for frame in range(3):
        assert np.array_equal(found.points[frame], wanted(landmarks, people, RIGHT))


def of(x: float) -> SpeakerPoint:
    return SpeakerPoint(frame=0, point=(x, 125))


def test_frames_in_which_only_the_other_person_is_found_pass_through(
    landmarks: Landmarks106,
) -> None:
    found = find([[LEFT, RIGHT], [LEFT]], landmarks, two_people(), of(325))
    assert np.isfinite(found.points[0]).all()
    assert np.isnan(found.points[1]).all()


def test_a_point_without_a_face_is_an_error(landmarks: Landmarks106) -> None:
    with pytest.raises(InvalidField, match="speaker"):
        find([[LEFT, RIGHT]], landmarks, two_people(), of(440))


def test_faces_that_only_the_detector_sees_are_chosen_by_size(landmarks: Landmarks106) -> None:
    found = find([[LEFT, RIGHT]], landmarks, blank())
    assert np.array_equal(found.points[0], wanted(landmarks, blank(), RIGHT))


def test_the_embedded_mesh_finds_real_faces() -> None:
    def read() -> Iterator[Frame]:
        yield from [astronaut()] * 3

    found = only(MeshFinder().find(read, 3, [Choice()]))
    assert found.faces_found == 1
    left_brow, right_brow, nose = found.points[1]
    assert left_brow[0] < nose[0] < right_brow[0]
    assert nose[1] > max(left_brow[1], right_brow[1])


def test_matrices_are_those_of_the_aligner_in_the_order_of_the_source() -> None:
    points = (
        np.array([[[90, 100], [150, 100], [120, 140]]], np.float64) + np.arange(5)[:, None, None]
    )
    points[2] = np.nan
    matrices = align_speaker(points, 256)
    aligner = FaceAligner(256)
    for frame in (0, 1, 3, 4):
        assert np.array_equal(matrices[frame], aligner.align(points[frame]))
    assert np.isnan(matrices[2]).all()


def test_points_that_coincide_are_no_face() -> None:
    points = np.array([[[90, 100], [150, 100], [120, 140]], [[5, 5], [5, 5], [5, 5]]], np.float64)
    matrices = align_speaker(points, 256)
    assert np.isfinite(matrices[0]).all()
    assert np.isnan(matrices[1]).all()


def test_where_the_track_is_lost_the_face_at_the_last_place_is_still_theirs(
    landmarks: Landmarks106,
) -> None:
    """The mesh sees the speaker in the first frames alone; the detector goes on seeing both."""
    people = two_people()
    hidden = people.copy()
    hidden[:, 224:] = 90
    frames = [people] * 6 + [hidden] * 20

    def read() -> Iterator[Frame]:
        for number, frame in enumerate(frames):
            numbered = frame.copy()
            numbered[0, 0] = number
            yield numbered

    finder = InsightFaceFinder(ScriptedDetector([[LEFT, RIGHT]] * 26), landmarks)  # type: ignore[arg-type]
    found = only(finder.find(read, 26, [Choice(of(325))]))
    assert np.isfinite(found.points).all()
    assert np.array_equal(found.points[25], wanted(landmarks, numbered_last(hidden), RIGHT))


def numbered_last(frame: Frame) -> Frame:
    numbered = frame.copy()
    numbered[0, 0] = 25
    return numbered
