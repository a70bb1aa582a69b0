import tracemalloc

import numpy as np
import pytest

from latentsync.face import geometry
from latentsync.face.smoothing import smooth_track
from latentsync.face.tracker import track_faces
from tests.face.pictures import astronaut, noisy
from tests.face.tracks import face_points, make_track, still

RADIUS = 33.0  # pixels, of the rigid points of the test face


def _jitter(points):
    steps = np.diff(points.astype(np.float64), axis=0)
    return float(np.sqrt((steps**2).sum(axis=2).mean()))


def _noise(count, sigma=0.002 * RADIUS, seed=0):
    return np.random.default_rng(seed).normal(0, sigma, (count, 468, 2))


def _gap(points):
    return points[:, geometry.LOWER_LIP_INNER, 1] - points[:, geometry.UPPER_LIP_INNER, 1]


def _with_gap(points, opening):
    """Open the mouth by moving everything of the lower lips down, pixels per frame."""
    points = points.copy()
    lower = [*geometry.LIPS_OUTER[11:], *geometry.LIPS_INNER[11:]]
    points[:, lower, 1] += np.asarray(opening, np.float32)[:, None]
    return points


def test_a_still_face_seen_through_sensor_noise_calms_down_fourfold():
    (track,) = track_faces(noisy(astronaut(), sigma=4, count=40))
    assert _jitter(track.points) > 4 * _jitter(smooth_track(track).points)


def test_a_nodding_head_is_followed_without_lag():
    t = np.arange(75) / 25
    path = np.stack([9 * np.sin(2 * np.pi * 1.2 * t), 5 * np.sin(2 * np.pi * 2 * t)], axis=1)
    truth = still(75) + path[:, None]
    smooth = smooth_track(make_track(truth + _noise(75)))
    assert np.abs(smooth.points - truth).mean() < 0.003 * RADIUS
    velocity = np.diff(smooth.points[:, geometry.NOSE_TIP], axis=0)[4:-4]
    wanted = np.diff(truth[:, geometry.NOSE_TIP], axis=0)
    errors = [np.abs(velocity - wanted[4 + lag : 70 + lag]).mean() for lag in range(-3, 4)]
    assert int(np.argmin(errors)) - 3 == 0


def test_a_steady_pan_is_left_alone_up_to_its_ends():
    truth = still(30) + np.linspace(0, 60, 30)[:, None, None] * np.float32([1, 0.5])
    smooth = smooth_track(make_track(truth))
    np.testing.assert_allclose(smooth.points, truth, atol=1e-3)


def test_a_plosive_keeps_its_closure():
    opening = np.full(40, 6.0)
    opening[20] = 0  # one frame
    truth = _with_gap(still(40), opening)
    smooth = _gap(smooth_track(make_track(truth + _noise(40))).points)
    assert int(smooth.argmin()) == 20
    assert smooth[20] - _gap(truth)[20] < 0.25 * 6


def test_talking_is_kept_in_step():
    t = np.arange(100) / 25
    truth = _with_gap(still(100), 4 + 3 * np.sin(2 * np.pi * 3 * t))
    smooth = smooth_track(make_track(truth + _noise(100))).points
    assert np.corrcoef(_gap(truth), _gap(smooth))[0, 1] > 0.99
    assert np.ptp(_gap(smooth)) > 0.9 * np.ptp(_gap(truth))


@pytest.mark.parametrize("kind", ["gap", "cut", "leap"])
def test_nothing_crosses_a_break(kind):
    step = 60 if kind == "leap" else 3
    rows = np.concatenate([still(20), still(20, x=step)])
    frames = np.arange(40) + (np.arange(40) >= 20 if kind == "gap" else 0)
    shots = np.arange(40) >= 20 if kind == "cut" else None
    smooth = smooth_track(make_track(rows, frames=frames, shots=shots))
    np.testing.assert_allclose(smooth.points, rows, atol=1e-3)


@pytest.mark.parametrize("count", [1, 2])
def test_runs_too_short_to_smooth_stay_as_they_are(count):
    rows = still(count) + _noise(count)
    np.testing.assert_array_equal(smooth_track(make_track(rows)).points, np.float32(rows))


@pytest.mark.parametrize("count", [3, 4, 9])
def test_short_runs_are_smoothed(count):
    rows = still(count) + _noise(count, sigma=0.3)
    smooth = smooth_track(make_track(rows)).points
    assert np.isfinite(smooth).all()
    assert _jitter(smooth) < _jitter(rows)


def test_the_track_given_is_not_changed():
    track = make_track(still(10) + _noise(10))
    before = track.points.copy()
    smooth = smooth_track(track)
    np.testing.assert_array_equal(track.points, before)
    assert smooth.points.dtype == np.float32
    assert smooth.frames is track.frames


def test_time_runs_alike_in_both_directions():
    rows = still(50) + _noise(50) + np.cumsum(_noise(50, sigma=1)[:, :1], axis=0)
    forwards = smooth_track(make_track(rows)).points
    backwards = smooth_track(make_track(rows[::-1])).points[::-1]
    np.testing.assert_allclose(forwards, backwards, atol=0.05)


def test_the_test_face_has_the_radius_that_the_noise_is_given_in():
    rigid = face_points()[list(geometry.RIGID)].astype(np.float64)
    radius = np.sqrt(((rigid - rigid.mean(axis=0)) ** 2).sum(axis=1).mean())
    assert radius == pytest.approx(RADIUS, rel=0.05)


def test_memory_beside_the_result_stays_below_the_tracks_own_size():
    track = make_track(still(1000))
    tracemalloc.start()
    smooth_track(track)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 2 * track.points.nbytes
