"""Hard cuts between camera shots."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from latentsync.formats import Frame

_GRID = (18, 32)  # samples per frame, rows and columns
_CUT_CHANGE = 24.0  # mean change of brightness between two frames, of 255


class CutFinder:
    """Compares each frame with the one before.

    A flash counts as a cut too; that costs one more search and loses nothing.
    """

    def __init__(self) -> None:
        self._last: NDArray[np.float32] | None = None

    def is_cut(self, frame: Frame) -> bool:
        """Tell whether ``frame`` begins a new shot; the first frame does not."""
        samples = _sample(frame)
        last, self._last = self._last, samples
        return last is not None and float(np.abs(samples - last).mean()) > _CUT_CHANGE


def _sample(frame: Frame) -> NDArray[np.float32]:
    """Return the brightness at a coarse grid of small blocks, float32 (18,32)."""
    height, width = frame.shape[:2]
    rows = np.linspace(0, height - 1, 2 * _GRID[0]).astype(int)
    columns = np.linspace(0, width - 1, 2 * _GRID[1]).astype(int)
    brightness = frame[rows[:, None], columns].astype(np.float32).mean(axis=2)
    blocks: NDArray[np.float32] = brightness.reshape(_GRID[0], 2, _GRID[1], 2).mean(axis=(1, 3))
    return blocks
