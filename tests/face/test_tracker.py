import threading

import numpy as np
import pytest

from latentsync.errors import Canceled
from latentsync.face.blazeface import FaceDetector
from latentsync.face.tracker import MAX_FACES, SEARCH_EVERY, track_faces
from latentsync.monitor import RunMonitor
from tests.face.pictures import astronaut, blank, noisy, paste, stranger
from tests.face.tracks import face_points


def _middles(track):
    return track.points.mean(axis=1)


def test_follows_a_moving_face_through_every_frame():
    paths = [(120 + 8 * i, 128 + 10 * np.sin(i)) for i in range(20)]
    (track,) = track_faces(paste(blank(), astronaut(), x, y, 200) for x, y in paths)
    np.testing.assert_array_equal(track.frames, np.arange(20))
    moved = np.diff(_middles(track), axis=0) - np.diff(np.round(paths), axis=0)
    assert np.abs(moved).max() < 2.0


def test_a_leaping_face_is_one_face_and_placed_exactly():
    xs = [150 + 45 * (i // 2 % 2) for i in range(24)]
    (track,) = track_faces(paste(blank(), astronaut(), x, 128, 200) for x in xs)
    assert track.present.all()
    offset = _middles(track)[:, 0] - xs
    assert np.abs(offset - np.median(offset)).max() < 3


def test_a_still_face_stays_put_from_the_first_frame():
    (track,) = track_faces([astronaut()] * 6)
    assert np.abs(track.points - track.points[-1]).mean(axis=(1, 2)).max() < 1.0


def test_two_people_have_a_track_each():
    def frames():
        for i in range(12):
            frame = paste(blank(), astronaut(), 120 + i, 128, 200)
            yield paste(frame, stranger(), 340, 128 - 2 * i, 150)

    large, small = track_faces(frames())
    assert (large.frames_present, small.frames_present) == (12, 12)
    assert _middles(large)[:, 0].max() < 200 < _middles(small)[:, 0].min()


def test_people_who_cross_keep_their_tracks():
    def frames():
        for i in range(32):
            frame = paste(blank(256, 600), stranger(), 490 - 12 * i, 128, 150)
            yield paste(frame, astronaut(), 110 + 12 * i, 128, 190)  # walks in front

    tracks = sorted(track_faces(frames()), key=lambda track: _middles(track)[0, 0])
    assert len(tracks) == 2
    front, behind = tracks
    assert front.frames_present == 32
    assert behind.frames_present >= 20
    assert _middles(front)[-1, 0] > 450
    assert _middles(behind)[-1, 0] < 150


def test_a_face_hidden_by_another_is_not_seen_twice():
    def frames():
        for i in range(20):
            frame = paste(blank(256, 600), stranger(), 400, 128, 180)
            yield paste(frame, astronaut(), min(130 + 27 * i, 400), 128, 190)  # stops in front

    tracks = track_faces(frames())
    assert [track.present[15:].all() for track in tracks].count(True) == 1
    assert [track.present[15:].any() for track in tracks].count(True) == 1


def test_a_face_that_is_gone_for_a_moment_is_the_same_face():
    def frames():
        for i in range(24):
            yield blank() if 8 <= i < 13 else paste(blank(), astronaut(), 150 + 2 * i, 128, 200)

    (track,) = track_faces(frames())
    np.testing.assert_array_equal(np.flatnonzero(~track.present), np.arange(8, 13))


def test_after_a_cut_the_face_is_found_at_once_and_recognised():
    def frames():
        for _ in range(7):
            yield paste(blank(level=60), astronaut(), 110, 128, 180)
        for _ in range(7):
            yield paste(blank(level=140), astronaut(), 320, 120, 240)

    (track,) = track_faces(frames())
    assert track.present.all()
    np.testing.assert_array_equal(track.shots, [0] * 7 + [1] * 7)
    assert _middles(track)[7, 0] - _middles(track)[6, 0] > 150  # nothing in between


def test_two_people_shown_in_turn_at_one_place_are_two():
    def frames():
        for i in range(28):
            second = i // 7 % 2
            frame = blank(level=150 if second else 60)
            yield paste(frame, stranger() if second else astronaut(), 220, 128, 200)

    one, other = track_faces(frames())
    np.testing.assert_array_equal(one.frames, [*range(7), *range(14, 21)])
    np.testing.assert_array_equal(other.frames, [*range(7, 14), *range(21, 28)])


def test_a_newcomer_is_found_while_another_face_is_followed():
    def frames():
        for i in range(24):
            frame = paste(blank(), astronaut(), 120, 128, 200)
            yield paste(frame, stranger(), 340, 128, 180) if i >= 5 else frame

    _, newcomer = track_faces(frames())
    assert newcomer.frames[0] == 10


def test_a_small_face_in_a_large_picture_is_followed():
    picture = paste(blank(720, 1280), astronaut(), x=950, y=500, side=130)  # face: 60 pixels
    (track,) = track_faces([picture] * 4)
    assert track.present.all()


def test_at_most_four_faces_are_followed():
    frame = blank(300, 1000)
    for number in range(5):
        paste(frame, astronaut(), 100 + 200 * number, 150, 180 + 4 * number)
    tracks = track_faces([frame] * 4)
    assert len(tracks) == MAX_FACES
    assert min(_middles(track)[0, 0] for track in tracks) > 200  # the smallest is left out


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_picture_of_one_colour_holds_no_face(level):
    assert track_faces([blank(level=level)] * (SEARCH_EVERY + 2)) == []


def test_noise_holds_no_face():
    assert track_faces(noisy(blank(200, 300, 128), sigma=60, count=6)) == []


def test_a_face_whose_mouth_leaves_the_picture_is_not_usable_there():
    frames = [paste(blank(), astronaut(), 220, 128 + 15 * max(0, i - 4), 200) for i in range(14)]
    (track,) = track_faces(frames)
    assert track.present[:5].all()
    assert not track.present[12:].any()


def test_a_single_frame_is_a_clip():
    (track,) = track_faces([astronaut()])
    np.testing.assert_allclose(track.landmarks[0], face_points(), atol=2)


def test_no_frames_no_faces():
    assert track_faces([]) == []


def test_the_detector_rests_while_a_face_is_followed(monkeypatch):
    looks = []
    for name in ("detect", "search", "detect_near"):
        real = getattr(FaceDetector, name)

        def counting(self, *given, real=real, name=name):
            looks.append(name)
            return real(self, *given)

        monkeypatch.setattr(FaceDetector, name, counting)
    track_faces([astronaut()] * (SEARCH_EVERY + 1))
    assert looks == ["search", "detect", "detect", "search"]


def test_the_result_is_the_same_every_time():
    frames = list(noisy(astronaut(), sigma=4, count=5))
    (one,), (other,) = track_faces(frames), track_faces(frames)
    np.testing.assert_array_equal(one.points, other.points)


def test_a_canceled_run_stops_at_the_next_frame():
    canceled = threading.Event()

    def frames():
        yield astronaut()
        canceled.set()
        yield astronaut()
        raise AssertionError("read on after the run was canceled")

    with pytest.raises(Canceled):
        track_faces(frames(), monitor=RunMonitor(canceled=canceled))
