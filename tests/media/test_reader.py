from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from latentsync.media import reader as reader_module
from latentsync.media.probe import probe_video
from latentsync.media.reader import VideoReader
from latentsync.settings import Settings
from tests.media.makers import make_video, numbered, read_number


def open_reader(path: Path, settings: Settings) -> VideoReader:
    return VideoReader(path, probe_video(path, settings, "video"))


def numbers(reader: VideoReader, indices: list[int] | None = None) -> list[int]:
    wanted = range(reader.num_frames) if indices is None else indices
    return [read_number(frame) for frame in reader.read(wanted)]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov", "ts", "flv"])
@pytest.mark.parametrize("num_frames", [1, 26])
def test_25_fps_maps_frame_by_frame(
    tmp_path: Path, settings: Settings, suffix: str, num_frames: int
) -> None:
    reader = open_reader(make_video(tmp_path / f"v.{suffix}", num_frames), settings)
    assert numbers(reader) == list(range(num_frames))


@pytest.mark.parametrize(
    ("suffix", "codec", "quality"),
    [
        ("avi", "mpeg4", {"qmin": 1, "qmax": 2}),
        ("mpg", "mpeg2video", {"qmin": 1, "qmax": 2}),
        ("webm", "libvpx", {"bit_rate": 2_000_000}),
        ("gif", "gif", {}),
    ],
)
def test_other_containers_and_codecs_map_frame_by_frame(
    tmp_path: Path, settings: Settings, suffix: str, codec: str, quality: dict[str, int]
) -> None:
    pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
    path = make_video(tmp_path / f"v.{suffix}", 20, codec=codec, pix_fmt=pix_fmt, **quality)
    reader = open_reader(path, settings)
    assert numbers(reader) == list(range(20))
    assert numbers(reader, list(range(19, -1, -1))) == list(range(19, -1, -1))


@pytest.mark.parametrize(
    "fps",
    [12, Fraction(24000, 1001), 24, Fraction(30000, 1001), 30, 50, Fraction(60000, 1001), 60],
    ids=str,
)
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_other_rates_keep_their_speed(
    tmp_path: Path, settings: Settings, fps: Fraction | int, suffix: str
) -> None:
    num_frames = 2 * math.ceil(fps)
    reader = open_reader(make_video(tmp_path / f"v.{suffix}", num_frames, fps=fps), settings)
    assert reader.num_frames == math.ceil(num_frames / fps * 25 - 0.1)
    shown_s = [number / float(fps) for number in numbers(reader)]
    middle_s = [(slot + 0.5) / 25 for slot in range(reader.num_frames)]
    for start_s, moment_s in zip(shown_s, middle_s, strict=True):
        late_s = moment_s - start_s
        is_last = start_s == (num_frames - 1) / float(fps)
        assert -0.002 <= late_s <= 1 / float(fps) + 0.002 or is_last


def test_variable_rate_shows_each_frame_for_its_own_time(
    tmp_path: Path, settings: Settings
) -> None:
    stamps = [0, 40, 80, 400, 408, 415, 1000]
    path = make_video(tmp_path / "v.mkv", stamps_ms=stamps)
    info = probe_video(path, settings, "video")
    shown = numbers(VideoReader(path, info))
    assert shown[:3] == [0, 1, 2]
    assert shown[3:10] == [2] * 7  # held from 80 to 400 ms
    assert shown[10:24] == [5] * 14  # 400 and 408 are gone again before the slot's middle
    assert shown[25] == 6


def test_time_starts_at_the_first_frame(tmp_path: Path, settings: Settings) -> None:
    path = make_video(tmp_path / "v.mkv", stamps_ms=range(5000, 5400, 40))
    assert numbers(open_reader(path, settings)) == list(range(10))


@pytest.mark.parametrize("gop", [1, 7, 250])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_any_order_gives_the_same_frames(
    tmp_path: Path, settings: Settings, gop: int, suffix: str
) -> None:
    path = make_video(
        tmp_path / f"v.{suffix}", 30, gop=gop, options={"preset": "veryfast", "bf": "3"}
    )
    reader = open_reader(path, settings)
    bounce = [*range(30), *range(28, -1, -1), *range(1, 12)]
    jumps = [29, 0, 0, 15, 14, 14, 13, 3, 28, 27, 1, 1, 2, 5]
    assert numbers(reader, bounce) == bounce
    assert numbers(reader, jumps) == jumps


def test_reading_backwards_on_a_tiny_budget_gives_the_same_frames(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_video(tmp_path / "v.mp4", 40, gop=250)
    monkeypatch.setattr(reader_module, "_HELD_BYTES", 5 * 64 * 64 * 2)
    falling = list(range(39, -1, -1))
    assert numbers(open_reader(path, settings), falling) == falling


def test_backwards_decodes_each_group_of_pictures_about_once(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = itertools.count()
    original = reader_module._Cursor._next

    def counting(cursor: reader_module._Cursor) -> object:
        next(decoded)
        return original(cursor)

    monkeypatch.setattr(reader_module._Cursor, "_next", counting)
    reader = open_reader(make_video(tmp_path / "v.mp4", 60, gop=12), settings)
    assert numbers(reader, list(range(59, -1, -1))) == list(range(59, -1, -1))
    assert next(decoded) <= 2 * 60


def test_reading_twice_at_once_is_independent(tmp_path: Path, settings: Settings) -> None:
    reader = open_reader(make_video(tmp_path / "v.mp4", 20), settings)
    pairs = zip(reader.read(range(20)), reader.read(range(19, -1, -1)), strict=True)
    assert [(read_number(a), read_number(b)) for a, b in pairs] == [
        (index, 19 - index) for index in range(20)
    ]


def test_a_frame_may_be_painted_over_without_touching_its_repetition(
    tmp_path: Path, settings: Settings
) -> None:
    reader = open_reader(make_video(tmp_path / "v.mp4", 3), settings)
    frames = reader.read([1, 1])
    first = next(frames)
    first[:] = 0
    assert read_number(next(frames)) == 1


def test_a_number_outside_the_video_is_refused(tmp_path: Path, settings: Settings) -> None:
    reader = open_reader(make_video(tmp_path / "v.mp4", 3), settings)
    for index in (3, -1):
        with pytest.raises(IndexError, match="3 frames"):
            list(reader.read([index]))


def corners(number: int, width: int, height: int) -> np.ndarray:
    """Red top left, green top right, blue bottom left."""
    picture = np.zeros((height, width, 3), np.uint8)
    half_x, half_y = width // 2, height // 2
    picture[:half_y, :half_x, 0] = 255
    picture[:half_y, half_x:, 1] = 255
    picture[half_y:, :half_x, 2] = 255
    return picture


@pytest.mark.parametrize(
    ("display", "turn"),
    [
        ((90,), lambda p: np.rot90(p, 1)),
        ((-90,), lambda p: np.rot90(p, -1)),
        ((180,), lambda p: np.rot90(p, 2)),
        ((0, True), lambda p: p[:, ::-1]),
        ((0, False, True), lambda p: p[::-1]),
    ],
)
def test_the_display_matrix_turns_the_picture_upright(
    tmp_path: Path, settings: Settings, display: tuple[object, ...], turn: object
) -> None:
    path = make_video(tmp_path / "v.mp4", 2, size=(96, 64), paint=corners, display=display)
    reader = open_reader(path, settings)
    expected = turn(corners(0, 96, 64))  # type: ignore[operator]
    frame = next(reader.read([0]))
    assert frame.shape == expected.shape == (reader.height, reader.width, 3)
    assert frame.flags.c_contiguous
    assert frame.flags.writeable
    assert np.abs(frame.astype(int) - expected).mean() < 12


def test_odd_sizes_stay_as_they_are(tmp_path: Path, settings: Settings) -> None:
    path = make_video(tmp_path / "v.mkv", 3, size=(641, 359), codec="ffv1", pix_fmt="yuv444p")
    reader = open_reader(path, settings)
    assert (reader.width, reader.height) == (641, 359)
    assert [frame.shape for frame in reader.read([0, 2])] == [(359, 641, 3)] * 2


@pytest.mark.parametrize(
    ("aspect", "size"), [(Fraction(2), (128, 64)), (Fraction(1, 2), (64, 128))], ids=str
)
def test_pixels_become_square(
    tmp_path: Path, settings: Settings, aspect: Fraction, size: tuple[int, int]
) -> None:
    reader = open_reader(make_video(tmp_path / "v.mp4", 2, aspect=aspect), settings)
    assert (reader.width, reader.height) == size
    assert next(reader.read([1])).shape == (size[1], size[0], 3)


@pytest.mark.parametrize(
    ("pix_fmt", "codec"),
    [
        ("yuv420p", "libx264"),
        ("yuvj420p", "libx264"),
        ("yuv420p10le", "libx264"),
        ("yuv444p", "libx264"),
        ("bgra", "ffv1"),
        ("rgb24", "qtrle"),
    ],
)
@pytest.mark.parametrize("matrix", [1, 5, 6, 9])
def test_colours_come_back_whatever_the_format(
    tmp_path: Path, settings: Settings, pix_fmt: str, codec: str, matrix: int
) -> None:
    colour = (200, 80, 40)
    source = np.full((64, 64, 3), colour, np.uint8)
    is_full = pix_fmt == "yuvj420p"
    path = tmp_path / ("v.mov" if codec == "qtrle" else "v.mkv")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = pix_fmt
        if codec == "libx264":
            stream.options = {"crf": "1"}
        if pix_fmt.startswith("yuv"):
            stream.codec_context.colorspace = matrix
            stream.codec_context.color_range = 2 if is_full else 1
        frame = VideoReformatter().reformat(
            av.VideoFrame.from_ndarray(source),
            format=pix_fmt,
            dst_colorspace={1: 1, 5: 5, 6: 5, 9: 9}[matrix],
            dst_color_range=2 if is_full else 1,
        )
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    seen = next(open_reader(path, settings).read([0]))
    assert np.abs(seen.astype(int) - colour).max() <= 5


def test_unmarked_colours_are_taken_by_the_size_of_the_picture(
    tmp_path: Path, settings: Settings
) -> None:
    small = make_video(tmp_path / "small.mp4", 1)
    large = make_video(tmp_path / "large.mp4", 1, size=(1280, 720))
    assert probe_video(small, settings, "video").colour.matrix == 6
    assert probe_video(large, settings, "video").colour.matrix == 1


def test_a_damaged_frame_shows_as_the_one_before_it(tmp_path: Path, settings: Settings) -> None:
    path = make_video(
        tmp_path / "v.avi", 12, codec="mjpeg", pix_fmt="yuvj420p", color_range=2, qmin=1, qmax=3
    )
    data = bytearray(path.read_bytes())
    starts = [i for i in range(len(data) - 3) if data[i : i + 3] == b"\xff\xd8\xff"]
    data[starts[5] : starts[6] - 8] = bytes(starts[6] - 8 - starts[5])
    path.write_bytes(data)
    reader = open_reader(path, settings)
    assert numbers(reader) == [0, 1, 2, 3, 4, 4, 6, 7, 8, 9, 10, 11]
    assert numbers(reader, [7, 6, 5, 5, 4, 3]) == [7, 6, 4, 4, 4, 3]


def test_the_numbers_painted_by_the_test_itself_can_be_read() -> None:
    assert [read_number(numbered(number)) for number in (0, 5, 1023)] == [0, 5, 1023]


def test_two_threads_may_read_at_once(tmp_path: Path, settings: Settings) -> None:
    path = make_video(tmp_path / "v.mp4", 100, size=(320, 240))
    reader = VideoReader(path, probe_video(path, settings, "video"))
    orders = [list(range(100)), list(reversed(range(100)))] * 2

    def read(order: list[int]) -> list[int]:
        return [read_number(frame) for frame in reader.read(order)]

    with ThreadPoolExecutor(len(orders)) as threads:
        assert list(threads.map(read, orders)) == orders
