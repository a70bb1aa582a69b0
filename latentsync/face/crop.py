"""From a frame to the face that the networks see."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from latentsync.face.alignment import Matrix, crop_size
from latentsync.face.bilinear import invert, place_pixels, sample, to_planes, window_of
from latentsync.formats import Frame

OUTSIDE = 127.0  # grey level beyond the frame


def cut_face(frame: Frame, matrix: Matrix, resolution: int) -> Frame:
    """Return the aligned face, R,R,3 uint8 RGB.

    Args:
        frame: H,W,3 uint8 RGB.
        matrix: float32 (2,3), from the frame to the crop, from ``FaceAligner``.
        resolution: R, side of the face in pixels.
    """
    return fit_crop(cut_crop(frame, matrix, resolution), resolution)


def cut_crop(frame: Frame, matrix: Matrix, resolution: int) -> Frame:
    """Return the upright crop around the face, uint8, values cut not rounded.

    Its size is ``crop_size(resolution)``; beyond the frame it is grey.
    """
    width, height = crop_size(resolution)
    source = frame.shape[0], frame.shape[1]
    to_frame = invert(matrix)
    planes = to_planes(frame, window_of(to_frame, (height, width), source))
    places = place_pixels(matrix, source, (height, width))
    colors = sample(planes, places, outside=OUTSIDE)[:3].to(torch.uint8)
    return np.asarray(cv2.merge(list(colors.numpy())), np.uint8)


def fit_crop(crop: Frame, resolution: int) -> Frame:
    """Return the crop at the networks' resolution, R,R,3 uint8."""
    face = cv2.resize(crop, (resolution, resolution), interpolation=cv2.INTER_LANCZOS4)
    return np.asarray(face, np.uint8)
