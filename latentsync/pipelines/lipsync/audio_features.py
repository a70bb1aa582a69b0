"""Features of the speech around each video frame, computed on demand.

The encoder turns 30 s windows of log-mel columns into rows of features, 50 rows per second. A
video frame is conditioned on the ten rows around it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentsync.formats import SAMPLE_RATE, VIDEO_FPS, Waveform
from latentsync.models.whisper import WhisperEncoder
from latentsync.pipelines.lipsync.mel import WINDOW_COLUMNS, LogMel

ROWS_PER_SECOND = 50
COLUMNS_PER_ROW = 2  # log-mel columns
ROWS_BEFORE, ROWS_AFTER = 4, 5  # rows of a slice before and after the frame's own


@dataclass(frozen=True)
class Window:
    """Log-mel columns ``start`` to before ``stop``, for one pass of the encoder."""

    start: int
    stop: int

    @property
    def num_rows(self) -> int:
        """Rows of the encoder's output without those of the padding."""
        return (self.stop - self.start) // COLUMNS_PER_ROW


def plan_windows(num_columns: int) -> Iterator[Window]:
    """Yield windows of 3000 columns without overlap; a last one too short for a row is left out."""
    for start in range(0, num_columns, WINDOW_COLUMNS):
        window = Window(start, min(start + WINDOW_COLUMNS, num_columns))
        if window.num_rows > 0:
            yield window


def count_rows(num_columns: int) -> int:
    """Return how many rows the encoder yields for this many columns."""
    return sum(window.num_rows for window in plan_windows(num_columns))


def count_slices(num_rows: int, video_fps: float = VIDEO_FPS) -> int:
    """Return how many slices LatentSync makes of ``num_rows`` rows.

    The last slice is that of the first frame whose row is beyond the end; at 25 fps these are about
    two frames more than the sound has.
    """
    index = max(0, int(num_rows * video_fps / ROWS_PER_SECOND) - 1)
    while _center(index, video_fps) <= num_rows:
        index += 1
    return index + 1


def slice_rows(
    frame_indices: NDArray[np.int64], num_rows: int, video_fps: float = VIDEO_FPS
) -> NDArray[np.int64]:
    """Return the rows of each video frame's slice, int64 (frames, 10).

    Args:
        frame_indices: int64 (frames,), numbers of video frames, not negative.
        num_rows: rows of the whole recording, at least one; missing rows before and after it are
            replaced by its first or last row.
        video_fps: frames per second.

    Raises:
        ValueError: there are no rows.
    """
    if num_rows < 1:
        raise ValueError("there is no row of features to slice")
    centers = np.array([_center(int(index), video_fps) for index in frame_indices], np.int64)
    rows = centers[:, None] + np.arange(-ROWS_BEFORE, ROWS_AFTER + 1)
    return np.asarray(np.clip(rows, 0, num_rows - 1), np.int64)


def _center(index: int, video_fps: float) -> int:
    return int(index * ROWS_PER_SECOND / video_fps)


_WINDOWS_KEPT = 2  # of 30 s: the rows of a slice may be in two of them


class AudioFeatures:
    """The features of one recording; at most two windows are kept in memory.

    Args:
        waveform: float32 mono 16 kHz.
        encoder: Whisper's encoder.
        num_frames: number of video frames; those after the end of the sound get silence.
    """

    def __init__(self, waveform: Waveform, encoder: WhisperEncoder, num_frames: int) -> None:
        self._mel = LogMel(_fill_up(waveform, num_frames))
        self._encoder = encoder
        self._windows = list(plan_windows(self._mel.num_columns))
        self._first_rows = np.cumsum([0, *(window.num_rows for window in self._windows)])
        self._kept: dict[int, Tensor] = {}

    @torch.inference_mode()
    def slices(self, start: int, stop: int) -> Tensor:
        """Return the slices of the frames ``start`` to ``stop``, (stop - start, 50, width)."""
        rows = slice_rows(np.arange(start, stop), int(self._first_rows[-1]))
        low, high = int(rows.min()), int(rows.max()) + 1
        first = int(np.searchsorted(self._first_rows, low, side="right")) - 1
        last = int(np.searchsorted(self._first_rows, high - 1, side="right")) - 1
        heard = torch.cat([self._encode(index) for index in range(first, last + 1)])
        # rows, states, width -> frames, rows x states, width, with rows as the slow axis
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
    """Pad the waveform with silence if the video is longer than its features.

    The features of a recording cover about two frames more than the recording itself.
    """
    num_rows = count_rows(LogMel(waveform).num_columns)
    missing = num_frames * SAMPLE_RATE // VIDEO_FPS - len(waveform)
    if num_frames <= count_slices(num_rows) or missing <= 0:
        return waveform
    return np.pad(waveform, (0, missing))
