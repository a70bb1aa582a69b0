"""Segments on the frames of the finished video and in their recordings."""

from __future__ import annotations

import numpy as np
import pytest

from latentsync.errors import InvalidField, MediaTooLong
from latentsync.media.segments import Place, cut_waveform, place_segment, plan_segment_frames
from latentsync.schema.fields import SyncMode
from latentsync.schema.run import Segment
from latentsync.settings import Settings

SETTINGS = Settings(max_duration_s=10)
WAVEFORM = np.arange(1, 32_001, dtype=np.float32)  # two seconds; each sample has its own value


def place(start: int, stop: int, skip_s: float = 0.0, name: str = "segments.0") -> Place:
    return Place(name, start, stop, skip_s)


def test_a_segment_lasts_as_long_as_its_recording() -> None:
    assert place_segment(0, Segment(None, start_s=1.0), 2.0) == place(25, 75)


def test_its_end_may_be_given_and_its_recording_begun_later() -> None:
    segment = Segment(None, start_s=1.0, end_s=1.4, audio_start_s=0.5)
    assert place_segment(3, segment, 2.0) == place(25, 35, 0.5, "segments.3")


@pytest.mark.parametrize("moment", [1.019, 1.02, 1.021, 0.98, 1.9799])
def test_two_segments_that_share_a_moment_share_no_frame(moment: float) -> None:
    before = place_segment(0, Segment(None, end_s=moment), 9.0)
    after = place_segment(1, Segment(None, start_s=moment), 9.0)
    assert before.stop == after.start


@pytest.mark.parametrize("frame", range(40))
def test_moments_that_differ_by_rounding_only_share_no_frame_either(frame: int) -> None:
    between = (frame + 0.5) / 25  # as near to one frame as to the next
    for moment in (np.nextafter(between, 0), between, np.nextafter(between, 9)):
        before = place_segment(0, Segment(None, end_s=float(moment)), 9.0)
        after = place_segment(1, Segment(None, start_s=between), 9.0)
        assert before.stop == max(1, after.start)


@pytest.mark.parametrize("begun_s", [1.0, 1.2, 4.06, 4.46])
def test_one_frame_of_a_recording_is_enough(begun_s: float) -> None:
    segment = Segment(None, audio_start_s=begun_s)
    assert place_segment(0, segment, round(begun_s + 0.04, 2)) == place(0, 1, begun_s)


def test_even_the_shortest_segment_has_a_frame() -> None:
    assert place_segment(0, Segment(None, start_s=0.4, end_s=0.401), 1.0) == place(10, 11)


def test_a_recording_that_is_over_before_it_begins_is_refused() -> None:
    with pytest.raises(InvalidField, match=r"segments\.2\.audio_start_s is 2, but .* lasts 2\.00"):
        place_segment(2, Segment(None, audio_start_s=2.0), 2.0)


def test_frames_hear_their_own_moment_of_the_recording() -> None:
    # Asked for 0.01 s behind frame 25: the frame begins 0.01 s before the recording does.
    late = place_segment(0, Segment(None, start_s=1.01), 2.0)
    heard = cut_waveform(WAVEFORM, late, 1000)
    assert (heard[:160] == 0).all()
    assert heard[160] == 1
    early = place_segment(0, Segment(None, start_s=0.99, audio_start_s=1.0), 2.0)
    assert cut_waveform(WAVEFORM, early, 1000)[0] == 16_000 + 160 + 1


def test_behind_the_recording_and_behind_the_video_there_is_nothing() -> None:
    heard = cut_waveform(WAVEFORM, place(0, 75), 1000)
    assert heard.shape == (75 * 640,)
    assert (heard[32_000:] == 0).all()
    assert cut_waveform(WAVEFORM, place(10, 75), 20).shape == (10 * 640,)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (SyncMode.BOUNCE, [0, 1, 2, 1, 0]),
        (SyncMode.LOOP, [0, 1, 2, 0, 1]),
        (SyncMode.SILENCE, [0, 1, 2, 2, 2]),
        (SyncMode.CUT_OFF, [0, 1, 2]),
    ],
)
def test_the_video_goes_on_behind_its_end_as_the_mode_says(
    mode: SyncMode, expected: list[int]
) -> None:
    assert plan_segment_frames(mode, 3, [place(1, 5)], SETTINGS).tolist() == expected


def test_the_video_plays_to_its_end_without_speech() -> None:
    for mode in (SyncMode.BOUNCE, SyncMode.CUT_OFF):
        assert plan_segment_frames(mode, 50, [place(1, 5)], SETTINGS).tolist() == list(range(50))


def test_a_segment_behind_the_end_of_a_video_that_is_not_extended_is_refused() -> None:
    with pytest.raises(InvalidField, match=r"segments\.0\.start_s is 2, but the video ends at 1 s"):
        plan_segment_frames(SyncMode.CUT_OFF, 25, [place(50, 60)], SETTINGS)


@pytest.mark.parametrize("mode", [SyncMode.BOUNCE, SyncMode.LOOP, SyncMode.SILENCE])
def test_a_segment_behind_the_end_needs_a_mode_that_was_chosen(mode: SyncMode) -> None:
    late = [place(24, 30), place(25, 30, name="segments.1")]
    assert plan_segment_frames(mode, 25, late, SETTINGS).size == 30
    with pytest.raises(InvalidField, match=r"the video ends at 1 s; .*set sync_mode") as refused:
        plan_segment_frames(mode, 25, late, SETTINGS, sync_mode_given=False)
    assert refused.value.field == "segments.1.start_s"
    assert refused.value.message.startswith("segments.1.start_s is 1,")
    assert plan_segment_frames(mode, 25, late[:1], SETTINGS, sync_mode_given=False).size == 30


def test_segments_do_not_make_a_video_longer_than_allowed() -> None:
    plan_segment_frames(SyncMode.LOOP, 25, [place(200, 250)], SETTINGS)
    with pytest.raises(MediaTooLong, match=r"segments\.0 lasts longer than 10 s"):
        plan_segment_frames(SyncMode.LOOP, 25, [place(200, 251)], SETTINGS)


def test_a_crowd_is_refused() -> None:
    crowd = [place(n, 20, name=f"segments.{n}") for n in range(5)]
    plan_segment_frames(SyncMode.LOOP, 25, crowd[:4], SETTINGS)
    with pytest.raises(InvalidField, match=r"segments\.0, .*segments\.4 all speak at 0\.16 s"):
        plan_segment_frames(SyncMode.LOOP, 25, crowd, SETTINGS)
