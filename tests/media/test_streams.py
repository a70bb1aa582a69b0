"""Files with several streams of a kind: the one that is meant is used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from latentsync import errors
from latentsync.media.probe import probe_audio, probe_video
from latentsync.media.reader import VideoReader
from latentsync.media.sound import read_waveform
from latentsync.settings import Settings
from tests.media.makers import make_video

RATE = 16_000


def make_tracks(
    path: Path, levels: Sequence[float | None], default: int | None = None, codec: str = "aac"
) -> Path:
    """Write tracks of sound, each a constant tone of a level; None is an empty track."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream(codec, rate=RATE, layout="mono") for _ in levels]
        for number, stream in enumerate(streams):
            stream.disposition = Disposition.default if number == default else Disposition(0)
        packets = []
        for stream, level in zip(streams, levels, strict=True):
            if level is None:
                continue
            moments = np.arange(RATE) / RATE
            samples = (level * np.sin(2 * np.pi * 300 * moments)).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = RATE, 0
            packets += [*stream.encode(frame), *stream.encode(None)]
        container.mux(packets)
    return path


def level(path: Path, settings: Settings) -> float:
    waveform = read_waveform(path, probe_audio(path, settings, "audio"))
    return float(np.abs(waveform).max())


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
def test_the_marked_track_is_heard(tmp_path: Path, settings: Settings, suffix: str) -> None:
    path = make_tracks(tmp_path / f"a.{suffix}", (0.1, 0.8, 0.3), default=1)
    assert level(path, settings) == pytest.approx(0.8, rel=0.2)
    [warning] = probe_audio(path, settings, "audio").warnings
    assert warning.code == "STREAM_CHOSEN"
    assert "stream 1 (aac)" in warning.message


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_an_empty_track_is_passed_over(tmp_path: Path, settings: Settings, suffix: str) -> None:
    path = make_tracks(tmp_path / f"a.{suffix}", (None, 0.6), default=0)
    assert level(path, settings) == pytest.approx(0.6, rel=0.2)
    assert not probe_audio(path, settings, "audio").warnings, "an empty track is no choice"


def test_a_track_without_a_decoder_is_passed_over(tmp_path: Path, settings: Settings) -> None:
    """As in an iPhone's video, whose first track is spatial sound."""
    path = make_tracks(tmp_path / "a.mov", (0.2, 0.6), default=0)
    path.write_bytes(path.read_bytes().replace(b"mp4a", b"apac", 1).replace(b"esds", b"dapa", 1))
    assert level(path, settings) == pytest.approx(0.6, rel=0.2)


def test_if_no_track_can_be_used_all_are_named(tmp_path: Path, settings: Settings) -> None:
    path = make_tracks(tmp_path / "a.mov", (0.2, 0.6, None))
    path.write_bytes(path.read_bytes().replace(b"mp4a", b"apac").replace(b"esds", b"dapa"))
    with pytest.raises(errors.UnreadableMedia) as caught:
        probe_audio(path, settings, "audio")
    for index in range(2):
        assert (
            f"stream {index} (unknown format or damaged) is in a format without a decoder"
            in str(caught.value)
        )


def make_pictures(path: Path, default: int | None) -> Path:
    """Write two streams of pictures: three black frames, and five white ones."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=25) for _ in range(2)]
        for number, stream in enumerate(streams):
            stream.width = stream.height = 64
            stream.disposition = Disposition.default if number == default else Disposition(0)
        for stream, count, grey in zip(streams, (3, 5), (0, 255), strict=True):
            for number in range(count):
                frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), grey, np.uint8))
                frame.pts = number
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("default", "num_frames"), [(None, 3), (0, 3), (1, 5)])
def test_the_marked_pictures_are_used(
    tmp_path: Path, settings: Settings, default: int | None, num_frames: int
) -> None:
    info = probe_video(make_pictures(tmp_path / "v.mkv", default), settings, "video")
    assert info.num_frames == num_frames
    assert [one.code for one in info.warnings] == ["STREAM_CHOSEN"]


def test_one_stream_needs_no_word(tmp_path: Path, settings: Settings) -> None:
    assert not probe_video(make_video(tmp_path / "v.mp4", 3), settings, "video").warnings


def write_noise(path: Path, *, start_s: float, num_frames: int, has_sound: bool) -> bytes:
    """Return a transport stream of noise, about 60 kB a frame, with or without sound."""
    noise = np.random.default_rng(0).integers(0, 255, (4, 256, 256, 3), dtype=np.uint8)
    with av.open(str(path), "w", format="mpegts") as container:
        video = container.add_stream("libx264", rate=25)
        video.width = video.height = 256
        video.options = {"preset": "ultrafast", "crf": "5"}
        sound = container.add_stream("mp2", rate=RATE, layout="mono") if has_sound else None
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(noise[number % 4], format="rgb24")
            frame.pts = round(start_s * 25) + number
            container.mux(video.encode(frame))
            if sound is not None:
                samples = np.zeros((1, RATE // 25), np.int16)
                block = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
                block.sample_rate, block.pts = RATE, round(start_s * RATE) + number * RATE // 25
                container.mux(sound.encode(block))
        container.mux(video.encode(None))
        if sound is not None:
            container.mux(sound.encode(None))
    return path.read_bytes()


def test_sound_in_the_middle_alone_does_not_end_the_pictures(
    tmp_path: Path, settings: Settings
) -> None:
    path = tmp_path / "v.ts"
    lengths = {0.0: 150, 6.0: 20, 6.8: 30}  # only the second part has sound
    parts = [
        write_noise(tmp_path / "part", start_s=start_s, num_frames=length, has_sound=length == 20)
        for start_s, length in lengths.items()
    ]
    path.write_bytes(b"".join(parts))
    info = probe_video(path, settings, "video")
    assert info.num_frames == 200
    assert len(list(VideoReader(path, info).read(range(200)))) == 200
