"""Changes the size of a picture by bicubic filters that widen when it shrinks (no aliasing).

Each row of the result is a mean over a few neighbouring rows, so the matrix of weights is a band
along the diagonal. It is multiplied block by block, which leaves out nearly all of its zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from latentsync.face.boxes import Floats

_SHARPNESS = -0.5  # slope of the filter at distance one: Catmull-Rom's
_REACH = 2.0  # pixels of the coarser picture
_BLOCK = 16  # rows of the result; more would multiply more zeros, fewer would cost more calls


@dataclass(frozen=True, eq=False)
class _Block:
    """``weights`` (outputs, inputs) make the values ``outputs`` from the values ``inputs``."""

    outputs: slice
    inputs: slice
    weights: Floats
    turned: Floats  # the same as (inputs, outputs) in memory, for rows of values


def resize_bicubic(planes: Floats, width: int, height: int, *, out: Floats | None = None) -> Floats:
    """Return the picture at another size, float32 (channels, height, width); not clipped.

    Args:
        planes: float32 (channels,H,W).
        width: wanted, in pixels.
        height: wanted, in pixels.
        out: where to put the result.
    """
    channels, rows, columns = planes.shape
    wide = np.empty((channels, rows, width), np.float32)
    for block in _blocks(columns, width):
        np.matmul(planes[:, :, block.inputs], block.turned, out=wide[:, :, block.outputs])
    sized = np.empty((channels, height, width), np.float32) if out is None else out
    for block in _blocks(rows, height):
        np.matmul(block.weights, wide[:, block.inputs], out=sized[:, block.outputs])
    return sized


@cache
def _blocks(size: int, wanted: int) -> tuple[_Block, ...]:
    weights = _weights(size, wanted)
    blocks = []
    for start in range(0, wanted, _BLOCK):
        outputs = slice(start, min(start + _BLOCK, wanted))
        used = np.flatnonzero(weights[outputs].any(axis=0))
        inputs = slice(int(used[0]), int(used[-1]) + 1)
        used_weights = weights[outputs, inputs].astype(np.float32)
        turned = np.ascontiguousarray(used_weights.T)
        blocks.append(_Block(outputs, inputs, used_weights, turned))
    return tuple(blocks)


def _weights(size: int, wanted: int) -> NDArray[np.float64]:
    """Return the whole matrix, (wanted, size); every row sums to one, at the edges too."""
    step = size / wanted
    middles = (np.arange(wanted)[:, None] + 0.5) * step
    distances = np.abs(np.arange(size) + 0.5 - middles) / max(step, 1.0)
    weights = _cubic(distances)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _cubic(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the filter of R. Keys, "Cubic convolution interpolation", 1981."""
    x, a = distances, _SHARPNESS
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < _REACH, far, 0.0))
