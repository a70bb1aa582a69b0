"""Puts a finished face back into its frame; only the pixels around the face are touched."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from latentsync.face.alignment import Matrix, crop_size
from latentsync.face.bilinear import invert, place_pixels, sample, window_of
from latentsync.face.boxes import Floats
from latentsync.face.resampling import resize_bicubic
from latentsync.formats import Frame

# Beyond the crop, on the scale of -1..1: plain white once clipped. It lightens the seam of a black
# face by a few levels below and right, as in the frames that LatentSync's authors show.
_OUTSIDE = 127.0
_SEAM = 20  # the seam is as wide as the face's side over this


@dataclass(frozen=True, eq=False)
class SeamMask:
    """How much of the generated face each pixel of a region shows.

    Args:
        area: sum of ``coverage`` in pixels.
        width: of the seam in pixels, w; 0 for a tiny face.
        coverage: float32 (h,w), share of the pixel that the crop covers, its edge taken off.
        soft: float32 (h,w), 1 inside, falling to 0 at the edge of the crop.
    """

    area: float
    width: int
    coverage: Floats
    soft: Floats


def restore_face(frame: Frame, face: Floats, matrix: Matrix) -> Frame:
    """Return the frame with the face in its place, H,W,3 uint8 RGB; ``frame`` stays as it is.

    Args:
        frame: H,W,3 uint8 RGB.
        face: float32 (3,R,R), about -1..1.
        matrix: float32 (2,3), from the frame to the crop, the one that the face was cut with.
    """
    restored = frame.copy()
    width, height = crop_size(face.shape[-1])
    source, output = (height, width), (frame.shape[0], frame.shape[1])
    to_frame = invert(matrix)
    window = window_of(to_frame, source, output)
    region = restored[window]
    if region.size > 0:
        planes = np.empty((4, height, width), np.float32)
        fit_face(face, out=planes[:3])
        planes[3] = 1
        places = place_pixels(to_frame, source, output, window)
        values = sample(torch.from_numpy(planes), places, outside=_OUTSIDE)
        mask = seam_mask(values[3].numpy())
        _blend(region, _to_levels(values[:3]).numpy(), mask)
    return restored


def fit_face(face: Floats, *, out: Floats | None = None) -> Floats:
    """Return the face (3,R,R) at the size of its crop, float32 (3,height,width), not clipped."""
    return resize_bicubic(face, *crop_size(face.shape[-1]), out=out)


def seam_mask(covered: Floats) -> SeamMask:
    """Return the soft mask of a crop that covers each pixel by ``covered``, float32 (h,w), 0..1.

    The edges of the array do not wear the mask off: they are the frame's own, or lie where
    nothing is covered.
    """
    coverage = _erode(covered, 2, anchor=1)
    area = float(coverage.sum(dtype=np.float64))
    width = int(math.sqrt(area)) // _SEAM
    center = _erode(coverage, 2 * width, anchor=width) if width else _erode(coverage, 3, anchor=1)
    size, sigma = 2 * width + 1, 0.3 * (width - 1) + 0.8
    soft = cv2.GaussianBlur(center, (size, size), sigma, borderType=cv2.BORDER_REFLECT_101)
    return SeamMask(area, width, coverage, np.asarray(soft, np.float32))


def _erode(values: Floats, size: int, *, anchor: int) -> Floats:
    """Return the minimum over ``size`` x ``size``; ``anchor`` pixels of it lie before the pixel."""
    window = np.ones((size, size), np.uint8)
    return np.asarray(cv2.erode(values, window, anchor=(anchor, anchor)), np.float32)


def _to_levels(colors: torch.Tensor) -> torch.Tensor:
    """Change -1..1 to 0..255 in place, clipped."""
    return colors.mul_(0.5).add_(0.5).clamp_(0, 1).mul_(255)


def _blend(region: Frame, colors: Floats, mask: SeamMask) -> None:
    """Make ``region`` soft * coverage * colors + (1 - soft) * region, h,w,3 uint8, cut not rounded.

    ``colors`` (3,h,w) is used up.
    """
    shown, kept = mask.soft * mask.coverage, 1 - mask.soft
    colors *= shown
    before = np.empty_like(kept)
    for channel, color in enumerate(colors):
        np.multiply(region[:, :, channel], kept, out=before)
        color += before
        region[:, :, channel] = color
