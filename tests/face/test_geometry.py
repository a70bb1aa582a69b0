import numpy as np
import pytest

from latentsync.face import geometry
from latentsync.face.geometry import area, box_around, center, contains, overlap
from latentsync.face.tracker import track_faces
from tests.face.pictures import astronaut

RINGS = ("LIPS_OUTER", "LIPS_INNER", "FACE_OVAL")
SETS = (*RINGS, "JAW", "BROW_RIGHT", "BROW_LEFT", "ALIGNMENT_NOSE", "RIGID")


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    (track,) = track_faces([astronaut()])
    return track.points[0].astype(np.float64)


def _signed_area(ring: np.ndarray) -> float:
    x, y = ring.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


@pytest.mark.parametrize("name", SETS)
def test_sets_hold_different_landmarks_of_the_mesh(name):
    numbers = getattr(geometry, name)
    assert len(set(numbers)) == len(numbers)
    assert set(numbers) <= set(range(geometry.NUM_LANDMARKS))


@pytest.mark.parametrize("name", RINGS)
def test_rings_run_clockwise_in_the_picture(points, name):
    assert _signed_area(points[list(getattr(geometry, name))]) > 0  # y points down


def test_entries_of_the_two_lip_rings_lie_opposite_each_other(points):
    outer, inner = points[list(geometry.LIPS_OUTER)], points[list(geometry.LIPS_INNER)]
    nearest = np.linalg.norm(outer[:, None] - inner[None], axis=2).argmin(axis=1)
    steps = (nearest - np.arange(20) + 10) % 20 - 10
    assert np.abs(steps).max() <= 2


def test_the_inner_lips_enclose_less_than_the_outer_lips(points):
    outer = _signed_area(points[list(geometry.LIPS_OUTER)])
    assert 0 < _signed_area(points[list(geometry.LIPS_INNER)]) < outer


def test_the_jaw_is_the_lower_part_of_the_oval(points):
    assert set(geometry.JAW) <= set(geometry.FACE_OVAL)
    jaw = points[list(geometry.JAW)]
    assert jaw[:, 1].argmax() in (9, 10, 11)  # the chin is in the middle
    assert jaw[0, 0] < jaw[-1, 0]  # from the picture's left to its right


def test_right_is_the_left_side_of_the_picture(points):
    for right, left in (
        (geometry.RIGHT_EYE_OUTER, geometry.LEFT_EYE_OUTER),
        (geometry.MOUTH_RIGHT, geometry.MOUTH_LEFT),
        (geometry.FACE_SIDES[0], geometry.FACE_SIDES[1]),
        (geometry.BROW_RIGHT[0], geometry.BROW_LEFT[0]),
    ):
        assert points[right, 0] < points[left, 0]


def test_the_profile_runs_from_the_forehead_to_the_chin(points):
    order = (geometry.FOREHEAD, geometry.NOSE_TIP, geometry.NOSE_BOTTOM,
             geometry.UPPER_LIP_INNER, geometry.LOWER_LIP_INNER, geometry.CHIN)  # fmt: skip
    assert (np.diff(points[list(order), 1]) > 0).all()


def test_overlap_is_intersection_over_union():
    assert overlap((0, 0, 4, 4), (2, 0, 6, 4)) == pytest.approx(8 / 24)
    assert overlap((0, 0, 4, 4), (0, 0, 4, 4)) == 1


@pytest.mark.parametrize("other", [(4, 0, 8, 4), (0, 5, 4, 9), (2, 2, 2, 2)])
def test_boxes_that_share_no_area_do_not_overlap(other):
    assert overlap((0, 0, 4, 4), other) == 0


def test_box_around_uses_x_and_y_of_points_in_space():
    points = np.array([[1, 5, 99], [3, 2, -99]], np.float32)
    assert box_around(points) == (1, 2, 3, 5)


def test_measures_of_a_box():
    assert area((1, 2, 4, 6)) == 12
    assert center((1, 2, 4, 6)) == (2.5, 4)
    assert contains((1, 2, 4, 6), 4, 2)
    assert not contains((1, 2, 4, 6), 4.1, 2)
