"""Pastes a generated face back into its frame; only the pixels around the face change.

The face is resized by antialiased bicubic interpolation. Each row of the result is a mean over a
few neighbouring rows, so the matrix of weights is a band matrix; it is multiplied block by block,
which skips nearly all of its zeros.
"""

import math
from dataclasses import dataclass
from functools import cache
from threading import local

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from latentsync.face.geometry import Floats
from latentsync.formats import Frame
from latentsync.pipelines.lipsync.alignment import Matrix, crop_size
from latentsync.pipelines.lipsync.bilinear import (
    interpolate,
    invert,
    place_pixels,
    split_colors,
    window_of,
)

_SHARPNESS = -0.5  # slope of the filter at distance one: Catmull-Rom's
_REACH = 2.0  # support of the filter in pixels of the coarser picture
_BLOCK = 16  # rows of the result; larger blocks have more zeros, smaller ones need more calls


@dataclass(frozen=True, eq=False)
class _Block:
    """``weights`` (outputs, inputs) map the values ``inputs`` to the values ``outputs``."""

    outputs: slice
    inputs: slice
    weights: Floats
    turned: Floats  # transposed copy, (inputs, outputs), for rows


def resize_bicubic(planes: Floats, width: int, height: int, *, out: Floats | None = None) -> Floats:
    """Resize a picture to float32 (channels, height, width); not clipped.

    Args:
        planes: float32 (channels,H,W).
        width: of the result, in pixels.
        height: of the result, in pixels.
        out: array for the result.
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
    """Return the whole matrix, (wanted, size); every row sums to one."""
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


# Value outside of the crop, on the scale of -1..1: white after clipping. It lightens the seam of a
# black face by a few levels below and right, as in the results of LatentSync's authors.
_OUTSIDE = 127.0
_HALF = 127.5  # levels
_ROUNDING = 1e-4  # largest error of float32 positions, in pixels
_SEAM = 20  # side of the face divided by the width of the seam


@dataclass(frozen=True, eq=False)
class SeamMask:
    """The opacity of the generated face in each pixel of a region.

    Args:
        area: sum of ``coverage`` in pixels.
        width: of the seam in pixels; 0 for a tiny face.
        coverage: float32 (h,w), coverage of the pixel by the crop, eroded at its edge.
        soft: float32 (h,w), 1 inside, falling to 0 at the edge of the crop.
    """

    area: float
    width: int
    coverage: Floats
    soft: Floats


def restore_face(frame: Frame, face: Floats, matrix: Matrix) -> Frame:
    """Return a copy of the frame with the face pasted in, H,W,3 uint8 RGB.

    Args:
        frame: H,W,3 uint8 RGB.
        face: float32 (3,R,R), about -1..1.
        matrix: float32 (2,3), from the frame to the crop, as the face was cut.
    """
    restored = frame.copy()
    width, height = crop_size(face.shape[-1])
    source, output = (height, width), (frame.shape[0], frame.shape[1])
    to_frame = invert(matrix)
    window = window_of(to_frame, source, output)
    region = restored[window]
    if region.size > 0:
        planes = _canvas.of_size(height, width)
        fit_face(face, out=planes[:3])
        places = place_pixels(to_frame, source, output, window)
        *colors, covered = interpolate(torch.from_numpy(planes), places).numpy()
        _to_levels(colors, covered)
        _blend(region, colors, seam_mask(covered))
    return restored


class _Canvas(local):
    """A reused buffer per thread: allocating one costs more than resizing the face."""

    def __init__(self) -> None:
        self._planes = np.empty((4, 0, 0), np.float32)

    def of_size(self, height: int, width: int) -> Floats:
        """Return float32 (4,height,width): uninitialized colours and a plane of ones."""
        if self._planes.shape[1:] != (height, width):
            self._planes = np.ones((4, height, width), np.float32)
        return self._planes


_canvas = _Canvas()


def fit_face(face: Floats, *, out: Floats | None = None) -> Floats:
    """Resize the face (3,R,R) to its crop, float32 (3,height,width); not clipped."""
    return resize_bicubic(face, *crop_size(face.shape[-1]), out=out)


def seam_mask(covered: Floats) -> SeamMask:
    """Return the soft mask for a coverage ``covered``, float32 (h,w), 0..1.

    The mask is not eroded at the edges of the array: they are edges of the frame, or not covered.
    """
    coverage = _erode(covered, 2, anchor=1)
    # Without this, rounding would make the area of a fully covered square smaller by one.
    np.copyto(coverage, 1, where=coverage > 1 - _ROUNDING)
    area = cv2.sumElems(coverage)[0]  # in double precision
    width = int(math.sqrt(area)) // _SEAM
    center = _erode(coverage, 2 * width, anchor=width) if width else _erode(coverage, 3, anchor=1)
    size, sigma = 2 * width + 1, 0.3 * (width - 1) + 0.8
    border = cv2.BORDER_REFLECT_101
    cv2.GaussianBlur(center, (size, size), sigma, dst=center, borderType=border)
    return SeamMask(area, width, coverage, soft=center)


def _erode(values: Floats, size: int, *, anchor: int) -> Floats:
    """Return the minimum over ``size`` x ``size`` pixels, ``anchor`` of them before the pixel."""
    window = np.ones((size, size), np.uint8)
    return np.asarray(cv2.erode(values, window, anchor=(anchor, anchor)), np.float32)


def _to_levels(colors: list[Floats], covered: Floats) -> None:
    """Blend in the value outside and map -1..1 to 0..255, clipped, in place.

    Args:
        colors: three planes of (h,w), 0 where the crop does not cover a pixel.
        covered: (h,w), 0..1.
    """
    outside = 1 - covered
    outside *= _HALF * _OUTSIDE
    outside += _HALF
    for color in colors:
        cv2.scaleAdd(color, _HALF, outside, dst=color)
        np.clip(color, 0, 255, out=color)


def _blend(region: Frame, colors: list[Floats], mask: SeamMask) -> None:
    """Set ``region``, h,w,3 uint8, to soft * coverage * colors + (1 - soft) * region, truncated.

    ``colors``, three planes of (h,w), are overwritten: allocating memory costs more than the
    arithmetic.
    """
    shown, kept = mask.soft * mask.coverage, 1 - mask.soft
    planes, before = split_colors(region), np.empty_like(kept)
    for plane, color in zip(planes, colors, strict=True):
        cv2.multiply(color, shown, dst=color)
        cv2.multiply(plane, kept, dst=before, dtype=cv2.CV_32F)
        cv2.add(color, before, dst=color)
        np.copyto(plane, color, casting="unsafe")
    cv2.merge(list(planes), dst=region)
