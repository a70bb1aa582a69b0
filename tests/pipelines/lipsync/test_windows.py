from __future__ import annotations

import numpy as np
import pytest

from latentsync.pipelines.lipsync.windows import Window, cut_windows, group_windows


def cut(pattern: str) -> list[Window]:
    """Windows of four frames; an x is a frame with a face."""
    return list(cut_windows(np.array([sign == "x" for sign in pattern]), 4))


def show(windows: list[Window]) -> list[str]:
    return [("x" if window.has_face else "-") * len(window) for window in windows]


@pytest.mark.parametrize(
    ("pattern", "windows"),
    [
        ("x", ["x"]),
        ("-", ["-"]),
        ("xxxx", ["xxxx"]),
        ("xxxxx", ["xxxx", "x"]),
        ("xxxxxxxxxx", ["xxxx", "xxxx", "xx"]),
        ("xx-xxxxx", ["xx", "-", "xxxx", "x"]),
        ("------xx", ["----", "--", "xx"]),
    ],
)
def test_runs_of_frames_with_a_face_are_cut_by_themselves(pattern: str, windows: list[str]) -> None:
    assert show(cut(pattern)) == windows


@pytest.mark.parametrize("pattern", ["xxxxxxxxxxxx", "x-x-xx---xxxxx", "----x"])
def test_windows_cover_every_frame_once(pattern: str) -> None:
    windows = cut(pattern)
    assert [frame for window in windows for frame in range(window.start, window.stop)] == list(
        range(len(pattern))
    )
    assert "".join(show(windows)) == pattern


@pytest.mark.parametrize("most", [1, 2, 3])
def test_groups_keep_the_order_and_hold_equal_windows(most: int) -> None:
    windows = cut("xxxxxxxxxxxxxx--xxxxxxxxx")
    groups = list(group_windows(windows, most))
    assert [window for group in groups for window in group] == windows
    assert max(map(len, groups)) == most
    for group in groups:
        assert len({(len(window), window.has_face) for window in group}) == 1


def test_a_short_tail_and_frames_without_a_face_go_alone() -> None:
    groups = list(group_windows(cut("xxxxxxxxx----xxxx"), 8))
    assert [show(list(group)) for group in groups] == [["xxxx", "xxxx"], ["x"], ["----"], ["xxxx"]]
