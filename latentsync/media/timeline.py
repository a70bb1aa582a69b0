"""From the timestamps of a source video to the constant 25 fps of the house."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from latentsync.formats import ROUNDING, VIDEO_FPS

Timestamps = NDArray[np.int64]  # in units of the stream's time base

# Containers round timestamps (Matroska to 1 ms); these keep rounding from deciding anything.
_TIE_S = 0.001
_PARTIAL_SLOT = 0.1  # a tail shorter than this share of a slot is rounding, not a picture


@dataclass(frozen=True, eq=False)
class Timeline:
    """Which source frame every 25 fps slot shows; time zero is the first source frame.

    Attributes:
        slot_pts: int64 (num_frames,), timestamp of the source frame shown in each slot.
        keyframe_pts: int64 (num_keyframes,), where decoding can start, rising.
        time_base: seconds per unit of the timestamps.
        duration_s: from the first frame to the end of the last one.
        fps: average frame rate of the source.
    """

    slot_pts: Timestamps
    keyframe_pts: Timestamps
    time_base: Fraction
    duration_s: float
    fps: float


def build_timeline(
    pts: Timestamps, keyframe_pts: Timestamps, last_duration: int, time_base: Fraction
) -> Timeline:
    """Lay source frames onto 25 fps slots.

    A slot shows what the source shows in the middle of that slot. So a 25 fps source maps frame by
    frame however its timestamps jitter, and every other rate keeps its speed.

    Args:
        pts: int64 (n,), n >= 1, timestamps of the frames shown, strictly rising.
        keyframe_pts: int64, timestamps of the keyframes, rising.
        last_duration: duration of the last frame in units of the time base; 0 if not known.
        time_base: seconds per unit.
    """
    unit_s = float(time_base)
    gaps = np.diff(pts)
    last_s = last_duration * unit_s or (float(np.median(gaps)) * unit_s if gaps.size else 0.0)
    start_s = (pts - pts[0]) * unit_s
    duration_s = float(start_s[-1]) + (last_s or 1 / VIDEO_FPS)
    num_frames = max(1, math.ceil(duration_s * VIDEO_FPS - _PARTIAL_SLOT - ROUNDING))
    middle_s = (np.arange(num_frames) + 0.5) / VIDEO_FPS - _TIE_S
    shown = np.maximum(np.searchsorted(start_s, middle_s, side="right") - 1, 0)
    return Timeline(
        slot_pts=pts[shown],
        keyframe_pts=keyframe_pts,
        time_base=time_base,
        duration_s=duration_s,
        fps=pts.size / duration_s,
    )
