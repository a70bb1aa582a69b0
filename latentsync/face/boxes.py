"""Arithmetic of boxes x1, y1, x2, y2 in pixels."""

import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]
Floats = NDArray[np.float32]


def box_around(points: Floats) -> Box:
    """Return the smallest box that holds ``points`` (N,2 or N,3; x and y come first)."""
    x1, y1 = points[:, :2].min(axis=0)
    x2, y2 = points[:, :2].max(axis=0)
    return float(x1), float(y1), float(x2), float(y2)


def overlap(a: Box, b: Box) -> float:
    """Return intersection over union, 0..1."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (area(a) + area(b) - shared)


def area(box: Box) -> float:
    """Return the area in square pixels."""
    return (box[2] - box[0]) * (box[3] - box[1])


def center(box: Box) -> tuple[float, float]:
    """Return the middle of the box (x, y)."""
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def contains(box: Box, x: float, y: float) -> bool:
    """Tell whether the point lies inside the box or on its edge."""
    return box[0] <= x <= box[2] and box[1] <= y <= box[3]
