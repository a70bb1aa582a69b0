"""The 106 landmarks that LatentSync was trained with: file ``2d106det.onnx``.

As in ``scrfd``, every step is public and computes the same bits as the library that produced the
training data. The crop requires OpenCV 4: version 5 changed ``warpAffine``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.face.geometry import Floats
from latentsync.face.onnx import InferenceSession, check_signature, open_model
from latentsync.formats import Frame

INPUT_SIDE = 192  # pixels
NUM_LANDMARKS = 106
_MARGIN = 1.5  # side of the crop divided by the longer side of the face's box

Matrices = NDArray[np.float64]  # (n,2,3)


class Landmarks106:
    """Finds 106 landmarks of faces whose boxes are known.

    Args:
        session: the network.
        true_colors: pass colours unchanged, see ``ScrfdDetector``.
    """

    def __init__(self, session: InferenceSession, *, true_colors: bool = False) -> None:
        self._input = check_signature(
            session,
            "The landmark network",
            input_shape=(None, 3, INPUT_SIDE, INPUT_SIDE),
            outputs=1,
        )
        self._session = session
        self._true_colors = true_colors

    @classmethod
    def from_file(
        cls, path: Path, *, device: str = "cpu", true_colors: bool = False
    ) -> Landmarks106:
        """Open ``2d106det.onnx``; raises EngineUnavailable if it cannot be used."""
        return cls(open_model(path, device=device), true_colors=true_colors)

    def landmarks(self, frames: Sequence[Frame], boxes: Floats) -> Floats:
        """Return the landmarks of one face per frame, in one call of the network.

        Args:
            frames: n frames H,W,3 uint8 RGB, of any sizes; for several faces of a frame, repeat
                the frame.
            boxes: float32 (n,4), the faces; they may exceed the frames.

        Returns:
            float32 (n,106,2) in pixels of the frames.
        """
        if len(frames) == 0:
            return np.zeros((0, NUM_LANDMARKS, 2), np.float32)
        matrices = crop_matrices(boxes)
        crops = np.stack([cut_crop(*pair) for pair in zip(frames, matrices, strict=True)])
        return place_landmarks(self.run(crops), matrices)

    def run(self, crops: NDArray[np.uint8]) -> Floats:
        """Run the network.

        Args:
            crops: (n,192,192,3) uint8 RGB.

        Returns:
            float32 (n,212): x and y of every point, -1..1 across the crop.
        """
        shown = crops if self._true_colors else crops[..., ::-1]
        # Values 0..255: the network normalizes them itself.
        blob = shown.transpose(0, 3, 1, 2).astype(np.float32, order="C")
        return np.asarray(self._session.run(None, {self._input: blob})[0], np.float32)


def crop_matrices(boxes: Floats) -> Matrices:
    """Return the maps from the frame to each face's crop, float64 (n,2,3); boxes float32 (n,4).

    Sides and corner sums are computed in float32, the rest in float64.
    """
    boxes = np.asarray(boxes, np.float32)
    sides = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64)
    middles = (boxes[:, :2] + boxes[:, 2:]).astype(np.float64) / 2
    scales = INPUT_SIDE / (sides.max(axis=1) * _MARGIN)
    matrices = np.zeros((len(boxes), 2, 3))
    matrices[:, 0, 0] = matrices[:, 1, 1] = scales
    matrices[:, :, 2] = INPUT_SIDE / 2 - scales[:, None] * middles
    return matrices


def cut_crop(frame: Frame, matrix: NDArray[np.float64]) -> Frame:
    """Return the face's crop, 192,192,3 uint8, black outside of the frame."""
    crop = cv2.warpAffine(frame, matrix, (INPUT_SIDE, INPUT_SIDE), flags=cv2.INTER_LINEAR)
    return np.asarray(crop, np.uint8)


def place_landmarks(raw: Floats, matrices: Matrices) -> Floats:
    """Map landmarks from the crops to the frames.

    Args:
        raw: float32 (n,212), output of the network.
        matrices: float64 (n,2,3), from the frames to the crops: scale and translation.

    Returns:
        float32 (n,106,2) in pixels of the frames.
    """
    half = np.float32(INPUT_SIDE // 2)
    in_crop = (raw.reshape(-1, NUM_LANDMARKS, 2) + np.float32(1)) * half
    points = (in_crop.astype(np.float64) - matrices[:, None, :, 2]) / matrices[:, :1, :1]
    return points.astype(np.float32)
