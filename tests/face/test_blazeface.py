import cv2
import numpy as np
import pytest

from latentsync.face.blazeface import LEFT_EYE, RIGHT_EYE, FaceDetector
from latentsync.face.geometry import overlap
from tests.face.pictures import astronaut, blank, paste, stranger, turned

FACE = (79, 81, 172, 175)  # of the astronaut, as a detector frames it: brows to chin


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector()


def test_finds_the_face_and_its_eyes(detector):
    (found,) = detector.detect(astronaut())
    assert overlap(found.box, FACE) > 0.8
    assert found.score > 0.8
    np.testing.assert_allclose(found.keypoints[RIGHT_EYE], [104, 101], atol=5)
    np.testing.assert_allclose(found.keypoints[LEFT_EYE], [148, 105], atol=5)


@pytest.mark.parametrize("degrees", [-45, -30, 30, 45])
def test_finds_a_tilted_face(detector, degrees):
    assert len(detector.detect(turned(astronaut(), degrees))) == 1


@pytest.mark.parametrize("shape", [(256, 900), (900, 256)])
def test_boxes_are_in_pixels_of_a_frame_of_any_shape(detector, shape):
    frame = blank(*shape)
    y, x = (shape[0] - 256) // 2, (shape[1] - 256) // 2
    frame[y : y + 256, x : x + 256] = astronaut()
    moved = (FACE[0] + x, FACE[1] + y, FACE[2] + x, FACE[3] + y)
    best = max(detector.search(frame), key=lambda found: overlap(found.box, moved))
    assert overlap(best.box, moved) > 0.6


def test_search_finds_a_face_too_small_for_a_single_look(detector):
    frame = paste(blank(720, 1280), astronaut(), x=950, y=500, side=130)  # face: 60 pixels
    assert detector.detect(frame) == []
    assert any(overlap(found.box, (922, 480, 978, 536)) > 0.3 for found in detector.search(frame))


def test_a_small_face_is_found_near_its_last_place(detector):
    frame = paste(blank(720, 1280), astronaut(), x=950, y=500, side=130)
    found = detector.detect_near(frame, (900, 460, 970, 530))
    assert any(overlap(face.box, (922, 480, 978, 536)) > 0.5 for face in found)


def test_finds_two_people(detector):
    frame = paste(paste(blank(), astronaut(), 120, 128, 200), stranger(), 330, 128, 180)
    assert len(detector.detect(frame)) == 2


@pytest.mark.parametrize("level", [0, 128, 255])
def test_finds_nothing_in_a_picture_of_one_colour(detector, level):
    assert detector.search(blank(300, 500, level)) == []


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (4, 3000), (3000, 4)])
def test_takes_frames_of_any_size(detector, shape):
    frame = blank(*shape)
    assert detector.detect(frame) == []
    assert detector.search(frame) == []
    assert detector.detect_near(frame, (0, 0, 0, 0)) == []


def test_hits_on_one_face_are_merged(detector):
    frame = cv2.resize(astronaut(), (700, 700))
    boxes = [found.box for found in detector.search(frame)]
    for i, one in enumerate(boxes):
        assert all(overlap(one, other) <= 0.6 for other in boxes[i + 1 :])
