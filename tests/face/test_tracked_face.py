import numpy as np
import pytest

from latentsync.face.tracked_face import Sighting, TrackedFace
from tests.face.tracks import face_points

LOOKS = np.eye(3, 192, dtype=np.float32)  # three portraits that have nothing in common


def _sighting(x=0.0, scale=1.0):
    flat = face_points() * np.float32(scale) + np.float32([x, 0])
    return Sighting(np.pad(flat, [(0, 0), (0, 1)]), presence=0.9)


@pytest.fixture
def face() -> TrackedFace:
    face = TrackedFace(_sighting(), frame=10, shot=0)
    face.see(_sighting(), 10, 0, usable=True)
    face.portraits.append(LOOKS[0])
    return face


def test_who_comes_back_soon_at_the_same_place_is_the_same_however_they_look(face):
    assert face.resemblance(_sighting(x=20), LOOKS[1], frame=30, shot=0) > 0


@pytest.mark.parametrize(("frame", "shot"), [(60, 0), (11, 1)])
def test_later_or_after_a_cut_the_place_alone_is_not_enough(face, frame, shot):
    assert face.resemblance(_sighting(x=20), LOOKS[1], frame, shot) == 0
    alike = 0.6 * LOOKS[0] + 0.8 * LOOKS[1]
    assert face.resemblance(_sighting(x=20), alike, frame, shot) > 0


def test_who_looks_the_same_is_the_same_wherever_they_come_back(face):
    assert face.resemblance(_sighting(x=900), LOOKS[0], frame=500, shot=7) > 1


@pytest.mark.parametrize("elsewhere", [{"x": 200}, {"scale": 2.0}])
def test_a_stranger_elsewhere_is_another_person(face, elsewhere):
    assert face.resemblance(_sighting(**elsewhere), LOOKS[1], frame=11, shot=0) == 0


def test_unusable_sightings_are_followed_but_leave_no_row(face):
    face.see(_sighting(x=5), 11, 0, usable=False)
    assert face.last_frame == 11
    assert not face.was_usable(11)
    np.testing.assert_array_equal(face.track(num_frames=12).frames, [10])
