import math

import numpy as np
import pytest

from latentsync.face.blazeface import FaceDetector
from latentsync.face.mesh import FaceMesh, FaceRegion
from latentsync.face.tracked_face import face_size, is_usable, yaw
from tests.face.pictures import FACE_SIZE, astronaut


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    picture, mesh = astronaut(), FaceMesh()
    region = FaceRegion.from_detection(FaceDetector().detect(picture)[0])
    return mesh.landmarks(picture, region)[0]


def _turned_aside(points, degrees):
    """Turn the head about the vertical axis, as far as landmarks go."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    middle = points.mean(axis=0)
    turn = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]], np.float32)
    return (points - middle) @ turn + middle


def test_a_face_that_looks_at_the_camera_is_usable(points):
    assert is_usable(points, 256, 256)
    assert face_size(points) == pytest.approx(FACE_SIZE, rel=0.05)
    assert abs(math.degrees(yaw(points))) < 15


@pytest.mark.parametrize("degrees", [-80, 80])
def test_a_profile_is_not_usable(points, degrees):
    assert not is_usable(_turned_aside(points, degrees), 256, 256)


@pytest.mark.parametrize("degrees", [-35, 35])
def test_a_half_turned_face_is_usable(points, degrees):
    turned = _turned_aside(points, degrees)
    assert abs(math.degrees(yaw(turned) - yaw(points))) == pytest.approx(35, abs=4)
    assert is_usable(turned, 256, 256)


def test_a_tiny_face_is_not_usable(points):
    assert is_usable(points * np.float32(33 / face_size(points)), 256, 256)
    assert not is_usable(points * np.float32(31 / face_size(points)), 256, 256)


def test_a_face_at_the_limit_does_not_flicker(points):
    limit = points * np.float32(31 / face_size(points))
    assert is_usable(limit, 256, 256, was_usable=True)
    assert not is_usable(limit, 256, 256, was_usable=False)
    assert not is_usable(limit * np.float32(0.9), 256, 256, was_usable=True)


@pytest.mark.parametrize("shift", [(0, 110), (-125, 0), (150, 0)])
def test_a_mouth_outside_the_picture_is_not_usable(points, shift):
    assert not is_usable(points + np.float32([*shift, 0]), 256, 256)


def test_a_forehead_outside_the_picture_does_not_matter(points):
    assert is_usable(points - np.float32([0, 90, 0]), 256, 256)
