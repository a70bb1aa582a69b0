import numpy as np
import pytest

from latentsync.face import topology
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
    numbers = getattr(topology, name)
    assert len(set(numbers)) == len(numbers)
    assert set(numbers) <= set(range(topology.NUM_LANDMARKS))


@pytest.mark.parametrize("name", RINGS)
def test_rings_run_clockwise_in_the_picture(points, name):
    assert _signed_area(points[list(getattr(topology, name))]) > 0  # y points down


def test_entries_of_the_two_lip_rings_lie_opposite_each_other(points):
    outer, inner = points[list(topology.LIPS_OUTER)], points[list(topology.LIPS_INNER)]
    nearest = np.linalg.norm(outer[:, None] - inner[None], axis=2).argmin(axis=1)
    steps = (nearest - np.arange(20) + 10) % 20 - 10
    assert np.abs(steps).max() <= 2


def test_the_inner_lips_enclose_less_than_the_outer_lips(points):
    outer = _signed_area(points[list(topology.LIPS_OUTER)])
    assert 0 < _signed_area(points[list(topology.LIPS_INNER)]) < outer


def test_the_jaw_is_the_lower_part_of_the_oval(points):
    assert set(topology.JAW) <= set(topology.FACE_OVAL)
    jaw = points[list(topology.JAW)]
    assert jaw[:, 1].argmax() in (9, 10, 11)  # the chin is in the middle
    assert jaw[0, 0] < jaw[-1, 0]  # from the picture's left to its right


def test_right_is_the_left_side_of_the_picture(points):
    for right, left in (
        (topology.RIGHT_EYE_OUTER, topology.LEFT_EYE_OUTER),
        (topology.MOUTH_RIGHT, topology.MOUTH_LEFT),
        (topology.FACE_SIDES[0], topology.FACE_SIDES[1]),
        (topology.BROW_RIGHT[0], topology.BROW_LEFT[0]),
    ):
        assert points[right, 0] < points[left, 0]


def test_the_profile_runs_from_the_forehead_to_the_chin(points):
    order = (topology.FOREHEAD, topology.NOSE_TIP, topology.NOSE_BOTTOM,
             topology.UPPER_LIP_INNER, topology.LOWER_LIP_INNER, topology.CHIN)  # fmt: skip
    assert (np.diff(points[list(order), 1]) > 0).all()
