"""What the lips follow of a recording with several channels."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from latentsync import errors
from latentsync.media.probe import probe_audio
from latentsync.media.sound import read_sound, read_speech
from latentsync.settings import Settings
from tests.media.makers import make_sound

RATE = 16_000
SECONDS = 2.0
MOMENTS = np.arange(round(SECONDS * RATE)) / RATE
# Two words: a tone whose level varies as that of speech does.
SPEECH = (
    0.4 * np.sin(2 * np.pi * 300 * MOMENTS) * ((MOMENTS % 1.0 > 0.2) & (MOMENTS % 1.0 < 0.6))
).astype(np.float32)
SILENCE = np.zeros_like(SPEECH)
NOISE = np.random.default_rng(0).standard_normal(SPEECH.size).astype(np.float32) * 0.003


def hum(level: float) -> np.ndarray:
    return (level * np.sin(2 * np.pi * 50 * MOMENTS)).astype(np.float32)


def timecode(level: float) -> np.ndarray:
    return (level * np.sign(np.sin(2 * np.pi * 1200 * MOMENTS))).astype(np.float32)


def write(path: Path, channels: list[np.ndarray]) -> Path:
    """Write a WAV that names no positions of its channels."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(channels))
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.stack(channels, axis=1) * 32767).astype("<i2").tobytes())
    return path


def heard(path: Path, settings: Settings) -> tuple[np.ndarray, list[str]]:
    speech = read_speech(path, probe_audio(path, settings, "audio"))
    return speech.waveform, [warning.message for warning in speech.warnings]


def likeness(waveform: np.ndarray) -> float:
    """Return the correlation with the speech, whatever the sign and level."""
    return abs(float(np.corrcoef(waveform, SPEECH)[0, 1]))


def level_db(waveform: np.ndarray) -> float:
    return 20 * np.log10(float(waveform.std() / SPEECH.std()) + 1e-12)


@pytest.mark.parametrize(
    ("channels", "said"),
    [
        ([SPEECH, -SPEECH], "the difference of channels 1 and 2"),
        ([SPEECH, -0.7 * SPEECH], "the difference of channels 1 and 2"),
        ([SPEECH, hum(0.6)], "channel 1"),
        ([timecode(0.5), SPEECH], "channel 2"),
        ([SPEECH + hum(0.2), -SPEECH + hum(0.2)], "the difference of channels 1 and 2"),
        ([SPEECH * 1e-3, -SPEECH * 1e-3], "the difference of channels 1 and 2"),
        ([SPEECH + 0.4, -SPEECH + 0.4], "the difference of channels 1 and 2"),
        ([SILENCE] * 4 + [SPEECH] + [SILENCE] * 4, "channel 5"),
        ([SILENCE, SILENCE, SPEECH, SILENCE, SILENCE, SILENCE], "channel 3"),
        ([NOISE] * 36 + [SPEECH] + [NOISE] * 23, "channel 37"),
        (
            [SPEECH, -SPEECH, SILENCE, SILENCE, SILENCE, SILENCE],
            "the difference of channels 1 and 2",
        ),
    ],
    ids=[
        *("exchanged wires", "unequal", "hum", "timecode", "hum on both", "quiet", "offset"),
        *("nine channels", "centre of 5.1", "sixty channels", "exchanged in 5.1"),
    ],
)
def test_what_the_mix_loses_is_heard(
    tmp_path: Path, settings: Settings, channels: list[np.ndarray], said: str
) -> None:
    waveform, messages = heard(write(tmp_path / "a.wav", channels), settings)
    assert likeness(waveform) > 0.95
    assert len(messages) == 1
    assert messages[0].endswith(f"the lips follow {said}.")
    assert f"{len(channels)} channels of audio" in messages[0]


@pytest.mark.parametrize(
    "channels",
    [
        [SPEECH, SPEECH],
        [SPEECH, SILENCE],
        [SPEECH, np.roll(SPEECH, 4)],
        [SPEECH, 0.3 * SPEECH],
        [SPEECH, hum(0.02)],
        [SILENCE, SILENCE],
    ],
    ids=["plain", "one side", "delayed", "quieter", "slight hum", "silence"],
)
def test_the_usual_mix_is_kept_where_it_is_good(
    tmp_path: Path, settings: Settings, channels: list[np.ndarray]
) -> None:
    path = write(tmp_path / "a.wav", channels)
    info = probe_audio(path, settings, "audio")
    waveform, messages = heard(path, settings)
    mono = np.concatenate(list(read_sound(path, info, layout="mono", sample_rate=RATE).blocks), 1)
    assert np.array_equal(waveform, mono[0])
    assert messages == []


def test_speakers_who_have_a_channel_each_are_all_heard(tmp_path: Path, settings: Settings) -> None:
    first, second = SPEECH * (MOMENTS < 1), SPEECH * (MOMENTS >= 1)
    channels = [SILENCE] * 4 + [first, SILENCE, second] + [SILENCE] * 6
    waveform, messages = heard(write(tmp_path / "a.wav", channels), settings)
    assert likeness(waveform) > 0.95
    assert messages[0].endswith("the lips follow channels 5 and 7.")


def written(path: Path, settings: Settings) -> tuple[str, np.ndarray]:
    sound = read_sound(path, probe_audio(path, settings, "audio"))
    return sound.layout, np.concatenate(list(sound.blocks), axis=1)


def test_exchanged_wires_stay_as_they_are_in_the_result(tmp_path: Path, settings: Settings) -> None:
    layout, samples = written(write(tmp_path / "a.wav", [SPEECH, -SPEECH]), settings)
    assert layout == "stereo"
    assert np.allclose(samples, [SPEECH, -SPEECH], atol=1e-3)


@pytest.mark.parametrize("count", [9, 12, 16, 60, 64])
def test_more_than_eight_channels_become_stereo(
    tmp_path: Path, settings: Settings, count: int
) -> None:
    path = write(tmp_path / "a.wav", [SILENCE] * (count - 2) + [SPEECH, SPEECH])
    layout, samples = written(path, settings)
    assert (layout, samples.shape) == ("stereo", (2, SPEECH.size))
    assert likeness(samples.sum(axis=0)) > 0.95
    [warning] = probe_audio(path, settings, "audio").warnings
    assert warning.code == "CHANNELS_MIXED"
    assert f"{count} channels" in warning.message


def test_more_channels_than_can_be_converted_are_refused(
    tmp_path: Path, settings: Settings
) -> None:
    path = write(tmp_path / "a.wav", [SPEECH[:8000]] * 65)
    with pytest.raises(errors.UnreadableMedia, match=r"audio has 65 channels \(allowed: 64\)"):
        probe_audio(path, settings, "audio")


@pytest.mark.parametrize("layout", ["2.1", "4.0", "hexagonal", "6.1", "7.1"])
def test_up_to_eight_channels_are_kept(tmp_path: Path, settings: Settings, layout: str) -> None:
    count = {"2.1": 3, "4.0": 4, "hexagonal": 6, "6.1": 7, "7.1": 8}[layout]
    path = make_sound(
        tmp_path / "a.wav", np.stack([SPEECH] * count), RATE, codec="pcm_s16le", layout=layout
    )
    assert written(path, settings)[1].shape == (count, SPEECH.size)
