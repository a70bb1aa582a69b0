"""What is said, for the tests of engines."""

from __future__ import annotations

import numpy as np

from latentsync.formats import SAMPLE_RATE, VIDEO_FPS, Waveform
from latentsync.pipelines.base import Utterance
from latentsync.schema.fields import Speaker


def whole(waveform: Waveform, num_frames: int, speaker: Speaker = "auto") -> list[Utterance]:
    """Return one utterance that covers all frames."""
    return [Utterance(waveform, 0, num_frames, speaker)]


def is_loud(one: Utterance, frame: int) -> bool:
    """Return whether an utterance covers an output frame and is loud in it."""
    if not one.start <= frame < one.stop:
        return False
    step = SAMPLE_RATE // VIDEO_FPS
    sound = one.waveform[(frame - one.start) * step : (frame - one.start + 1) * step]
    return sound.size > 0 and bool(np.abs(sound).mean() > 0.1)
