from __future__ import annotations

import numpy as np

from latentsync.formats import SAMPLE_RATE
from latentsync.pipelines.draft.phones import (
    detect_voice,
    loudness_gain,
    measure_loudness_db,
    to_pcm16,
)
from tests.demo_media import demo_speech


def tone(seconds: float, level: float = 0.5) -> np.ndarray:
    time_s = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (level * np.sin(2 * np.pi * 440 * time_s)).astype(np.float32)


def test_loudness_of_a_full_scale_sine_is_minus_three_decibels():
    assert np.allclose(measure_loudness_db(tone(0.5, 1.0))[5:-5], -3.01, atol=0.1)


def test_loudness_has_one_value_per_ten_milliseconds_and_covers_the_tail():
    assert len(measure_loudness_db(tone(0.5))) == 50
    assert len(measure_loudness_db(tone(0.5)[:-1])) == 50
    assert len(measure_loudness_db(np.zeros(0, np.float32))) == 0


def test_loudness_is_centred_on_the_sound():
    click = np.zeros(SAMPLE_RATE, np.float32)
    click[8000:8160] = 0.5
    loud = np.flatnonzero(measure_loudness_db(click) > -60)
    assert loud.mean() == 50


def test_quiet_recordings_are_lifted_and_silence_stays_silence():
    assert np.abs(to_pcm16(tone(0.1, 0.01)).astype(int)).max() > 16000
    assert not to_pcm16(np.zeros(100, np.float32)).any()


def test_overdriven_samples_are_clipped_not_wrapped():
    assert to_pcm16(np.array([2.0, -2.0], np.float32)).tolist() == [32767, -32768]


def test_voice_is_found_in_speech_and_not_in_its_pause():
    speech = demo_speech()
    voiced = detect_voice(speech, measure_loudness_db(speech))
    assert voiced[60:240].mean() > 0.85  # "From fairest creatures we desire"
    assert voiced[315:330].mean() < 0.2  # between the two lines


def test_no_voice_in_silence_nor_in_faint_noise():
    noise = np.random.default_rng(3).normal(0, 1e-4, SAMPLE_RATE).astype(np.float32)
    for quiet in (np.zeros(SAMPLE_RATE, np.float32), noise):
        loudness_db = measure_loudness_db(quiet)
        voiced = detect_voice(quiet, loudness_db)
        assert not voiced.any()
        assert not loudness_gain(loudness_db, voiced).any()


def test_gain_does_not_depend_on_the_recording_level():
    speech = demo_speech()
    gains = []
    for level in (1.0, 0.1):
        loudness_db = measure_loudness_db(speech * np.float32(level))
        gains.append(loudness_gain(loudness_db, np.ones(len(loudness_db), np.bool_)))
    assert np.allclose(gains[0], gains[1], atol=0.01)
    assert gains[0].max() == 1.0
