"""What one person says from the first frame to the last."""

from __future__ import annotations

from latentsync.fields import Speaker
from latentsync.formats import Waveform
from latentsync.pipelines.base import Utterance


def whole(waveform: Waveform, num_frames: int, speaker: Speaker = "auto") -> list[Utterance]:
    """Return one utterance that covers all frames."""
    return [Utterance(waveform, 0, num_frames, speaker)]
