from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import av
import numpy as np
import pytest
from av.container import OutputContainer

from latentsync import errors
from latentsync.formats import Frame
from latentsync.media.colour import Colour
from latentsync.media.sound import Block, Sound, to_block
from latentsync.media.writer import write_video
from latentsync.monitor import RunMonitor
from tests.media.makers import numbered, read_number, tone

SD = Colour(matrix=6)


def flashes(num_frames: int, at: int, size: tuple[int, int] = (64, 64)) -> Iterator[Frame]:
    for index in range(num_frames):
        yield np.full((size[1], size[0], 3), 255 if index == at else 0, np.uint8)


def click(at_s: float, duration_s: float, rate: int, channels: int) -> Block:
    samples = np.zeros((channels, round(duration_s * rate)), np.float32)
    start = round(at_s * rate)
    samples[:, start : start + rate // 200] = 0.8
    return samples


def write(
    path: Path,
    frames: Iterator[Frame],
    sound: Sound | None = None,
    *,
    num_frames: int,
    size: tuple[int, int] = (64, 64),
    colour: Colour = SD,
    monitor: RunMonitor | None = None,
) -> Path:
    write_video(
        path,
        frames,
        sound or Sound(iter([tone(num_frames / 25, 16_000)]), 16_000, "mono"),
        num_frames=num_frames,
        width=size[0],
        height=size[1],
        colour=colour,
        monitor=monitor or RunMonitor(),
    )
    return path


def decoded_sound(path: Path) -> tuple[np.ndarray, int]:
    """Return what a player hears from time zero on: (channels, samples) and their rate."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        frames = list(container.decode(stream))
        packer = av.AudioResampler("flt", stream.layout, stream.rate)
        packed = [part.to_ndarray() for frame in frames for part in packer.resample(frame)]
        samples = np.concatenate(packed, axis=1).reshape(-1, stream.layout.nb_channels).T
        return samples[:, -round(frames[0].time * stream.rate) :] if frames[
            0
        ].time < 0 else samples, stream.rate


@pytest.mark.parametrize(
    ("rate", "layout"),
    [
        (8_000, "mono"),
        (16_000, "mono"),
        (22_050, "mono"),
        (44_100, "mono"),
        (44_100, "stereo"),
        (48_000, "mono"),
        (48_000, "5.1"),
        (48_000, "7.1"),
        (192_000, "mono"),
    ],
)
def test_sound_and_picture_are_in_step(tmp_path: Path, rate: int, layout: str) -> None:
    channels = av.AudioLayout(layout).nb_channels
    sound = Sound(iter([click(1.0, 2.0, rate, channels)]), rate, layout)
    path = write(tmp_path / "o.mp4", flashes(50, at=25), sound, num_frames=50)
    with av.open(str(path)) as container:
        times = {
            frame.time: frame.to_ndarray(format="gray").mean()
            for frame in container.decode(video=0)
        }
    flash_s = max(times, key=lambda moment: times[moment])
    samples, written_rate = decoded_sound(path)
    level = np.abs(samples).max(axis=0)
    click_s = int(np.argmax(level > 0.4 * level.max())) / written_rate
    assert flash_s == 1.0
    assert abs(click_s - flash_s) < 0.010
    assert samples.shape[0] == channels
    assert written_rate == min(rate, 96_000)


@pytest.mark.parametrize("sound_s", [0.02, 0.9, 1.0, 3.0])
@pytest.mark.parametrize("rate", [8_000, 11_025, 48_000])
def test_sound_and_picture_end_together(tmp_path: Path, sound_s: float, rate: int) -> None:
    sound = Sound(iter([tone(sound_s, rate)]), rate, "mono")
    path = write(tmp_path / "o.mp4", flashes(25, at=3), sound, num_frames=25)
    with av.open(str(path)) as container:
        lengths = {s.type: float(s.duration * s.time_base) for s in container.streams}
        assert [stream.start_time for stream in container.streams] == [0, 0]
    assert lengths["video"] == 1.0
    assert lengths["audio"] == pytest.approx(1.0, abs=0.002)
    samples, rate = decoded_sound(path)
    assert np.abs(samples[:, : int(min(sound_s, 1) * rate)]).max() > 0.3
    assert np.abs(samples[:, int((sound_s + 0.15) * rate) :]).max(initial=0) < 0.02


def test_every_frame_is_written_in_order(tmp_path: Path) -> None:
    frames = (numbered(index) for index in range(120))
    path = write(tmp_path / "o.mp4", frames, num_frames=120)
    with av.open(str(path)) as container:
        shown = [read_number(f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 25
    assert shown == list(range(120))


def test_the_index_comes_first(tmp_path: Path) -> None:
    data = write(tmp_path / "o.mp4", flashes(5, 1), num_frames=5).read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (
        write(tmp_path / name, (numbered(i) for i in range(30)), num_frames=30).read_bytes()
        for name in ("a.mp4", "b.mp4")
    )
    assert first == second


@pytest.mark.parametrize("size", [(641, 359), (640, 359), (641, 360)])
def test_odd_sides_grow_by_one_pixel_that_repeats_the_edge(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    picture[:, -9:] = 255
    picture[-9:] = 255
    path = write(tmp_path / "o.mp4", iter([picture]), num_frames=1, size=size)
    with av.open(str(path)) as container:
        seen = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert seen.shape == (360, 642 if size[0] == 641 else 640, 3)
    assert seen[-1].min() > 235
    assert seen[:, -1].min() > 235


@pytest.mark.parametrize("matrix", [1, 5, 6, 9])
def test_colours_and_their_metadata_survive(tmp_path: Path, matrix: int) -> None:
    colour = Colour(matrix=matrix, primaries=9 if matrix == 9 else 1, transfer=1, full_range=True)
    picture = np.full((64, 64, 3), (200, 80, 40), np.uint8)
    path = write(tmp_path / "o.mp4", iter([picture]), num_frames=1, colour=colour)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    assert (frame.colorspace, frame.color_primaries, frame.color_trc) == (
        matrix,
        colour.primaries,
        1,
    )
    assert frame.color_range == 1  # limited
    rgb = frame.to_ndarray(
        format="rgb24", src_colorspace=5 if matrix == 6 else matrix, src_color_range=1
    )
    assert np.abs(rgb.astype(int) - picture).max() <= 4


def test_the_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new one" / '视频 "it\'s"' / "o.mp4"
    write(path, flashes(3, 0), num_frames=3)
    assert [file.name for file in path.parent.iterdir()] == ["o.mp4"]


def fails_after(count: int, error: Exception) -> Iterator[Frame]:
    yield from flashes(count, 0)
    raise error


@pytest.mark.parametrize("error", [KeyError("x"), errors.NoFace("no face"), MemoryError()])
def test_an_error_in_the_frames_passes_through_and_leaves_nothing(
    tmp_path: Path, error: Exception
) -> None:
    path = tmp_path / "o.mp4"
    path.write_bytes(b"the result of an earlier run")
    with pytest.raises(type(error)):
        write(path, fails_after(5, error), num_frames=10)
    assert [file.name for file in tmp_path.iterdir()] == ["o.mp4"]
    assert path.read_bytes() == b"the result of an earlier run"


def test_canceling_leaves_nothing(tmp_path: Path) -> None:
    canceled = Event()

    def frames() -> Iterator[Frame]:
        for frame in flashes(1000, 0):
            yield frame
            canceled.set()

    with pytest.raises(errors.Canceled):
        write(tmp_path / "o.mp4", frames(), num_frames=1000, monitor=RunMonitor(canceled=canceled))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("given", "announced"), [(4, 5), (6, 5), (0, 1)])
def test_a_wrong_number_of_frames_is_a_defect(tmp_path: Path, given: int, announced: int) -> None:
    with pytest.raises(ValueError, match=f"instead of {announced}"):
        write(tmp_path / "o.mp4", flashes(given, 0), num_frames=announced)
    assert list(tmp_path.iterdir()) == []


def test_frames_of_another_size_or_depth_are_a_defect(tmp_path: Path) -> None:
    for frame in (np.zeros((64, 66, 3), np.uint8), np.zeros((64, 64, 3), np.float32)):
        with pytest.raises(ValueError, match="frame 0 is"):
            write(tmp_path / "o.mp4", iter([frame]), num_frames=1)


def test_a_codec_that_refuses_is_quoted(tmp_path: Path) -> None:
    huge = (70_000, 2)
    frame = np.zeros((2, 70_000, 3), np.uint8)
    with pytest.raises(errors.CodecFailed, match="FFmpeg could not"):
        write(tmp_path / "o.mp4", iter([frame]), num_frames=1, size=huge)
    assert list(tmp_path.iterdir()) == []


@contextmanager
def nothing_collected() -> Iterator[None]:
    """Keep what earlier tests left behind from closing its files meanwhile."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def test_encoders_that_do_not_start_leave_no_file_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from latentsync.media import writer

    def refuse(container: OutputContainer, rate: int, layout: str) -> None:
        container.start_encoding()
        assert len(os.listdir("/dev/fd")) == num_open + 1
        container.add_stream("no such codec", rate=rate)

    monkeypatch.setattr(writer, "_add_audio", refuse)
    with nothing_collected():
        num_open = len(os.listdir("/dev/fd"))
        with pytest.raises(ValueError, match="codec") as caught:
            write(tmp_path / "o.mp4", flashes(1, 0), num_frames=1)
        assert caught.value.__traceback__  # which keeps everything in it alive
        assert len(os.listdir("/dev/fd")) == num_open
    assert list(tmp_path.iterdir()) == []


def test_sound_that_cannot_be_resampled_is_a_codec_failure(tmp_path: Path) -> None:
    sound = Sound(iter([tone(1, 16_000)]), -1, "mono")
    with pytest.raises(errors.CodecFailed, match="FFmpeg could not convert the sound"):
        write(tmp_path / "o.mp4", flashes(25, 0), sound, num_frames=25)
    assert list(tmp_path.iterdir()) == []


def test_sound_in_one_block_takes_no_longer_than_in_many(tmp_path: Path) -> None:
    """Joining what is left after every packet would take half a minute."""
    from latentsync.media import writer

    whole = tone(200, 48_000)
    started = time.process_time()
    frames = writer._aac_frames(iter([whole]), 48_000, "mono")
    assert sum(frame.samples for frame in frames) == whole.shape[1]
    assert time.process_time() - started < 5


@pytest.mark.parametrize("sizes", [[1], [1024], [1023, 1, 1], [5000], [3] * 1000, [700, 4096, 2]])
def test_blocks_of_any_size_become_packets_in_order(sizes: list[int]) -> None:
    from latentsync.media import writer

    ramp = np.arange(2 * sum(sizes), dtype=np.float32).reshape(2, -1)
    blocks = np.split(ramp, np.cumsum(sizes)[:-1], axis=1)
    frames = list(writer._aac_frames(iter(blocks), 48_000, "stereo"))
    assert {frame.samples for frame in frames[:-1]} <= {1024}
    assert [frame.pts for frame in frames] == list(range(0, ramp.shape[1], 1024))
    assert np.array_equal(np.concatenate([to_block(f) for f in frames], axis=1), ramp)


def test_a_full_disk_has_its_own_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full refuses every byte with "no space left", as a full disk does."""
    from latentsync.media import writer

    original = writer._Mp4.__init__

    def onto_a_full_disk(self, path, *arguments):  # type: ignore[no-untyped-def]
        original(self, Path("/dev/full"), *arguments)

    monkeypatch.setattr(writer._Mp4, "__init__", onto_a_full_disk)
    with pytest.raises(errors.DiskFull, match="no space left"):
        write(tmp_path / "o.mp4", flashes(500, 0), num_frames=500)
    assert list(tmp_path.iterdir()) == []
