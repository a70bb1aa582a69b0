"""Media analysis in a child process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import av
import numpy as np
import pytest

from latentsync.errors import CodecFailed, DeadlineExceeded, UnreadableMedia
from latentsync.ui.analysis import measure_curves, preview_faces, run_module
from tests.server.clips import write_clip

pytestmark = pytest.mark.processes

ASSETS = Path(__file__).resolve().parents[2] / "assets"


def test_a_preview_has_the_faces_in_pixels_of_the_video(tmp_path: Path) -> None:
    target = tmp_path / "preview.jpg"
    preview = asyncio.run(preview_faces(ASSETS / "demo_video.mp4", 1.0, target))
    assert preview.frame == preview.num_frames - 1
    assert preview.face_at(256, 300) == 0
    assert preview.face_at(5, 5) is None
    with av.open(target) as picture:
        assert next(picture.decode(video=0)).to_ndarray(format="rgb24").shape == (512, 512, 3)


def test_a_large_picture_is_shown_smaller(tmp_path: Path) -> None:
    video = write_clip(tmp_path / "wide.mp4", width=1920, height=64)
    preview = asyncio.run(preview_faces(video, 0.0, tmp_path / "preview.jpg"))
    assert preview.scale == 0.5
    assert preview.faces == []


def test_the_curves_are_loudness_and_lip_gap(tmp_path: Path) -> None:
    video = tmp_path / "talks.mp4"
    _copy_with_sound(ASSETS / "demo_video.mp4", video, frames=10)
    curves = asyncio.run(measure_curves(video))
    assert len(curves.gaps) == 10
    assert all(gap is not None and 0 <= gap < 0.1 for gap in curves.gaps)  # her lips are closed
    assert max(curves.peaks) == pytest.approx(0.5, abs=0.1)


def test_the_error_for_a_file_that_is_no_video_has_no_path(tmp_path: Path) -> None:
    text = tmp_path / "secret-place.mp4"
    text.write_text("no video")
    with pytest.raises(UnreadableMedia) as caught:
        asyncio.run(preview_faces(text, 0.0, tmp_path / "preview.jpg"))
    assert "secret-place" not in caught.value.message


def test_a_child_that_dies_is_a_codec_failure() -> None:
    with pytest.raises(CodecFailed):
        asyncio.run(run_module("latentsync.no_such_module", timeout_s=20))


def test_a_child_that_takes_too_long_is_ended() -> None:
    with pytest.raises(DeadlineExceeded, match=r"0\.2 s"):
        asyncio.run(run_module("http.server", "0", timeout_s=0.2))


def _copy_with_sound(source: Path, target: Path, *, frames: int) -> None:
    with av.open(source) as read, av.open(target, "w") as written:
        pictures = written.add_stream("libx264", rate=25)
        pictures.width = pictures.height = 512
        pictures.pix_fmt = "yuv420p"
        sound = written.add_stream("aac", rate=16_000, layout="mono")
        for number, frame in enumerate(read.decode(video=0)):
            if number == frames:
                break
            copied = av.VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24"), format="rgb24")
            written.mux(pictures.encode(copied))
        written.mux(pictures.encode(None))
        wave = 0.5 * np.sin(np.arange(640 * frames) / 10, dtype=np.float32)
        block = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        block.sample_rate = 16_000
        written.mux(sound.encode(block))
        written.mux(sound.encode(None))
