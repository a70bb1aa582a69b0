"""Which source frame each output frame shows when the audio and the video differ in length."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from latentsync.fields import SyncMode
from latentsync.formats import ROUNDING, VIDEO_FPS


def count_frames(duration_s: float) -> int:
    """Return how many 25 fps frames cover ``duration_s``: the last one may be part empty.

    1.2 s x 25 are 30 frames, not the 31 that arithmetic makes of it.
    """
    return max(1, math.ceil(duration_s * VIDEO_FPS - ROUNDING))


def plan_frames(
    sync_mode: SyncMode, num_source_frames: int, audio_duration_s: float
) -> NDArray[np.int64]:
    """Return the source frame of each output frame, int64 (num_output_frames,).

    The length is never rounded down to a multiple of anything. ``bounce``, ``loop`` and ``remap``
    end with the audio, ``cut_off`` with the shorter of the two, ``silence`` with the longer.

    Args:
        sync_mode: the rule.
        num_source_frames: frames of the source at 25 fps, at least 1.
        audio_duration_s: length of the audio in seconds.
    """
    num_audio_frames = count_frames(audio_duration_s)
    if sync_mode is SyncMode.CUT_OFF:
        return extend_frames(sync_mode, num_source_frames, min(num_source_frames, num_audio_frames))
    if sync_mode is SyncMode.SILENCE:
        return extend_frames(sync_mode, num_source_frames, max(num_source_frames, num_audio_frames))
    return extend_frames(sync_mode, num_source_frames, num_audio_frames)


def extend_frames(
    sync_mode: SyncMode, num_source_frames: int, num_frames: int
) -> NDArray[np.int64]:
    """Return the source frame of each of ``num_frames`` output frames, int64 (num_frames,).

    Args:
        sync_mode: how the video goes on behind its end; ``remap`` spreads it over the whole.
        num_source_frames: frames of the source at 25 fps, at least 1.
        num_frames: frames of the output.
    """
    last = num_source_frames - 1
    ticks = np.arange(num_frames, dtype=np.int64)
    if sync_mode in (SyncMode.CUT_OFF, SyncMode.SILENCE):
        return ticks.clip(max=last)
    if sync_mode is SyncMode.LOOP:
        return ticks % num_source_frames
    if sync_mode is SyncMode.REMAP:
        return np.rint(np.linspace(0, last, num_frames)).astype(np.int64)
    period = max(1, 2 * last)  # 0 … last … 1, and again
    return last - np.abs(ticks % period - last)
