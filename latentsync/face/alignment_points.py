"""From landmarks to the three points that a face is aligned by: left brow, right brow, nose.

"Left" and "right" follow the picture. The points come from the 106 landmarks that LatentSync was
trained with, or from the embedded mesh of 468, whose licence allows every use.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from latentsync.face import topology
from latentsync.face.boxes import Floats

LEFT_BROW_106 = (43, 48, 49, 50, 51)
RIGHT_BROW_106 = (101, 102, 103, 104, 105)
NOSE_106 = (74, 77, 83, 86)

MIN_FACE_WIDTH, MIN_FACE_HEIGHT = 50, 80  # pixels
WIDEST, NARROWEST = 1.5, 0.2  # width over height
MIN_SCORE = 0.5

Points3 = NDArray[np.float64]  # (3,2): left brow, right brow, nose; x and y in pixels


def choose_largest(boxes: Floats, scores: Floats) -> int | None:
    """Return which of the faces to use, or None if none will do.

    Args:
        boxes: float32 (k,4), x1, y1, x2, y2 in pixels; corners count as whole pixels, cut.
        scores: float32 (k,).

    Returns:
        The largest face of at least 50 x 80 pixels and an ordinary shape; the first of equals.
    """
    fits = fits_limits(boxes, scores)
    if not fits.any():
        return None
    widths, heights = _sides(boxes)
    return int(np.argmax(np.where(fits, widths * heights, -1)))


def fits_limits(boxes: Floats, scores: Floats) -> NDArray[np.bool_]:
    """Return bool (k,): which faces are sure, large and ordinary enough; see choose_largest."""
    widths, heights = _sides(boxes)
    fits = (widths >= MIN_FACE_WIDTH) & (heights >= MIN_FACE_HEIGHT) & (scores >= MIN_SCORE)
    shapes = widths / np.maximum(heights, 1)
    return np.asarray(fits & (shapes <= WIDEST) & (shapes >= NARROWEST))


def _sides(boxes: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return widths and heights (k,) between corners cut to whole pixels."""
    corners = np.trunc(boxes).astype(np.int64)
    widths, heights = (corners[:, 2:] - corners[:, :2]).T
    return widths, heights


def round_landmarks(landmarks: Floats) -> NDArray[np.int64]:
    """Return the landmarks at whole pixels, halves to the even one; shape is kept."""
    return np.rint(landmarks).astype(np.int64)


def points3(landmarks: NDArray[np.integer]) -> Points3:
    """Return the three points of a face with 106 landmarks.

    Args:
        landmarks: integers (106,2), from ``round_landmarks``.

    Returns:
        float64 (3,2), whole numbers: means of landmarks, rounded once more.
    """
    sets = (LEFT_BROW_106, RIGHT_BROW_106, NOSE_106)
    return np.rint(_means(landmarks.astype(np.float64), sets))


def mesh_points3(landmarks: Floats) -> Points3:
    """Return the three points of a face with the embedded mesh's 468 landmarks.

    They are not rounded: the mesh is smoothed over time, and whole pixels would bring the
    jitter back.

    How far they lie from those of the 106 landmarks was not measured, for want of that network. Of
    the sets that fit the description of those points (brows whole or their upper edge; the nose's
    tip and wings with a lower or higher point of the bridge), every one puts the nose within 0.05
    of the distance of the brows of this one, on three faces: 5 pixels of the crop at 256.

    Args:
        landmarks: float32 (468,2) or (468,3) in pixels.

    Returns:
        float64 (3,2).
    """
    sets = (
        topology.ALIGNMENT_LEFT_BROW,
        topology.ALIGNMENT_RIGHT_BROW,
        topology.ALIGNMENT_NOSE,
    )
    return _means(landmarks[:, :2].astype(np.float64), sets)


def _means(landmarks: NDArray[np.float64], sets: tuple[tuple[int, ...], ...]) -> Points3:
    return np.stack([landmarks[list(members)].mean(axis=0) for members in sets])
