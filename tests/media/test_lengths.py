from __future__ import annotations

import numpy as np
import pytest

from latentsync.media.timeline import count_frames, plan_frames
from latentsync.schema.fields import SyncMode

SOURCES = [1, 2, 3, 25, 26, 240]
DURATIONS_S = [0.1, 0.36, 0.4, 1.0, 1.01, 3.999, 12.345]


@pytest.mark.parametrize("num_source_frames", SOURCES)
@pytest.mark.parametrize("duration_s", DURATIONS_S)
@pytest.mark.parametrize("mode", list(SyncMode))
def test_every_plan_is_a_plan(mode: SyncMode, num_source_frames: int, duration_s: float) -> None:
    plan = plan_frames(mode, num_source_frames, duration_s)
    audio_frames = count_frames(duration_s)
    expected = {
        SyncMode.CUT_OFF: min(audio_frames, num_source_frames),
        SyncMode.SILENCE: max(audio_frames, num_source_frames),
    }.get(mode, audio_frames)
    assert plan.dtype == np.int64
    assert plan.size == expected
    assert plan[0] == 0
    assert plan.min() >= 0
    assert plan.max() < num_source_frames


@pytest.mark.parametrize("duration_s", DURATIONS_S)
def test_the_frames_cover_the_sound_and_no_more_than_a_frame_beyond(duration_s: float) -> None:
    assert 0 <= count_frames(duration_s) / 25 - duration_s < 0.04 + 1e-6


def test_whole_frames_are_never_rounded_up() -> None:
    for frames in range(1, 400):
        assert count_frames(frames / 25) == frames
        assert count_frames(frames * 640 / 16_000) == frames


def test_bounce_goes_there_and_back_without_repeating_the_ends() -> None:
    plan = plan_frames(SyncMode.BOUNCE, 4, 14 / 25)
    assert plan.tolist() == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1]


@pytest.mark.parametrize("num_source_frames", SOURCES)
def test_bounce_never_jumps(num_source_frames: int) -> None:
    steps = np.diff(plan_frames(SyncMode.BOUNCE, num_source_frames, 20))
    assert set(np.abs(steps).tolist()) == ({0} if num_source_frames == 1 else {1})


def test_loop_starts_again() -> None:
    assert plan_frames(SyncMode.LOOP, 3, 7 / 25).tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_cut_off_ends_with_the_shorter() -> None:
    assert plan_frames(SyncMode.CUT_OFF, 3, 1).tolist() == [0, 1, 2]
    assert plan_frames(SyncMode.CUT_OFF, 9, 2 / 25).tolist() == [0, 1]


def test_silence_holds_the_last_frame() -> None:
    assert plan_frames(SyncMode.SILENCE, 3, 5 / 25).tolist() == [0, 1, 2, 2, 2]
    assert plan_frames(SyncMode.SILENCE, 3, 1 / 25).tolist() == [0, 1, 2]


@pytest.mark.parametrize("num_source_frames", SOURCES)
@pytest.mark.parametrize("duration_s", [1.0, 5.0])
def test_remap_shows_first_and_last_frame_and_goes_only_forward(
    num_source_frames: int, duration_s: float
) -> None:
    plan = plan_frames(SyncMode.REMAP, num_source_frames, duration_s)
    assert (plan[0], plan[-1]) == (0, num_source_frames - 1)
    assert (np.diff(plan) >= 0).all()
    if num_source_frames <= plan.size:
        assert set(plan.tolist()) == set(range(num_source_frames))
