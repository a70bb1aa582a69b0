from __future__ import annotations

import numpy as np
import pytest

from latentsync.errors import Canceled
from latentsync.formats import SAMPLE_RATE
from latentsync.pipelines.draft.phones import (
    SILENCE,
    PhoneRecognizer,
    detect_voice,
    measure_loudness_db,
    split_at_pauses,
)
from tests.demo_media import demo_speech


@pytest.fixture(scope="module")
def recognizer() -> PhoneRecognizer:
    return PhoneRecognizer()


def voice_of(waveform: np.ndarray) -> np.ndarray:
    return detect_voice(waveform, measure_loudness_db(waveform))


def test_phones_of_real_speech_are_in_order_and_inside_the_recording(recognizer):
    speech = demo_speech()
    phones = recognizer.recognize(speech, voice_of(speech))
    assert 30 < len(phones) < 90
    assert all(phone.start_s < phone.end_s for phone in phones)
    starts = [phone.start_s for phone in phones]
    assert starts == sorted(starts)
    assert phones[-1].end_s <= len(speech) / SAMPLE_RATE + 0.02


def test_the_word_never_has_its_n_and_the_line_break_is_silent(recognizer):
    speech = demo_speech()
    phones = recognizer.recognize(speech, voice_of(speech))
    assert any(p.name == SILENCE and p.start_s < 3.2 < p.end_s + 0.4 for p in phones)
    assert {"N", "D", "AY"} <= {p.name for p in phones if p.start_s > 5.0}


def test_the_same_speech_gives_the_same_phones_again(recognizer):
    speech = demo_speech()
    voiced = voice_of(speech)
    assert recognizer.recognize(speech, voiced) == recognizer.recognize(speech, voiced)


def test_silence_has_no_phones(recognizer):
    silence = np.zeros(SAMPLE_RATE, np.float32)
    assert recognizer.recognize(silence, np.zeros(100, np.bool_)) == []


def test_recognition_can_be_stopped_between_utterances(recognizer):
    def stop() -> None:
        raise Canceled("stop")

    with pytest.raises(Canceled):
        recognizer.recognize(demo_speech(), np.ones(642, np.bool_), stop)


def test_a_short_recording_is_one_utterance():
    assert list(split_at_pauses(np.ones(642, np.bool_))) == [(0, 642)]
    assert list(split_at_pauses(np.zeros(0, np.bool_))) == []


def test_a_long_recording_is_cut_in_its_pauses_without_gap_or_overlap():
    voiced = np.ones(4000, np.bool_)
    voiced[1190:1210] = False
    voiced[800:805] = False
    cuts = list(split_at_pauses(voiced))
    assert cuts[0] == (0, 1200)
    assert [start for start, _ in cuts[1:]] == [stop for _, stop in cuts[:-1]]
    assert cuts[-1][1] == 4000
    assert max(stop - start for start, stop in cuts) <= 1500
