import tracemalloc

import numpy as np
import pytest

from latentsync.formats import SAMPLE_RATE
from latentsync.pipelines.lipsync.mel import LogMel, mel_filters


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(samples, np.float32) * np.float32(0.1)


def tone(hz: float, seconds: float = 1.0) -> np.ndarray:
    time_s = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (0.3 * np.sin(2 * np.pi * hz * time_s)).astype(np.float32)


def log_mel(waveform: np.ndarray) -> np.ndarray:
    mel = LogMel(waveform)
    return mel.columns(0, mel.num_columns)


def test_any_stretch_of_columns_equals_the_whole():
    waveform = noise(20 * SAMPLE_RATE + 77)
    whole, mel = log_mel(waveform), LogMel(waveform)
    for start, stop in ((0, 1), (0, 2000), (749, 751), (1, 1501), (1999, 2000), (5, 5)):
        np.testing.assert_allclose(mel.columns(start, stop), whole[:, start:stop], atol=1e-6)


def test_the_loudest_moment_sets_the_floor_everywhere():
    quiet = noise(SAMPLE_RATE) * np.float32(1e-4)
    before_a_bang = log_mel(np.concatenate([quiet, tone(440), noise(20 * SAMPLE_RATE)]))
    floor = before_a_bang.min()
    assert np.all(before_a_bang[:, :90] == floor)
    assert np.ptp(log_mel(quiet)) > 0.3
    assert before_a_bang.max() - floor == pytest.approx(2.0)  # eight decades, a quarter each


def test_the_window_is_filled_up_with_zeros():
    mel = LogMel(noise(SAMPLE_RATE))
    window = mel.padded_window(0, mel.num_columns)
    assert window.shape == (80, 3000)
    assert np.all(window[:, mel.num_columns :] == 0)
    assert np.array_equal(window[:, : mel.num_columns], mel.columns(0, mel.num_columns))


@pytest.mark.parametrize("samples", [0, 1, 200, 201, 319, 320])
def test_short_recordings_are_followed_by_silence(samples):
    waveform = noise(samples)
    padded = np.concatenate([waveform, np.zeros(320 - samples, np.float32)])
    assert np.array_equal(log_mel(waveform), log_mel(padded))
    assert log_mel(waveform).shape == (80, 2)


@pytest.mark.parametrize(("samples", "columns"), [(321, 2), (479, 2), (480, 3), (16000, 100)])
def test_there_is_a_column_per_whole_hop(samples, columns):
    assert log_mel(noise(samples)).shape == (80, columns)


@pytest.mark.parametrize("hz", [200, 1000, 4000, 7500])
def test_a_tone_lights_its_own_band(hz):
    band = int(log_mel(tone(hz))[:, 50].argmax())
    bins = np.flatnonzero(mel_filters()[band]) * SAMPLE_RATE / 400
    assert bins.min() - 40 <= hz <= bins.max() + 40


def test_bands_cover_the_spectrum_without_a_gap():
    filters = mel_filters()
    assert filters.shape == (80, 201)
    assert np.all(filters >= 0)
    assert np.all(filters[:, 1:-1].sum(axis=0) > 0)
    assert np.all(filters.max(axis=1) > 0)


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (3, 2), (0, 101)])
def test_columns_beyond_the_recording_are_refused(start, stop):
    with pytest.raises(ValueError, match="of 100"):
        LogMel(noise(SAMPLE_RATE)).columns(start, stop)


def test_memory_does_not_grow_with_the_recording():
    def peak_bytes(seconds: int) -> int:
        mel = LogMel(np.tile(noise(SAMPLE_RATE), seconds))
        tracemalloc.start()
        for start in range(0, mel.num_columns, 3000):
            mel.padded_window(start, min(start + 3000, mel.num_columns))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak_bytes(240) < 1.1 * peak_bytes(30)
