from __future__ import annotations

import wave
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from threading import Event

import av
import numpy as np
import pytest

from latentsync import errors
from latentsync.media.probe import probe_audio
from latentsync.media.sound import read_sound, read_waveform
from latentsync.monitor import RunMonitor
from latentsync.settings import Settings
from tests.media.makers import make_sound, tone


def click(at_s: float, duration_s: float, sample_rate: int, channels: int = 1) -> np.ndarray:
    samples = np.zeros((channels, round(duration_s * sample_rate)), np.float32)
    start = round(at_s * sample_rate)
    samples[:, start : start + sample_rate // 250] = 0.8
    return samples


def loud_from_s(samples: np.ndarray, sample_rate: int) -> float:
    level = np.abs(samples)
    return int(np.argmax(level > 0.5 * level.max())) / sample_rate


FORMATS = [
    ("wav", "pcm_s16le", "mono", 16_000),
    ("wav", "pcm_u8", "mono", 8_000),
    ("wav", "pcm_s24le", "stereo", 44_100),
    ("wav", "pcm_f32le", "5.1", 48_000),
    ("wav", "pcm_s16le", "7.1", 48_000),
    ("mp3", "libmp3lame", "stereo", 44_100),
    ("mp3", "libmp3lame", "mono", 16_000),
    ("m4a", "aac", "mono", 16_000),
    ("m4a", "aac", "5.1", 48_000),
    ("ogg", "libopus", "stereo", 48_000),
    ("flac", "flac", "mono", 22_050),
]


@pytest.mark.parametrize(("suffix", "codec", "layout", "rate"), FORMATS)
def test_waveform_and_sound_start_at_the_same_instant(
    tmp_path: Path, settings: Settings, suffix: str, codec: str, layout: str, rate: int
) -> None:
    channels = av.AudioLayout(layout).nb_channels
    samples = click(0.5, 1.2, rate, channels)
    path = make_sound(tmp_path / f"a.{suffix}", samples, rate, codec=codec, layout=layout)
    info = probe_audio(path, settings, "audio")

    waveform = read_waveform(path, info)
    assert waveform.dtype == np.float32
    assert waveform.ndim == 1
    assert waveform.size / 16_000 == pytest.approx(1.2, abs=0.065)
    assert loud_from_s(waveform, 16_000) == pytest.approx(0.5, abs=0.003)

    sound = read_sound(path, info)
    whole = np.concatenate(list(sound.blocks), axis=1)
    assert (sound.sample_rate, sound.layout, whole.shape[0]) == (rate, layout, channels)
    assert loud_from_s(whole[0], rate) == pytest.approx(0.5, abs=0.003)


def test_a_waveform_keeps_its_level_and_pitch(tmp_path: Path, settings: Settings) -> None:
    path = make_sound(tmp_path / "a.wav", tone(1, 48_000, 2), 48_000, layout="stereo")
    waveform = read_waveform(path, probe_audio(path, settings, "audio"))
    assert waveform.size == 16_000
    assert np.abs(waveform).max() == pytest.approx(0.5, abs=0.01)
    expected = tone(1, 16_000)[0]
    assert np.abs(waveform - expected)[200:-200].max() < 0.01


def test_a_downmix_does_not_clip(tmp_path: Path, settings: Settings) -> None:
    loud = np.full((6, 48_000), 0.95, np.float32)
    path = make_sound(tmp_path / "a.wav", loud, 48_000, codec="pcm_s16le", layout="5.1")
    waveform = read_waveform(path, probe_audio(path, settings, "audio"))
    assert 0.5 < waveform[1000:-1000].max() <= 1.0


@pytest.mark.parametrize("channels", [1, 2, 6, 8, 12])
def test_a_recording_that_names_no_channels_is_read(
    tmp_path: Path, settings: Settings, channels: int
) -> None:
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes((tone(1, 8000, channels).T * 32767).astype("<i2").tobytes())
    info = probe_audio(path, settings, "audio")
    assert read_waveform(path, info).size == 16_000
    assert sum(block.shape[1] for block in read_sound(path, info).blocks) == 8000
    assert av.AudioLayout(info.layout).nb_channels == channels


def test_the_sound_of_a_video_file_is_read(tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("libx264", rate=25)
        pictures.width = pictures.height = 64
        sound = container.add_stream("aac", rate=16_000, layout="mono")
        for index in range(25):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))
            frame.pts = index
            container.mux(pictures.encode(frame))
        samples = av.AudioFrame.from_ndarray(tone(1, 16_000), format="fltp", layout="mono")
        samples.sample_rate, samples.pts = 16_000, 0
        container.mux([*sound.encode(samples), *sound.encode(None), *pictures.encode(None)])
    waveform = read_waveform(path, probe_audio(path, settings, "audio"))
    assert waveform.size / 16_000 == pytest.approx(1, abs=0.065)


def make_stamped(
    path: Path, starts_s: Iterable[float], length_s: float = 0.5, rate: int = 16_000
) -> Path:
    """Write a tone in packets of one length with the given timestamps."""
    samples = (tone(length_s, rate) * 32767).astype(np.int16)
    starts_s = list(starts_s)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=rate, layout="mono")
        for number, start_s in enumerate(starts_s):
            packet = av.Packet(samples.tobytes())
            packet.stream, packet.time_base = stream, Fraction(1, rate)
            packet.pts, packet.dts = round(start_s * rate), number - len(starts_s)
            packet.duration = samples.size
            container.mux(packet)
    return path


def test_a_hole_in_the_timestamps_becomes_silence(tmp_path: Path, settings: Settings) -> None:
    path = make_stamped(tmp_path / "a.mkv", (0.0, 0.5, 2.0))
    info = probe_audio(path, settings, "audio")
    waveform = read_waveform(path, info)
    assert waveform.size == 2.5 * 16_000
    assert np.abs(waveform[17_000:31_000]).max() == 0
    assert np.abs(waveform[32_500:39_000]).max() > 0.4
    assert np.concatenate(list(read_sound(path, info).blocks), axis=1).shape == (1, 40_000)


@pytest.mark.parametrize("starts_s", [(0.0, 500.0), (0.0, 1e6), (500.0, 0.0), [0.0, 500.0] * 20])
def test_jumps_of_the_clock_are_closed(
    tmp_path: Path, settings: Settings, starts_s: list[float]
) -> None:
    path = make_stamped(tmp_path / "a.mkv", starts_s, length_s=0.2, rate=8_000)
    info = probe_audio(path, settings, "audio")
    assert info.duration_s == pytest.approx(0.2 * len(starts_s))
    assert [one.code for one in info.warnings] == ["CLOCK_MENDED"]
    assert read_waveform(path, info).size == 0.2 * len(starts_s) * 16_000


def test_a_recording_of_just_the_longest_length_is_read(tmp_path: Path, settings: Settings) -> None:
    path = make_sound(tmp_path / "a.mp3", tone(1.8, 44_100), 44_100, codec="libmp3lame")
    length_s = probe_audio(path, settings, "audio").duration_s
    exact = settings.model_copy(update={"max_duration_s": length_s})
    info = probe_audio(path, exact, "audio")
    assert read_waveform(path, info).size / 16_000 == pytest.approx(length_s, abs=0.01)
    assert sum(block.shape[1] for block in read_sound(path, info).blocks) > 0


def test_a_run_that_must_stop_stops_reading(tmp_path: Path, settings: Settings) -> None:
    path = make_stamped(tmp_path / "a.mkv", (0.0, 1.5))
    info = probe_audio(path, settings, "audio")
    with pytest.raises(errors.DeadlineExceeded):
        read_waveform(path, info, RunMonitor(deadline_s=0))
    canceled = Event()
    blocks = read_sound(path, info, RunMonitor(canceled=canceled)).blocks
    next(blocks)
    canceled.set()
    with pytest.raises(errors.Canceled):
        next(blocks)


@pytest.mark.parametrize(
    "wrong", [float("nan"), float("inf"), float("-inf"), 3e38, -3e38, 1e300, 1e7]
)
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_samples_that_are_no_sound_are_refused(
    tmp_path: Path, settings: Settings, wrong: float, rate: int
) -> None:
    path = tmp_path / "a.wav"
    make_sound(path, tone(0.5, rate, 2), rate, codec="pcm_f64le", layout="stereo")
    data = bytearray(path.read_bytes())
    data[-8000:-7992] = np.float64(wrong).tobytes()
    path.write_bytes(data)
    info = probe_audio(path, settings, "audio_url")
    with pytest.raises(errors.UnreadableMedia, match="audio_url has samples") as caught:
        read_waveform(path, info)
    assert caught.value.field == "audio_url"
    with pytest.raises(errors.UnreadableMedia):
        list(read_sound(path, info).blocks)


def test_a_float_recording_on_the_scale_of_integers_is_read(
    tmp_path: Path, settings: Settings
) -> None:
    path = make_sound(tmp_path / "a.wav", tone(0.5, 16_000) * 32767, codec="pcm_f32le")
    waveform = read_waveform(path, probe_audio(path, settings, "audio"))
    assert np.abs(waveform).max() == pytest.approx(32767 / 2, rel=0.01)


def test_a_change_of_rate_on_the_way_is_followed(tmp_path: Path, settings: Settings) -> None:
    parts = [
        make_sound(tmp_path / f"{rate}.mp3", tone(1, rate), rate, codec="libmp3lame")
        for rate in (16_000, 24_000)
    ]
    path = tmp_path / "a.mp3"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    waveform = read_waveform(path, probe_audio(path, settings, "audio"))
    assert waveform.size / 16_000 == pytest.approx(2, abs=0.2)
