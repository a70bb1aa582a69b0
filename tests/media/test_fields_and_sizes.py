"""Interlaced fields become whole frames, and frames of other sizes keep their shape."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from latentsync.media.probe import dump_info, load_video_info, probe_video
from latentsync.media.reader import VideoReader
from latentsync.settings import Settings
from tests.media.field_pairs import write_field_pairs
from tests.media.makers import Picture, make_video

INTERLACED = {"x264-params": "tff=1"}


SPEED = 2  # pixels that the bar moves from field to field


def moving_bar(number: int, width: int, height: int) -> Picture:
    """Paint a bar at two moments, one in every second row."""
    picture = np.full((height, width, 3), 20, np.uint8)
    for field in range(2):
        start = SPEED * (2 * number + field)
        picture[field::2, start : start + 16] = 235
    return picture


def bar_starts(frame: Picture) -> list[float]:
    """Return where the bar starts in the even rows and in the odd ones, to fractions of a pixel."""
    light = np.clip((frame[8:-8].mean(axis=-1) - 20) / 215, 0, 1)
    columns = np.arange(frame.shape[1]) + 0.5
    return [float((rows @ columns).sum() / rows.sum() - 8) for rows in (light[::2], light[1::2])]


@pytest.mark.parametrize("suffix", ["mp4", "ts", "mkv"])
def test_an_interlaced_video_shows_one_moment_in_a_frame(
    tmp_path: Path, settings: Settings, suffix: str
) -> None:
    path = make_video(
        tmp_path / f"a.{suffix}", 24, size=(128, 96), paint=moving_bar, options=INTERLACED
    )
    info = probe_video(path, settings, "video")
    info = load_video_info(dump_info(info), settings)
    reader = VideoReader(path, info)
    forwards = list(reader.read(range(24)))
    assert reader.has_deinterlaced
    first = round(bar_starts(forwards[0])[0])
    assert first in (0, SPEED)  # of the field that the encoder calls the first
    for number, frame in enumerate(forwards):
        moment = first + SPEED * 2 * number
        assert bar_starts(frame) == pytest.approx([moment, moment], abs=0.7)
    backwards = list(reader.read(reversed(range(24))))[::-1]
    for there, back in zip(forwards, backwards, strict=True):
        assert bar_starts(back) == pytest.approx(bar_starts(there), abs=0.7)


def test_separately_coded_fields_are_one_frame(tmp_path: Path, settings: Settings) -> None:
    path = write_field_pairs(tmp_path / "a.ts", range(20, 220, 4))
    info = probe_video(path, settings, "video")
    assert info.timeline.fps == pytest.approx(25)
    assert info.num_frames in (50, 51)  # FFmpeg gives the last field a time of its own
    reader = VideoReader(path, info)
    seen = [float(frame.mean()) for frame in reader.read(range(50))]
    expected = [(luma - 16) * 255 / 219 for luma in range(20, 220, 4)]
    assert seen == pytest.approx(expected, abs=2)
    assert reader.has_deinterlaced


def test_a_progressive_video_is_not_filtered(tmp_path: Path, settings: Settings) -> None:
    path = make_video(tmp_path / "a.mp4")
    reader = VideoReader(path, probe_video(path, settings, "video"))
    assert len(list(reader.read(range(10)))) == 10
    assert not reader.has_deinterlaced


def test_frames_of_other_shapes_are_fitted(tmp_path: Path, settings: Settings) -> None:
    """A call that is recorded starts small, and its window is turned on the way."""
    parts = [
        make_video(tmp_path / f"{number}.ts", 10, size=size, paint=white)
        for number, size in enumerate([(96, 64), (192, 128), (64, 96)])
    ]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    info = probe_video(path, settings, "video")
    reader = VideoReader(path, info)
    frames = list(reader.read(range(info.num_frames)))
    assert info.num_frames == 30
    assert {frame.shape for frame in frames} == {(64, 96, 3)}
    assert reader.other_sizes == [(64, 96), (192, 128)]
    assert min(frame.min() for frame in frames[:20]) > 200
    for turned in frames[21:]:
        columns = np.flatnonzero(turned[32].mean(axis=-1) > 128)
        assert columns.size == pytest.approx(64 * 64 / 96, abs=2)
        assert columns.mean() == pytest.approx(47.5, abs=1)


def white(_: int, width: int, height: int) -> Picture:
    return np.full((height, width, 3), 235, np.uint8)


def test_wide_pixels_are_no_other_size(tmp_path: Path, settings: Settings) -> None:
    path = make_video(tmp_path / "a.mp4", size=(96, 64), aspect=Fraction(4, 3), paint=white)
    info = probe_video(path, settings, "video")
    reader = VideoReader(path, info)
    frames = list(reader.read(range(info.num_frames)))
    assert reader.other_sizes == []
    assert frames[0].shape == (64, 128, 3)
    assert frames[0].min() > 200
