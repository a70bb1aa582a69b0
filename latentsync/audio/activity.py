"""Loudness and voice activity on one time grid of 10 ms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pocketsphinx import Vad

from latentsync.formats import SAMPLE_RATE, Waveform

HOP_S = 0.01  # seconds between two values of every curve in this package
HOP_SAMPLES = int(SAMPLE_RATE * HOP_S)
_WINDOW_HOPS = 3  # loudness is measured over 30 ms, the length of a glottal pulse or two
_VAD_FRAME_S = 0.03
_VAD_STRICTNESS = 2  # 0 (lets much through) to 3 (strict)
_QUIETEST_DB = -90.0  # loudness of digital silence
_ACTIVE_RANGE_DB = 35.0  # speech lives within this distance of its own loud level
_NOISE_GATE_DB = -60.0  # nothing quieter than this is speech, whatever the detector says


def to_pcm16(waveform: Waveform) -> NDArray[np.int16]:
    """Return the waveform as int16, quiet recordings lifted to a peak of half scale."""
    peak = float(max(waveform.max(initial=0.0), -waveform.min(initial=0.0)))
    gain = 0.5 / peak if 1e-4 < peak < 0.5 else 1.0
    scaled = waveform * np.float32(gain * 32767)
    return np.clip(scaled, -32768, 32767, out=scaled).astype(np.int16)


def measure_loudness_db(waveform: Waveform) -> NDArray[np.float64]:
    """Return the loudness in dB of full scale, one value per 10 ms, centred on its window."""
    hops = -(-len(waveform) // HOP_SAMPLES)
    if hops == 0:
        return np.zeros(0)
    whole = len(waveform) // HOP_SAMPLES
    blocks = waveform[: whole * HOP_SAMPLES].reshape(whole, HOP_SAMPLES)
    rest = waveform[whole * HOP_SAMPLES :]
    energy = np.einsum("ij,ij->i", blocks, blocks, dtype=np.float64)
    power = np.append(energy, np.square(rest).sum())[:hops] / HOP_SAMPLES
    power = np.convolve(power, np.full(_WINDOW_HOPS, 1 / _WINDOW_HOPS), mode="same")[:hops]
    return np.asarray(10 * np.log10(np.maximum(power, 10 ** (_QUIETEST_DB / 10))))


def detect_voice(waveform: Waveform, loudness_db: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return for every 10 ms whether somebody speaks.

    The detector (WebRTC's, inside pocketsphinx) hears the timbre; the loudness relative to the
    recording's own loud level removes breath and room noise that it lets through.
    """
    voiced = _run_detector(to_pcm16(waveform), len(loudness_db))
    if not voiced.any():
        return voiced
    loud_level = float(np.percentile(loudness_db[voiced], 95))
    floor_db = max(loud_level - _ACTIVE_RANGE_DB, _NOISE_GATE_DB)
    return np.asarray(voiced & (loudness_db > floor_db))


def _run_detector(pcm: NDArray[np.int16], hops: int) -> NDArray[np.bool_]:
    detector = Vad(mode=_VAD_STRICTNESS, sample_rate=SAMPLE_RATE, frame_length=_VAD_FRAME_S)
    step = detector.frame_bytes // pcm.itemsize
    voiced = np.zeros(hops, dtype=np.bool_)
    for start in range(0, len(pcm), step):
        block = pcm[start : start + step]
        if len(block) < step:
            block = np.pad(block, (0, step - len(block)))
        if detector.is_speech(block.tobytes()):
            voiced[start // HOP_SAMPLES : -(-(start + step) // HOP_SAMPLES)] = True
    return voiced


def loudness_gain(
    loudness_db: NDArray[np.float64], voiced: NDArray[np.bool_], *, range_db: float = 25.0
) -> NDArray[np.float64]:
    """Return how loud each 10 ms is on a scale of 0 (``range_db`` below) to 1 (the loud level)."""
    if not voiced.any():
        return np.zeros_like(loudness_db)
    loud_level = float(np.percentile(loudness_db[voiced], 90))
    return np.asarray(np.clip(1 + (loudness_db - loud_level) / range_db, 0.0, 1.0))
