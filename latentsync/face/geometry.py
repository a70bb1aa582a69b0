"""Boxes in pixels (x1, y1, x2, y2), and the indices of the 468 landmarks by part of the face.

The indices are those of MediaPipe's canonical face model (Apache-2.0), checked by drawing them on
faces. "Right" and "left" are the person's own; the right side is on the left of the picture. Rings
start at the person's right (rings of lips) or at the forehead (oval) and run clockwise as seen in
the picture.
"""

import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]
Floats = NDArray[np.float32]

NUM_LANDMARKS = 468

# Lips: corner, along the upper lip to the other corner, back along the lower lip. Entry i of the
# outer ring is opposite to entry i of the inner ring.
LIPS_OUTER = (
    61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146,
)  # fmt: skip
LIPS_INNER = (
    78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95,
)  # fmt: skip
UPPER_LIP_INNER, LOWER_LIP_INNER = 13, 14  # their distance is the lip gap
MOUTH_RIGHT, MOUTH_LEFT = 61, 291  # outer corners

FACE_OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152,
    148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
# Right ear, along the jaw under the chin, to the left ear.
JAW = (
    234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288, 361,
    323, 454,
)  # fmt: skip
FOREHEAD, CHIN = 10, 152

RIGHT_EYE_OUTER, LEFT_EYE_OUTER = 33, 263
NOSE_TIP, NOSE_BOTTOM = 1, 2
NOSE_WINGS = (98, 327)  # right, left
FACE_SIDES = (234, 454)  # right, left: in front of the ears

BROW_RIGHT = (46, 53, 52, 65, 55, 70, 63, 105, 66, 107)
BROW_LEFT = (276, 283, 282, 295, 285, 300, 293, 334, 296, 336)

# Sets whose means replace the three alignment points of the diffusion models. Here "left" and
# "right" are those of the picture, as in those models.
ALIGNMENT_LEFT_BROW = BROW_RIGHT
ALIGNMENT_RIGHT_BROW = BROW_LEFT
ALIGNMENT_NOSE = (4, 5, 48, 278)

# Points that hardly move with speech or blinking; they determine the pose of the head.
RIGID = (
    6, 168, 197, 195, 5, 4, 1, 98, 327, 33, 133, 362, 263, 127, 356, 162, 389, 21, 251, 10, 151,
    9, 8, 54, 284, 67, 297, 109, 338, 50, 280,
)  # fmt: skip


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
