from __future__ import annotations

import numpy as np
import pytest

from latentsync.pipelines.draft.motion import MouthMotion, limit_slope, plan_motion
from latentsync.pipelines.draft.phones import SILENCE, Phone
from latentsync.pipelines.draft.visemes import BILABIALS, VISEMES, MotionConfig

ARPABET = (
    *("AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH"),
    *("IH", "IY", "JH", "K", "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH"),
    *("UH", "UW", "V", "W", "Y", "Z", "ZH"),
)


def speak(text: str, phone_s: float = 0.12, start_s: float = 0.4, seconds: float = 3.0):
    """Plan the motion of evenly spaced phones, all of them loud, silence around."""
    names = text.split()
    phones = [
        Phone(name, start_s + i * phone_s, start_s + (i + 1) * phone_s)
        for i, name in enumerate(names)
    ]
    hops = int(seconds * 100)
    voiced = np.zeros(hops, np.bool_)
    voiced[int(start_s * 100) : int((start_s + len(names) * phone_s) * 100)] = True
    loudness = np.where(voiced, 1.0, 0.0)
    for phone in phones:
        if phone.name in BILABIALS:
            loudness[int(phone.start_s * 100) : int(phone.end_s * 100)] = 0.5
    return plan_motion(phones, loudness, voiced, int(seconds * 25), MotionConfig())


def at(motion: MouthMotion, time_s: float) -> int:
    return int(time_s * 25)


def test_every_phone_of_the_acoustic_model_has_a_shape():
    assert set(VISEMES) == set(ARPABET)
    for viseme in VISEMES.values():
        assert min(viseme.opening, viseme.spread, viseme.rounding) >= 0
        assert max(viseme.opening, viseme.spread, viseme.rounding, viseme.dominance) <= 1


def test_the_mouth_is_closed_before_and_long_after_speech():
    motion = speak("AA N AA N AA")
    assert motion.opening[0] < 0.02
    assert motion.opening[-15:].max() < 0.01


def test_open_vowels_open_wider_than_narrow_ones():
    wide, narrow = speak("AA AA AA AA AA AA"), speak("UW UW UW UW UW UW")
    assert wide.opening.max() > 1.5 * narrow.opening.max()
    assert narrow.rounding.max() > 0.8 > 0.1 > wide.rounding.max()


def test_smiling_vowels_spread_the_lips():
    assert speak("IY IY IY IY").spread.max() > 0.5 > speak("OW OW OW OW").spread.max()


@pytest.mark.parametrize("sound", sorted(BILABIALS))
def test_bilabials_close_the_lips_for_at_least_one_frame(sound):
    motion = speak(f"AA AA AA {sound} AA AA AA")
    closure = at(motion, 0.4 + 3.5 * 0.12)
    assert motion.opening[closure - 1 : closure + 2].min() < 0.02
    assert motion.plosive[closure]


def test_motion_has_no_jumps_outside_plosives():
    text = " ".join(np.random.default_rng(1).choice(ARPABET, 40))
    motion = speak(text, phone_s=0.08, seconds=5.0)
    steps = np.abs(np.diff(motion.opening))
    calm = ~(motion.plosive[1:] | motion.plosive[:-1])
    assert steps[calm].max() <= MotionConfig().slope_limit + 1e-9
    assert steps[calm].max() <= 0.15 * np.ptp(motion.opening)


def test_a_sound_that_never_ends_follows_loudness_instead():
    phones = [Phone("W", 0.0, 4.0)]
    loudness = 0.5 + 0.5 * np.sin(np.arange(400) / 100 * 2 * np.pi)
    motion = plan_motion(phones, loudness, np.ones(400, np.bool_), 100, MotionConfig())
    inside = slice(10, 90)
    hops = (np.arange(100) * 4 + 2)[inside]
    assert np.corrcoef(motion.opening[inside], loudness[hops])[0, 1] > 0.9


def test_unknown_and_silent_phones_are_handled():
    motion = speak(f"{SILENCE} XX {SILENCE}")
    assert np.isfinite(motion.opening).all()


def test_frames_beyond_the_sound_are_closed():
    motion = plan_motion([], np.ones(10), np.ones(10, np.bool_), 50, MotionConfig())
    assert len(motion.opening) == 50
    assert motion.opening[10:].max() == 0


def test_no_sound_at_all_gives_a_closed_mouth():
    motion = plan_motion([], np.zeros(0), np.zeros(0, np.bool_), 5, MotionConfig())
    assert not motion.opening.any()


def test_slope_limit_has_no_lag_and_keeps_calm_curves():
    step = np.concatenate((np.zeros(20), np.ones(20)))
    limited = limit_slope(step, np.full(40, 0.1))
    assert np.abs(np.diff(limited)).max() <= 0.1 + 1e-12
    assert np.allclose(limited, 1 - limited[::-1])  # as early before the step as late after it
    calm = np.sin(np.arange(40) / 20)
    assert np.array_equal(limit_slope(calm, np.full(40, 0.1)), calm)


def openings(lead: int) -> np.ndarray:
    """Return how open the mouth is around a closure after ``lead`` frames of silence."""
    names = ("AA", "B", "AA")
    # Times as the recognizer has them: whole hops in seconds.
    hops = 4 * lead + np.array([40, 50, 62, 74])  # "B" has its middle between two frames
    phones = [Phone(*one) for one in zip(names, hops[:-1] * 0.01, hops[1:] * 0.01, strict=True)]
    voiced = np.zeros(4 * 130, np.bool_)
    voiced[hops[0] : hops[-1]] = True
    loudness = np.where(voiced, 1.0, 0.0)
    loudness[hops[1] : hops[2]] = 0.5
    return plan_motion(phones, loudness, voiced, 130, MotionConfig()).opening[lead : lead + 30]


@pytest.mark.parametrize("lead", [80, 91, 93, 95, 97])
def test_speech_that_begins_frames_later_moves_the_mouth_the_same_frames_later(lead: int):
    np.testing.assert_allclose(openings(lead), openings(64), atol=1e-9)
