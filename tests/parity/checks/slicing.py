"""audio_slicing.npz: which rows of features a video frame hears."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from latentsync.formats import VIDEO_FPS
from latentsync.pipelines.lipsync.audio_features import count_slices, slice_rows
from tests.parity.output import Output
from tests.parity.recorded import Array, RecordedFile
from tests.parity.tolerance import EXACT


def slice_features(features: Array, frame_indices: Array) -> Array:
    """Return the slice of each video frame, float32 (frames, 10 * states, width).

    Args:
        features: float32 (rows, states, width) of the whole recording.
        frame_indices: int64 (frames,), numbers of video frames.
    """
    slices = features[slice_rows(frame_indices, len(features))]
    return slices.reshape(len(frame_indices), -1, features.shape[2])


def check(recorded: RecordedFile) -> Iterator[Output]:
    for match in recorded.numbered(r"(?:otherfps_([\d.]+)_)?idx_L(\d+)"):
        fps, rows = float(match[1] or VIDEO_FPS), int(match[2])
        yield Output(match[0], EXACT, lambda fps=fps, rows=rows: _rows(rows, fps), "int")
    if "features" in recorded or "chunks" in recorded:
        yield Output("chunks", EXACT, lambda: _chunks(recorded.read("features", "float32")))


def _rows(num_rows: int, video_fps: float) -> Array:
    return slice_rows(np.arange(count_slices(num_rows, video_fps)), num_rows, video_fps)


def _chunks(features: Array) -> Array:
    return slice_features(features, np.arange(count_slices(len(features))))
