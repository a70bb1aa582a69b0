from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from latentsync.media.timeline import Timeline, build_timeline

MS = Fraction(1, 1000)


def timeline(stamps: list[int], last_duration: int = 0) -> Timeline:
    pts = np.array(stamps, np.int64)
    return build_timeline(pts, pts[:1], last_duration, MS)


@pytest.mark.parametrize("jitter_ms", [0, 1, 5, 15])
def test_25_fps_with_jitter_still_maps_frame_by_frame(jitter_ms: int) -> None:
    random = np.random.default_rng(1)
    jitter = random.integers(-jitter_ms, jitter_ms + 1, 100)
    stamps = (np.arange(100) * 40 + jitter - jitter[0]).tolist()
    stamps[-1] = 99 * 40
    assert timeline(stamps, 40).slot_pts.tolist() == stamps


def test_one_frame_of_unknown_length_fills_one_slot() -> None:
    single = timeline([1234])
    assert single.slot_pts.tolist() == [1234]
    assert single.duration_s == 0.04


def test_the_last_frame_is_shown_for_its_whole_length() -> None:
    assert timeline([0, 40], 400).slot_pts.tolist() == [0] + [40] * 10


def test_a_missing_last_length_is_taken_from_the_others() -> None:
    assert timeline([0, 100, 200]).duration_s == pytest.approx(0.3)


def test_a_rest_of_a_tenth_of_a_slot_is_no_picture_however_long_the_video() -> None:
    for count in range(1, 300):
        stamps = list(range(0, count * 40, 40))
        assert timeline(stamps, 44).slot_pts.size == count
        assert timeline(stamps, 45).slot_pts.size == count + 1
