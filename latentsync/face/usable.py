"""Which faces lips can be drawn on: large enough, turned to us, mouth inside the picture."""

from __future__ import annotations

import math

import numpy as np

from latentsync.face import topology
from latentsync.face.boxes import Floats, box_around

MIN_SIZE = 32  # pixels; of the face, as ``face_size`` measures it
MAX_YAW = math.radians(58)  # beyond this the far corner of the mouth is hidden
MAX_OUTSIDE = 0.1  # share of the lips' points that may lie outside the picture
_SLACK = 1.08  # factor on every limit for a face that was usable just before, against flicker


def is_usable(points: Floats, width: int, height: int, *, was_usable: bool = False) -> bool:
    """Tell whether lips can be drawn on the face.

    Args:
        points: float32 (468,3) landmarks in pixels, z in the same unit.
        width: of the picture in pixels.
        height: of the picture in pixels.
        was_usable: in the frame before; the limits are a little wider then.
    """
    slack = _SLACK if was_usable else 1.0
    return (
        face_size(points) * slack >= MIN_SIZE
        and abs(yaw(points)) <= MAX_YAW * slack
        and _share_outside(points[list(topology.LIPS_OUTER)], width, height) <= MAX_OUTSIDE * slack
    )


def face_size(points: Floats) -> float:
    """Return the side of the square with the area of the landmarks' box, in pixels."""
    x1, y1, x2, y2 = box_around(points)
    return math.sqrt(max(0.0, x2 - x1) * max(0.0, y2 - y1))


def yaw(points: Floats) -> float:
    """Return how far the head is turned aside, in radians; 0 looks straight at the camera."""
    right, left = (points[side].astype(np.float64) for side in topology.FACE_SIDES)
    across = left - right
    return math.atan2(float(across[2]), math.hypot(float(across[0]), float(across[1])))


def _share_outside(points: Floats, width: int, height: int) -> float:
    x, y = points[:, 0], points[:, 1]
    return float(np.mean((x < 0) | (x > width - 1) | (y < 0) | (y > height - 1)))
