"""Log-mel spectrogram of a whole recording, a window at a time.

The maximum of the whole recording determines the floor of every window, so the spectrum is computed
twice, once for the maximum and once for the columns. Only a few seconds of it are in memory.

Source of the formulas: the front end of OpenAI Whisper; bands after M. Slaney's Auditory Toolbox.
"""

from collections.abc import Iterator
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentsync.formats import SAMPLE_RATE, Waveform

N_FFT = 400  # samples in one spectrum, 25 ms
HOP_LENGTH = 160  # samples between two columns, 10 ms
N_MELS = 80
WINDOW_COLUMNS = 3000  # input of the encoder, 30 s
MIN_SAMPLES = 2 * HOP_LENGTH  # shorter recordings are padded with silence

_DYNAMIC_RANGE = 8.0  # decades below the maximum of the recording
_QUIETEST = 1e-10  # power
_BLOCK_COLUMNS = WINDOW_COLUMNS // 4  # computed at once

Floats = NDArray[np.float32]
Reals = NDArray[np.float64]


class LogMel:
    """The log-mel columns of one recording, computed on demand.

    Args:
        waveform: mono 16 kHz, -1..1. A recording of fewer than 320 samples, even an empty one, is
            padded with silence to 320, the least for which the encoder yields a row.
    """

    def __init__(self, waveform: Waveform) -> None:
        missing = max(0, MIN_SAMPLES - len(waveform))
        self._waveform = np.pad(waveform, (0, missing)) if missing else waveform

    @property
    def num_columns(self) -> int:
        """One column per 10 ms; at least two."""
        return len(self._waveform) // HOP_LENGTH

    @cached_property
    def peak(self) -> float:
        """log10 of the largest power in any band and column of the whole recording."""
        return max(float(block.max()) for block in self._blocks(0, self.num_columns))

    def columns(self, start: int, stop: int) -> Floats:
        """Return the columns ``start`` to ``stop``, float32 (80, stop - start), at most about 2.

        Raises:
            ValueError: there are no such columns.
        """
        if not 0 <= start <= stop <= self.num_columns:
            raise ValueError(f"columns {start} to {stop} of {self.num_columns}")
        mel = np.empty((N_MELS, stop - start), np.float32)
        filled = 0
        for block in self._blocks(start, stop):
            floored = np.maximum(block, self.peak - _DYNAMIC_RANGE)
            mel[:, filled : filled + len(block)] = ((floored + 4) / 4).T
            filled += len(block)
        return mel

    def padded_window(self, start: int, stop: int) -> Floats:
        """Return float32 (80, 3000): the columns, then zeros.

        The padding is zeros of the scaled logarithm, not silence, as in training.
        """
        window = np.zeros((N_MELS, WINDOW_COLUMNS), np.float32)
        window[:, : stop - start] = self.columns(start, stop)
        return window

    def _blocks(self, start: int, stop: int) -> Iterator[Reals]:
        """Yield log10 of the power, float64 (columns, 80), block by block."""
        for first in range(start, stop, _BLOCK_COLUMNS):
            last = min(first + _BLOCK_COLUMNS, stop)
            yield _log_power(_samples_under(self._waveform, first, last))


@cache
def mel_filters() -> Reals:
    """Return the triangular filters of the bands, float64 (80, 201), all of equal area.

    The scale is linear below 1000 Hz (3 mel in 200 Hz) and logarithmic above (27 mel in a factor
    of 6.4).
    """
    top = _hz_to_mel(SAMPLE_RATE / 2)
    edges = _mel_to_hz(np.linspace(0.0, top, N_MELS + 2))
    bins = np.linspace(0.0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    low, middle, high = (edges[i : i + N_MELS, None] for i in range(3))
    rising = (bins - low) / (middle - low)
    falling = (high - bins) / (high - middle)
    return np.asarray(np.maximum(0.0, np.minimum(rising, falling)) * 2 / (high - low))


def _hz_to_mel(hz: float) -> float:
    """Only for frequencies of 1000 Hz and more."""
    return 15 + 27 * float(np.log(hz / 1000) / np.log(6.4))


def _mel_to_hz(mel: Reals) -> Reals:
    return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))


@cache
def _taper() -> Reals:
    """Return the periodic Hann window."""
    return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT))


def _samples_under(waveform: Waveform, first: int, last: int) -> NDArray[np.floating[Any]]:
    """Return the samples of the columns ``first`` to ``last``, reflected at both ends."""
    half = N_FFT // 2  # a column is centred on its samples
    begin, end = first * HOP_LENGTH - half, (last - 1) * HOP_LENGTH + half
    inside = waveform[max(begin, 0) : min(end, len(waveform))]
    if begin >= 0 and end <= len(waveform):
        return inside
    # An edge block of a long recording is longer than the mirrored part; a short recording is
    # all in one block.
    return np.pad(inside, (max(-begin, 0), max(end - len(waveform), 0)), mode="reflect")


def _log_power(samples: NDArray[np.floating[Any]]) -> Reals:
    frames = np.lib.stride_tricks.sliding_window_view(samples, N_FFT)[::HOP_LENGTH]
    spectrum = np.fft.rfft(frames * _taper(), axis=1)
    power = spectrum.real**2 + spectrum.imag**2
    return np.log10(np.maximum(power @ mel_filters().T, _QUIETEST))
