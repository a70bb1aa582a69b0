import numpy as np
import pytest

from latentsync.errors import InvalidField, NoFace
from latentsync.face.speaker import Choice, choose_speaker
from latentsync.schema.fields import SpeakerBox, SpeakerPoint
from tests.face.tracks import make_track, still

LARGE = make_track(still(20, scale=1.5))  # box about 119, 104, 261, 266
SMALL = make_track(still(20, x=300), num_frames=20)  # box about 379, 69, 474, 177
LATE = make_track(still(10, y=300), frames=np.arange(10, 20))  # box about 79, 369, 174, 477
TRACKS = [SMALL, LARGE, LATE]


def _choose(speaker, tracks=TRACKS):
    return tracks[choose_speaker(tracks, Choice(speaker), 20)]


def test_auto_takes_the_largest_face():
    assert _choose("auto") is LARGE


def test_auto_prefers_a_face_that_stays():
    briefly = make_track(still(3, scale=2), num_frames=20)
    assert _choose("auto", [briefly, SMALL]) is SMALL


def test_auto_prefers_a_face_that_keeps_still():
    fidget = still(20, scale=1.05)
    fidget[::2, :, 0] += 40
    assert _choose("auto", [make_track(fidget), SMALL]) is SMALL


@pytest.mark.parametrize(
    ("point", "expected"),
    [((426, 120), SMALL), ((190, 180), LARGE), ((480, 180), SMALL), ((130, 420), LATE)],
)
def test_a_point_takes_the_face_around_it_or_beside_it(point, expected):
    assert _choose(SpeakerPoint(frame=15, point=point)) is expected


def test_a_point_within_two_faces_takes_the_one_whose_middle_is_nearer():
    neighbour = make_track(still(20, x=60, scale=1.5))
    assert _choose(SpeakerPoint(frame=0, point=(240, 180)), [LARGE, neighbour]) is neighbour


def test_a_box_takes_the_face_that_fills_it_best():
    assert _choose(SpeakerBox(frame=15, box=(370, 60, 480, 190))) is SMALL
    assert _choose(SpeakerBox(frame=15, box=(100, 100, 300, 300))) is LARGE


def test_a_point_far_from_every_face_is_refused_with_the_faces_there():
    with pytest.raises(InvalidField) as caught:
        _choose(SpeakerPoint(frame=3, point=(900, 20)))
    assert caught.value.field == "speaker"
    assert "speaker.point [900, 20] matches no usable face in frame 3" in caught.value.message
    assert caught.value.message.count("[") == 3  # the point and the two faces of that frame


def test_a_box_beside_every_face_is_refused():
    with pytest.raises(InvalidField, match=r"speaker\.box \[600, 0, 700, 90\] matches no usable"):
        _choose(SpeakerBox(frame=3, box=(600, 0, 700, 90)))


def test_the_message_for_a_frame_without_faces():
    with pytest.raises(InvalidField, match="in frame 2: there is none"):
        _choose(SpeakerPoint(frame=2, point=(100, 400)), [LATE])


def test_a_frame_beyond_the_clip_is_refused_with_the_allowed_range():
    with pytest.raises(InvalidField) as caught:
        _choose(SpeakerPoint(frame=20, point=(0, 0)))
    assert caught.value.message == (
        "speaker.frame is 20, but the video has 20 frames (allowed: 0 to 19)."
    )


def test_a_clip_without_faces_says_in_how_many_frames_it_looked():
    with pytest.raises(NoFace) as caught:
        choose_speaker([], Choice(), 125)
    assert caught.value.message == "No usable face in any of the 125 frames."
    with pytest.raises(NoFace, match="No usable face in the only frame"):
        choose_speaker([], Choice(SpeakerPoint(frame=0, point=(1, 1))), 1)
