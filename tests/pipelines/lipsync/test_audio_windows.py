import numpy as np
import pytest

from latentsync.pipelines.lipsync.audio_features import (
    Window,
    count_rows,
    count_slices,
    plan_windows,
    slice_rows,
)


@pytest.mark.parametrize("num_rows", [1, 2, 3, 50, 51, 1550])
def test_at_25_fps_there_are_about_two_frames_more_than_sound(num_rows):
    assert count_slices(num_rows) == num_rows // 2 + 2


def test_frames_beyond_the_sound_hear_its_last_row():
    assert np.all(slice_rows(np.array([500]), 20) == 19)


def test_frames_may_come_in_any_order():
    forward = slice_rows(np.arange(20), 40)
    np.testing.assert_array_equal(slice_rows(np.arange(20)[::-1], 40), forward[::-1])


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="no row"):
        slice_rows(np.arange(3), 0)


@pytest.mark.parametrize(
    ("columns", "windows"),
    [
        (2, [Window(0, 2)]),
        (3000, [Window(0, 3000)]),
        (3001, [Window(0, 3000)]),  # one column makes no row
        (6003, [Window(0, 3000), Window(3000, 6000), Window(6000, 6003)]),
    ],
)
def test_windows_follow_each_other(columns, windows):
    assert list(plan_windows(columns)) == windows


@pytest.mark.parametrize(
    ("columns", "rows"), [(1, 0), (2, 1), (337, 168), (3100, 1550), (3001, 1500)]
)
def test_two_columns_make_a_row(columns, rows):
    assert count_rows(columns) == rows
