"""Still pictures are told as pictures, by their content; animations are videos."""

from __future__ import annotations

import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentsync import errors
from latentsync.media.pictures import recognise_picture
from latentsync.media.probe import VideoInfo, probe_audio, probe_video
from latentsync.media.reader import VideoReader
from latentsync.settings import Settings
from tests.media.makers import make_video, numbered, read_number


def picture(kind: str, mode: str = "RGB", **options: object) -> bytes:
    file = BytesIO()
    Image.fromarray(numbered(5)).convert(mode).save(file, kind, **options)
    return file.getvalue()


def boxes(brand: bytes, *brands: bytes) -> bytes:
    """Return the beginning of a HEIF picture."""
    kinds = brand + bytes(4) + b"".join((brand, *brands))
    meta = struct.pack(">I4s", 8 + 40, b"meta") + bytes(40)
    data = struct.pack(">I4s", 8 + 100, b"mdat") + bytes(100)
    return struct.pack(">I4s", 8 + len(kinds), b"ftyp") + kinds + meta + data


PICTURES = {
    "JPEG": picture("JPEG"),
    "JPEG progressive": picture("JPEG", progressive=True),
    "JPEG in CMYK": picture("JPEG", "CMYK"),
    "JPEG cut off": picture("JPEG")[:300],
    "PNG": picture("PNG"),
    "GIF": picture("GIF"),
    "WebP": picture("WEBP"),
    "TIFF": picture("TIFF"),
    "BMP": picture("BMP"),
    "ICO": picture("ICO", sizes=[(32, 32)]),
    "AVIF": boxes(b"avif", b"mif1"),
    "HEIC": boxes(b"heic", b"mif1"),
    "HEIF": boxes(b"mif1"),
    "PSD": b"8BPS\0\1" + bytes(100),
    "SVG": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_told_as_one(tmp_path: Path, settings: Settings, name: str) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(PICTURES[name])
    kind = name.split()[0]
    with pytest.raises(errors.NoVideo, match=rf"video is a picture \({kind}\), not a video"):
        probe_video(path, settings, "video")
    with pytest.raises(errors.NoAudio, match=rf"audio is a picture \({kind}\) and holds no sound"):
        probe_audio(path, settings, "audio")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WebP", "HEIC"])
def test_every_beginning_of_a_picture_is_looked_at_without_an_accident(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "beginning"
    for length in range(min(200, len(PICTURES[kind]))):
        path.write_bytes(PICTURES[kind][:length])
        recognise_picture(path)


def test_a_video_with_brands_of_a_picture_is_a_video(tmp_path: Path, settings: Settings) -> None:
    path = make_video(tmp_path / "v.mp4", 5)
    data = path.read_bytes()
    path.write_bytes(data[:8] + b"mif1" + data[12:])
    assert probe_video(path, settings, "video").num_frames == 5


def test_pdf_is_no_medium(tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(b"%PDF-1.7\n" + bytes(200))
    with pytest.raises(errors.UnreadableMedia):
        probe_video(path, settings, "video")


Save = Callable[[Path, list[Image.Image], list[int]], None]


def save(path: Path, pictures: list[Image.Image], durations_ms: list[int]) -> Path:
    first, *others = pictures
    options = {"lossless": True} if path.suffix == ".webp" else {}
    first.save(path, save_all=True, append_images=others, duration=durations_ms, loop=0, **options)
    return path


def shown(path: Path, info: VideoInfo, order: list[int]) -> list[int]:
    return [read_number(frame) for frame in VideoReader(path, info).read(order)]


@pytest.mark.parametrize("suffix", [".webp", ".gif", ".png"])
def test_an_animation_is_a_video(tmp_path: Path, settings: Settings, suffix: str) -> None:
    pictures = [Image.fromarray(numbered(number, 80, 64)) for number in range(10)]
    durations_ms = [40, 80, 40, 40, 120, 40, 40, 40, 200, 40]
    path = save(tmp_path / f"a{suffix}", pictures, durations_ms)
    info = probe_video(path, settings, "video")
    expected = [number for number, ms in enumerate(durations_ms) for _ in range(ms // 40)]
    assert (info.width, info.height, info.warnings) == (80, 64, ())
    assert abs(info.num_frames - len(expected)) <= (suffix == ".png")
    forwards = shown(path, info, list(range(len(expected) - 1)))
    assert forwards == expected[:-1]
    assert shown(path, info, [12, 3, 16, 0, 8]) == [expected[i] for i in (12, 3, 16, 0, 8)]
    assert shown(path, info, list(range(15, -1, -1))) == expected[15::-1]


@pytest.mark.parametrize("suffix", [".webp", ".gif", ".png"])
def test_a_transparent_animation_is_shown_on_black(
    tmp_path: Path, settings: Settings, suffix: str
) -> None:
    pixels = np.full((64, 80, 4), 255, np.uint8)
    pixels[:, :40, 3] = 0
    other = pixels.copy()
    other[:32, 40:, 1] = 0
    path = save(
        tmp_path / f"a{suffix}", [Image.fromarray(pixels), Image.fromarray(other)], [40, 40]
    )
    info = probe_video(path, settings, "video")
    assert [one.code for one in info.warnings] == ["ALPHA_COMPOSITED"]
    [frame] = VideoReader(path, info).read([0])
    assert frame[:, :38].max() < 5
    assert frame[:, 42:].min() > 250


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_cut_animation_is_cut_off(tmp_path: Path, settings: Settings, share: float) -> None:
    pictures = [Image.fromarray(numbered(number, 80, 64)) for number in range(10)]
    path = save(tmp_path / "a.webp", pictures, [40] * 10)
    data = path.read_bytes()
    path.write_bytes(data[: round(len(data) * share)])
    with pytest.raises(errors.TruncatedMedia, match="video is cut off"):
        probe_video(path, settings, "video")


def test_a_huge_canvas_is_refused_before_anything_is_decoded(
    tmp_path: Path, settings: Settings
) -> None:
    pictures = [Image.fromarray(numbered(number, 80, 64)) for number in range(3)]
    path = save(tmp_path / "a.webp", pictures, [40] * 3)
    data = bytearray(path.read_bytes())
    data[24:30] = b"\xff\xff\x00\xff\xff\x00"
    path.write_bytes(data)
    with pytest.raises(errors.PictureTooLarge, match="65536x65536"):
        probe_video(path, settings, "video")
