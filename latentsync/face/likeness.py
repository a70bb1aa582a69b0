"""Whether two sightings show one person: a coarse portrait, compared by correlation.

This is no face recognition. It tells people of one clip apart by colours, hair and light, well
enough to take up a face again after a cut.
"""

from __future__ import annotations

import cv2
import numpy as np

from latentsync.face.boxes import Floats
from latentsync.face.mesh import FaceRegion
from latentsync.formats import Frame

_SIDE = 8  # cells per side of a portrait


def portrait(frame: Frame, points: Floats) -> Floats:
    """Return a portrait of the face with these landmarks: float32 (192,), mean 0, length 1.

    Args:
        frame: H,W,3 uint8 RGB.
        points: landmarks (468,2) or (468,3) in pixels.
    """
    to_frame = FaceRegion.from_landmarks(points).to_frame(side=4 * _SIDE)
    crop = cv2.warpAffine(
        frame, to_frame, (4 * _SIDE, 4 * _SIDE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    cells = cv2.resize(crop, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    values = cells.astype(np.float32).ravel()
    values -= values.mean()
    return np.asarray(values / max(float(np.linalg.norm(values)), 1e-6), np.float32)


def likeness(one: Floats, other: Floats) -> float:
    """Return how alike two portraits are, -1..1."""
    return float(one @ other)
