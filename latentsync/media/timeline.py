"""Maps the timestamps of a source video to a constant 25 fps, and its frames to output frames."""

import base64
import math
import zlib
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import PlainSerializer, PlainValidator

from latentsync.formats import ROUNDING, VIDEO_FPS
from latentsync.schema.fields import SyncMode


def _pack(stamps: NDArray[np.int64]) -> str:
    """Return timestamps as text; their differences hardly vary, so they compress well."""
    steps = np.diff(stamps, prepend=0).astype("<i8")
    return base64.b64encode(zlib.compress(steps.tobytes())).decode("ascii")


def _unpack(text: object) -> NDArray[np.int64]:
    """Return the timestamps of :func:`_pack`; raises ValueError for anything else."""
    if not isinstance(text, str):
        raise ValueError("packed timestamps are text")
    try:
        steps = np.frombuffer(zlib.decompress(base64.b64decode(text)), "<i8")
    except zlib.error as error:
        raise ValueError(f"packed timestamps are damaged: {error}") from None
    return np.cumsum(steps, dtype=np.int64)


# In units of the stream's time base.
Timestamps = Annotated[NDArray[np.int64], PlainValidator(_unpack), PlainSerializer(_pack)]

# Containers round timestamps (Matroska to 1 ms); these tolerances absorb that.
_TIE_S = 0.001
_PARTIAL_SLOT = 0.1  # a shorter rest of a slot is rounding, not a frame


@dataclass(frozen=True, eq=False)
class Timeline:
    """The source frame of every 25 fps slot; time zero is the first source frame.

    Attributes:
        start_s: time of the first source frame on the clock of the file.
        slot_pts: int64 (num_frames,), timestamp of the source frame shown in each slot.
        keyframe_pts: int64 (num_keyframes,), where decoding can start, ascending.
        time_base: seconds per unit of the timestamps.
        duration_s: from the first frame to the end of the last one.
        fps: average frame rate of the source.
        keyframe_numbers: int64 (num_keyframes,), of the keyframes' packets, counted in the order of
            the file.
        keyframe_positions: of the same packets, in bytes from the start of the file. Empty unless
            the clock of the file jumps, because then timestamps do not tell where a frame is.
    """

    start_s: float
    slot_pts: Timestamps
    keyframe_pts: Timestamps
    time_base: Fraction
    duration_s: float
    fps: float
    keyframe_numbers: Timestamps = field(default_factory=lambda: np.zeros(0, np.int64))
    keyframe_positions: Timestamps = field(default_factory=lambda: np.zeros(0, np.int64))


def build_timeline(
    pts: Timestamps, keyframe_pts: Timestamps, last_duration: int, time_base: Fraction
) -> Timeline:
    """Map source frames to 25 fps slots.

    A slot has the frame that the source shows in the middle of that slot. A 25 fps source is thus
    mapped frame by frame even if its timestamps jitter, and other rates keep their speed.

    Args:
        pts: int64 (n,), n >= 1, timestamps of the frames shown, strictly ascending.
        keyframe_pts: int64, timestamps of the keyframes, ascending.
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
        start_s=float(pts[0]) * unit_s,
        slot_pts=pts[shown],
        keyframe_pts=keyframe_pts,
        time_base=time_base,
        duration_s=duration_s,
        fps=pts.size / duration_s,
    )


def count_frames(duration_s: float) -> int:
    """Return how many 25 fps frames cover ``duration_s``, rounded up.

    1.2 s x 25 are 30 frames, not the 31 of floating-point arithmetic.
    """
    return max(1, math.ceil(duration_s * VIDEO_FPS - ROUNDING))


def plan_frames(
    sync_mode: SyncMode, num_source_frames: int, audio_duration_s: float
) -> NDArray[np.int64]:
    """Return the source frame of each output frame, int64 (num_output_frames,).

    ``bounce``, ``loop`` and ``remap`` end with the audio, ``cut_off`` with the shorter of the two,
    ``silence`` with the longer.

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
        sync_mode: how the video continues after its end; ``remap`` changes its speed.
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
