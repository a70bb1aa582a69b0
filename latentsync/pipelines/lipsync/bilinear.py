"""Bilinear sampling in float32, and the crop of a face from its frame.

OpenCV's warps have a resolution of 1/32 pixel, which is up to three levels off on sharp faces. The
operations here, their order and their precision are those of the crops that LatentSync was trained
on, including values that are truncated because rounding put them just below a whole level.
"""

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import grid_sample, pad

from latentsync.formats import Frame
from latentsync.pipelines.lipsync.alignment import Matrix, crop_size

Size = tuple[int, int]  # height, width
Window = tuple[slice, slice]  # rows, columns
Affine = NDArray[np.floating[Any]]  # (2,3)
_MARGIN = 2  # pixels around a window


def invert(matrix: Affine) -> NDArray[np.float64]:
    """Return the inverse map, float64 (2,3)."""
    return np.asarray(cv2.invertAffineTransform(matrix.astype(np.float64)), np.float64)


def window_of(matrix: Affine, source: Size, output: Size) -> Window:
    """Return the part of ``output`` that ``source`` is mapped to, two pixels larger; may be empty.

    Args:
        matrix: (2,3), from source pixels to output pixels, whose centres are at integers.
        source: height and width in pixels.
        output: height and width in pixels.
    """
    height, width = source
    ends = np.array([[-1, -1], [width, -1], [-1, height], [width, height]], np.float64)
    corners = ends @ matrix[:, :2].T + matrix[:, 2]
    limits = output[::-1]
    low = np.clip(np.floor(corners.min(axis=0)) - _MARGIN, 0, limits).astype(int)
    high = np.clip(np.ceil(corners.max(axis=0)) + _MARGIN + 1, 0, limits).astype(int)
    return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))


def to_planes(frame: Frame, window: Window) -> torch.Tensor:
    """Return the frame's colours and a plane of ones, float32 (4,H,W), 0..255.

    Only the values in ``window`` are set; the others are never read.
    """
    planes = torch.empty((4, *frame.shape[:2]))
    part = planes[(slice(None), *window)].numpy()
    part[:3] = split_colors(frame[window])
    part[3] = 1
    return planes


def split_colors(picture: Frame) -> NDArray[np.uint8]:
    """Return the colours of h,w,3 uint8 RGB as planes, uint8 (3,h,w).

    An odd stride between the planes keeps ``cv2.split`` from using non-temporal stores, after which
    reading the planes would take several times as long.
    """
    height, width = picture.shape[:2]
    rows = np.empty((height, 3, width | 1), np.uint8)
    planes = rows[:, :, :width].transpose(1, 0, 2)
    cv2.split(picture, list(planes))
    return planes


def place_pixels(
    matrix: Affine, source: Size, output: Size, window: Window | None = None
) -> torch.Tensor:
    """Return the positions of output pixels in the source, for ``grid_sample``.

    Args:
        matrix: (2,3), from source pixels to output pixels, whose centres are at integers.
        source: height and width in pixels.
        output: height and width in pixels.
        window: rows and columns of the output; all by default.

    Returns:
        float32 (1,h,w,2), x and y, -1 at the centre of the source's first pixel and 1 at that of
        its last.
    """
    forward = pad(torch.as_tensor(matrix, dtype=torch.float32)[None], (0, 0, 0, 1))
    forward[:, 2, 2] = 1
    to_unit, from_unit = _to_unit(*output), _from_unit(*source)
    backward = torch.linalg.inv(to_unit @ (forward @ from_unit))[0, :2]
    rows, columns = window or (slice(None), slice(None))
    x, y = _ticks(output[1])[columns], _ticks(output[0])[rows]
    places = torch.empty(2, len(y), len(x))
    for place, (a, b, c) in zip(places, backward, strict=True):
        torch.addcmul(x * a, y[:, None], b, out=place).add_(c)
    return places.permute(1, 2, 0)[None]


def sample(planes: torch.Tensor, places: torch.Tensor, *, outside: float) -> torch.Tensor:
    """Return the source's values at positions between its pixels.

    Args:
        planes: float32 (channels + 1,H,W), the source; its last plane is ones.
        places: float32 (1,h,w,2), from ``place_pixels``.
        outside: value of every pixel outside of the source; blended at the edge.

    Returns:
        float32 (channels + 1,h,w): the values, and last the coverage by the source, 0..1.
    """
    values = interpolate(planes, places)
    values[:-1] += (1 - values[-1]) * outside
    return values


def interpolate(planes: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return values at positions between pixels, float32 (channels,h,w), with 0 outside.

    Args:
        planes: float32 (channels,H,W).
        places: float32 (1,h,w,2), from ``place_pixels``.
    """
    return grid_sample(planes[None], places, align_corners=True)[0]


@lru_cache(maxsize=32)
def _to_unit(height: int, width: int) -> torch.Tensor:
    """Return the (1,3,3) map from pixels to -1..1."""
    matrix = torch.tensor([[[1.0, 0.0, -1.0], [0.0, 1.0, -1.0], [0.0, 0.0, 1.0]]])
    matrix[0, 0, 0] = 2 / max(width - 1, 1)
    matrix[0, 1, 1] = 2 / max(height - 1, 1)
    return matrix


@lru_cache(maxsize=32)
def _from_unit(height: int, width: int) -> torch.Tensor:
    """Return the (1,3,3) map from -1..1 to pixels."""
    inverse: torch.Tensor = torch.linalg.inv(_to_unit(height, width))
    return inverse


def _ticks(count: int) -> torch.Tensor:
    return torch.linspace(-1, 1, count)


OUTSIDE = 127.0  # grey level outside of the frame


def cut_face(frame: Frame, matrix: Matrix, resolution: int) -> Frame:
    """Return the aligned face, R,R,3 uint8 RGB.

    Args:
        frame: H,W,3 uint8 RGB.
        matrix: float32 (2,3), from the frame to the crop, from ``FaceAligner``.
        resolution: R, side of the face in pixels.
    """
    return fit_crop(cut_crop(frame, matrix, resolution), resolution)


def cut_crop(frame: Frame, matrix: Matrix, resolution: int) -> Frame:
    """Return the aligned crop around the face, uint8, values truncated.

    Its size is ``crop_size(resolution)``; it is grey outside of the frame.
    """
    width, height = crop_size(resolution)
    source = frame.shape[0], frame.shape[1]
    to_frame = invert(matrix)
    planes = to_planes(frame, window_of(to_frame, (height, width), source))
    places = place_pixels(matrix, source, (height, width))
    colors = sample(planes, places, outside=OUTSIDE)[:3].to(torch.uint8)
    return np.asarray(cv2.merge(list(colors.numpy())), np.uint8)


def fit_crop(crop: Frame, resolution: int) -> Frame:
    """Resize the crop to the networks' resolution, R,R,3 uint8."""
    face = cv2.resize(crop, (resolution, resolution), interpolation=cv2.INTER_LANCZOS4)
    return np.asarray(face, np.uint8)
