import numpy as np
import pytest

from latentsync.face.geometry import (
    LEFT_EYE_OUTER,
    LOWER_LIP_INNER,
    RIGHT_EYE_OUTER,
    UPPER_LIP_INNER,
)
from tests.face.tracks import face_points, make_track, still


def test_dense_views_are_empty_where_the_face_is_not_usable():
    track = make_track(still(2), frames=[1, 3], num_frames=5)
    present = np.array([False, True, False, True, False])
    np.testing.assert_array_equal(track.present, present)
    assert track.landmarks.shape == (5, 468, 2)
    np.testing.assert_array_equal(np.isnan(track.landmarks).all(axis=(1, 2)), ~present)
    np.testing.assert_array_equal(np.isnan(track.boxes).any(axis=1), ~present)
    np.testing.assert_array_equal(track.scores > 0, present)
    assert track.frames_present == 2


def test_a_face_in_every_frame_is_not_copied():
    track = make_track(still(3))
    assert track.landmarks is track.points


def test_one_frame_is_looked_up_by_its_number():
    track = make_track(still(2), frames=[1, 3], num_frames=5)
    np.testing.assert_array_equal(track.at(3), track.points[1])
    assert track.at(0) is None
    assert track.at(2) is None
    assert track.at(4) is None
    np.testing.assert_array_equal(track.box_at(1), track.boxes[1])
    assert track.box_at(2) is None


def test_a_frame_takes_less_than_four_kilobytes():
    track = make_track(still(100))
    kept = (track.frames, track.points, track.presence, track.shots)
    assert sum(array.nbytes for array in kept) / 100 < 4000


def test_lip_gaps_are_shares_of_the_eye_distance_and_nan_without_a_face():
    points = np.array(face_points())
    points[UPPER_LIP_INNER] = points[LOWER_LIP_INNER] - np.float32([0, 5])
    eyes = np.linalg.norm(points[RIGHT_EYE_OUTER] - points[LEFT_EYE_OUTER])
    gaps = make_track([points, points], frames=[0, 2]).lip_gaps
    assert gaps[[0, 2]] == pytest.approx(5 / eyes, rel=1e-4)
    assert np.isnan(gaps[1])
