"""The face mesh: 468 points in space from an upright square crop around one face.

The network (MediaPipe's graph of the same name): 192x192 RGB in 0..1; 468 points x, y, z
in pixels of the crop, z towards the viewer negative; one logit for "there is a face". The crop is
1.5 times as large as the face and rotated so that the eyes are level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.face.blazeface import LEFT_EYE, RIGHT_EYE, Detection
from latentsync.face.geometry import LEFT_EYE_OUTER, NUM_LANDMARKS, RIGHT_EYE_OUTER, Floats
from latentsync.face.onnx import MESH_FILE, open_network
from latentsync.formats import Frame

INPUT_SIDE = 192  # pixels
_MARGIN = 1.5  # side of the crop divided by the longer side of the face


@dataclass(frozen=True)
class FaceRegion:
    """A square around one face, rotated with it.

    Args:
        x, y: centre, in pixels of the frame.
        side: length of a side in pixels of the frame.
        angle: roll of the face, clockwise in the picture, in radians.
    """

    x: float
    y: float
    side: float
    angle: float

    @classmethod
    def from_detection(cls, detection: Detection) -> FaceRegion:
        """Return the region around a detected face."""
        x1, y1, x2, y2 = detection.box
        angle = _angle(detection.keypoints[RIGHT_EYE], detection.keypoints[LEFT_EYE])
        side = max(x2 - x1, y2 - y1) * _MARGIN
        return cls((x1 + x2) / 2, (y1 + y2) / 2, side, angle)

    @classmethod
    def from_landmarks(cls, points: Floats) -> FaceRegion:
        """Return the region around the landmarks (468,2 or 468,3) of the previous frame."""
        angle = _angle(points[RIGHT_EYE_OUTER], points[LEFT_EYE_OUTER])
        # Measured along the axes of the face, so that roll does not enlarge the crop.
        axes = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        upright = points[:, :2].astype(np.float64) @ axes
        low, high = upright.min(axis=0), upright.max(axis=0)
        x, y = axes @ ((low + high) / 2)
        return cls(float(x), float(y), float((high - low).max()) * _MARGIN, angle)

    def to_frame(self, side: int = INPUT_SIDE) -> NDArray[np.float64]:
        """Return the 2x3 matrix from a crop of ``side`` pixels to pixels of the frame."""
        scale = self.side / side
        cos, sin = math.cos(self.angle) * scale, math.sin(self.angle) * scale
        half = (side - 1) / 2  # pixel centres are at integers
        return np.array(
            [
                [cos, -sin, self.x - half * (cos - sin)],
                [sin, cos, self.y - half * (sin + cos)],
            ]
        )


class FaceMesh:
    """Finds 468 landmarks of a face whose position is roughly known."""

    def __init__(self) -> None:
        self._session = open_network(MESH_FILE)
        self._input = self._session.get_inputs()[0].name

    def landmarks(self, frame: Frame, region: FaceRegion) -> tuple[Floats, float]:
        """Return the landmarks and the presence of the face in ``region``.

        Args:
            frame: H,W,3 uint8 RGB.
            region: around the face; it may exceed the frame.

        Returns:
            float32 (468,3): x and y in pixels of the frame, z in the same unit, negative towards
            the viewer; and the presence 0..1. Without a face the points are meaningless.
        """
        to_frame = region.to_frame()
        crop = cv2.warpAffine(
            frame, to_frame, (INPUT_SIDE, INPUT_SIDE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )
        scaled = crop.astype(np.float32) * np.float32(1 / 255)
        points, logit = self._session.run(
            None, {self._input: np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])}
        )
        return _place(points.reshape(NUM_LANDMARKS, 3), to_frame), _sigmoid(float(logit.item()))


def _place(points: Floats, to_frame: NDArray[np.float64]) -> Floats:
    """Map points from the crop to the frame."""
    placed = points.astype(np.float64)
    placed[:, :2] = placed[:, :2] @ to_frame[:, :2].T + to_frame[:, 2]
    placed[:, 2] *= math.hypot(to_frame[0, 0], to_frame[1, 0])
    return placed.astype(np.float32)


def _angle(right_eye: Floats, left_eye: Floats) -> float:
    """Return the roll of the line from the person's right eye to the left one, in radians."""
    return math.atan2(float(left_eye[1] - right_eye[1]), float(left_eye[0] - right_eye[0]))


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-min(max(logit, -80.0), 80.0)))
