"""Colours of sources: high dynamic range is mapped to BT.709, transparency is shown on black."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from latentsync.media.probe import VideoInfo, probe_video
from latentsync.media.reader import VideoReader
from latentsync.media.tone import HLG, PQ, nits_to_pq, pq_to_nits, roll_off
from latentsync.settings import Settings

BT2020 = 9


def make_hdr(path: Path, luma: np.ndarray, transfer: int) -> Path:
    """Write a 10-bit video of grey pixels; ``luma`` is uint16 (height, width) in limited range."""
    height, width = luma.shape
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p10le"
        context = stream.codec_context
        context.color_range, context.colorspace = 1, BT2020
        context.color_primaries, context.color_trc = BT2020, transfer
        frame = av.VideoFrame(width, height, "yuv420p10le")
        for plane, values in zip(
            frame.planes, (luma, *[np.full((height // 2, width // 2), 512)] * 2), strict=True
        ):
            rows = np.zeros((plane.height, plane.line_size // 2), "<u2")
            rows[:, : values.shape[1]] = values
            plane.update(rows.tobytes())
        frame.colorspace, frame.color_primaries, frame.color_trc = BT2020, BT2020, transfer
        frame.color_range = 1
        for number in range(2):
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def first_frame(path: Path, settings: Settings) -> tuple[VideoInfo, np.ndarray]:
    info = probe_video(path, settings, "video")
    [frame] = VideoReader(path, info).read([0])
    return info, frame


def limited(signal: float) -> int:
    return round(64 + 876 * signal)


@pytest.mark.parametrize(("transfer", "name"), [(PQ, "PQ"), (HLG, "HLG")])
def test_a_ramp_of_greys_stays_grey_smooth_and_rising(
    tmp_path: Path, settings: Settings, transfer: int, name: str
) -> None:
    ramp = np.tile(np.linspace(64, 940, 512).round().astype(np.uint16), (64, 1))
    info, frame = first_frame(make_hdr(tmp_path / "v.mkv", ramp, transfer), settings)
    row = frame[32].astype(int)
    assert (np.ptp(row, axis=1) <= 1).all(), "greys stay neutral"
    assert (np.diff(row[:, 1]) >= 0).all()
    assert np.diff(row[:, 1]).max() <= 5, "no bands"
    assert row[0].max() == 0
    assert row[-1].min() >= 253
    [warning] = info.warnings
    assert warning.code == "TONE_MAPPED"
    assert name in warning.message
    written = info.colour.written
    assert (written.matrix, written.primaries, written.transfer) == (1, 1, 1)


def test_white_of_203_nits_is_bright_and_1000_nits_are_white(
    tmp_path: Path, settings: Settings
) -> None:
    levels = [limited(float(nits_to_pq(np.array(nits)))) for nits in (0.0, 18.0, 203.0, 1000.0)]
    patches = np.repeat(np.array(levels, np.uint16), 32)[None].repeat(64, axis=0)
    _, frame = first_frame(make_hdr(tmp_path / "v.mkv", patches, PQ), settings)
    black, grey, white, brightest = (int(frame[32, 16 + 32 * patch, 1]) for patch in range(4))
    assert black == 0
    # As they would be without a roll-off: a signal of (nits / 203) ** (1 / 2.4).
    assert grey == pytest.approx(255 * (18 / 203) ** (1 / 2.4), abs=2)
    assert 220 <= white <= 240
    assert brightest >= 254


def test_the_curve_keeps_dark_luminances_and_ends_at_white() -> None:
    nits = np.array([0.0, 1.0, 50.0, 1000.0])
    assert roll_off(nits) == pytest.approx([0.0, 1.0, 50.0, 203.0], rel=0.01, abs=0.01)
    assert pq_to_nits(nits_to_pq(nits)) == pytest.approx(nits, rel=1e-6, abs=1e-6)


ALPHA = [
    ("v.webm", "libvpx-vp9", "yuva420p"),
    ("v.webm", "libvpx", "yuva420p"),
    ("v.mov", "prores_ks", "yuva444p10le"),
    ("v.mov", "qtrle", "argb"),
    ("v.mov", "png", "rgba"),
    ("v.mkv", "ffv1", "yuva420p"),
]


def make_transparent(path: Path, codec: str, pix_fmt: str, opacity: int) -> Path:
    """Write white pictures whose left half has an opacity of 0..255."""
    pixels = np.full((64, 96, 4), 255, np.uint8)
    pixels[:, :48, 3] = opacity
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, pix_fmt
        if codec.startswith("libvpx"):
            stream.options = {"auto-alt-ref": "0"}
        for number in range(6):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgba").reformat(format=pix_fmt)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("name", "codec", "pix_fmt"), ALPHA)
def test_transparent_pixels_are_shown_on_black(
    tmp_path: Path, settings: Settings, name: str, codec: str, pix_fmt: str
) -> None:
    path = make_transparent(tmp_path / name, codec, pix_fmt, opacity=0)
    info = probe_video(path, settings, "video")
    assert [one.code for one in info.warnings] == ["ALPHA_COMPOSITED"]
    for frame in VideoReader(path, info).read([0, 5, 4, 1]):
        assert frame[:, :44].max() < 8
        assert frame[:, 52:].min() > 245


def test_half_transparent_pixels_are_half_as_bright(tmp_path: Path, settings: Settings) -> None:
    path = make_transparent(tmp_path / "v.mov", "png", "rgba", opacity=128)
    _, frame = first_frame(path, settings)
    assert frame[:, :48].mean() == pytest.approx(128, abs=1)


def test_an_opaque_video_with_room_for_transparency_needs_no_warning(
    tmp_path: Path, settings: Settings
) -> None:
    path = make_transparent(tmp_path / "v.mov", "png", "rgba", opacity=255)
    assert not probe_video(path, settings, "video").warnings
