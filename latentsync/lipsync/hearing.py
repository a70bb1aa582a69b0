"""What each video frame hears: features of the sound around it, computed as frames come."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from latentsync.audio.mel import LogMel
from latentsync.audio.slices import count_rows, count_slices, plan_windows, slice_rows
from latentsync.formats import SAMPLE_RATE, VIDEO_FPS, Waveform
from latentsync.models.whisper import WhisperEncoder

_WINDOWS_KEPT = 2  # of 30 s: the ten rows around a frame may lie in two of them


class Hearing:
    """The features of one recording; memory holds two windows, however long it is.

    Args:
        waveform: float32 mono 16 kHz.
        encoder: Whisper's encoder.
        num_frames: frames that will be asked for. Beyond the sound they hear silence.
    """

    def __init__(self, waveform: Waveform, encoder: WhisperEncoder, num_frames: int) -> None:
        self._mel = LogMel(_fill_up(waveform, num_frames))
        self._encoder = encoder
        self._windows = list(plan_windows(self._mel.num_columns))
        self._first_rows = np.cumsum([0, *(window.num_rows for window in self._windows)])
        self._kept: dict[int, Tensor] = {}

    @torch.inference_mode()
    def slices(self, start: int, stop: int) -> Tensor:
        """Return what the frames ``start`` to ``stop`` hear: (stop - start, 50, width)."""
        rows = slice_rows(np.arange(start, stop), int(self._first_rows[-1]))
        low, high = int(rows.min()), int(rows.max()) + 1
        first = int(np.searchsorted(self._first_rows, low, side="right")) - 1
        last = int(np.searchsorted(self._first_rows, high - 1, side="right")) - 1
        heard = torch.cat([self._encode(index) for index in range(first, last + 1)])
        # rows, states, width -> frames, rows x states, width: time runs slowly, states lie together
        taken = heard[torch.from_numpy(rows - self._first_rows[first]).to(heard.device)]
        return taken.flatten(1, 2)

    def _encode(self, index: int) -> Tensor:
        """Return the states of one window, (rows, states, width)."""
        if index not in self._kept:
            window = self._windows[index]
            mel = self._mel.padded_window(window.start, window.stop)
            states = self._encoder(torch.from_numpy(mel)[None])[0, : window.num_rows]
            self._kept[index] = states
            while len(self._kept) > _WINDOWS_KEPT:
                del self._kept[next(iter(self._kept))]
        return self._kept[index]


def _fill_up(waveform: Waveform, num_frames: int) -> Waveform:
    """Return the waveform followed by silence where a video goes on after its sound.

    The two frames or so that a recording's own features always cover need none.
    """
    num_rows = count_rows(LogMel(waveform).num_columns)
    missing = num_frames * SAMPLE_RATE // VIDEO_FPS - len(waveform)
    if num_frames <= count_slices(num_rows) or missing <= 0:
        return waveform
    return np.pad(waveform, (0, missing))
