import math

import numpy as np
import pytest

from latentsync.face import geometry
from latentsync.face.blazeface import FaceDetector
from latentsync.face.mesh import FaceMesh, FaceRegion
from tests.face.pictures import astronaut, blank, turned


@pytest.fixture(scope="module")
def mesh() -> FaceMesh:
    return FaceMesh()


def _settled(mesh, picture):
    (found,) = FaceDetector().detect(picture)
    points, _ = mesh.landmarks(picture, FaceRegion.from_detection(found))
    for _ in range(4):
        points, presence = mesh.landmarks(picture, FaceRegion.from_landmarks(points))
    return points, presence


@pytest.mark.parametrize(
    ("landmark", "x", "y"),
    [
        # read off the picture by eye
        (geometry.RIGHT_EYE_OUTER, 95, 101),
        (geometry.LEFT_EYE_OUTER, 157, 105),
        (geometry.MOUTH_RIGHT, 102, 138),
        (geometry.MOUTH_LEFT, 147, 141),
        (geometry.CHIN, 124, 177),
    ],
)
def test_landmarks_lie_on_the_face(mesh, landmark, x, y):
    points, presence = _settled(mesh, astronaut())
    assert points.shape == (468, 3)
    assert points.dtype == np.float32
    assert presence > 0.99
    np.testing.assert_allclose(points[landmark, :2], [x, y], atol=4)


@pytest.mark.parametrize("degrees", [-40, 25, 90])
def test_landmarks_turn_with_the_face(mesh, degrees):
    upright, _ = _settled(mesh, astronaut())
    points, _ = _settled(mesh, turned(astronaut(), degrees))
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    expected = (upright[:, :2] - 127.5) @ np.array([[cos, -sin], [sin, cos]]) + 127.5
    assert np.linalg.norm(points[:, :2] - expected, axis=1).mean() < 1.0


def test_there_is_no_face_in_an_empty_picture(mesh):
    _, presence = mesh.landmarks(blank(), FaceRegion(100, 100, 120, 0.0))
    assert presence < 0.1


def test_the_region_may_reach_beyond_the_frame(mesh):
    picture = astronaut()[60:]  # the forehead is cut off
    points, presence = mesh.landmarks(picture, FaceRegion(124, 64, 165, 0.06))
    assert presence > 0.9
    np.testing.assert_allclose(points[geometry.CHIN, :2], [124, 117], atol=5)


def test_a_region_maps_its_middle_and_edges():
    region = FaceRegion(x=50, y=40, side=192, angle=math.radians(90))
    matrix = region.to_frame()
    np.testing.assert_allclose(matrix @ [95.5, 95.5, 1], [50, 40], atol=1e-9)
    np.testing.assert_allclose(matrix @ [95.5 + 10, 95.5, 1], [50, 50], atol=1e-9)


def test_the_region_of_a_tilted_face_is_no_larger():
    points, _ = _settled(FaceMesh(), astronaut())
    turn = math.radians(40)
    matrix = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    tilted = (points[:, :2] @ matrix).astype(np.float32)
    upright_region = FaceRegion.from_landmarks(points)
    tilted_region = FaceRegion.from_landmarks(tilted)
    assert tilted_region.side == pytest.approx(upright_region.side, rel=1e-3)
    assert tilted_region.angle == pytest.approx(upright_region.angle + turn, abs=1e-3)
