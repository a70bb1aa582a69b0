"""The face detector that LatentSync was trained with: SCRFD, file ``det_10g.onnx``.

Every step is public, so that each can be tested, and computes the same bits as the library that
produced the training data. All arithmetic has an explicit precision, independent of numpy's
promotion rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.face.geometry import Floats
from latentsync.face.onnx import InferenceSession, check_signature, open_model
from latentsync.formats import Frame

INPUT_SIDE = 512  # pixels
STRIDES = (8, 16, 32)  # pixels between the cells of the three grids
ANCHORS_PER_CELL = 2
NUM_KEYPOINTS = 5
MIN_SCORE = 0.5
MAX_OVERLAP = 0.4  # faces that overlap more are merged

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class DetectedFaces:
    """The faces of one frame, best score first.

    Args:
        boxes: float32 (k,4), x1, y1, x2, y2 in pixels of the frame; they may exceed it.
        scores: float32 (k,), 0.5..1.
        keypoints: float32 (k,5,2) in pixels: eyes, nose tip, corners of the mouth.
    """

    boxes: Floats
    scores: Floats
    keypoints: Floats


class ScrfdDetector:
    """Finds faces in single frames.

    Args:
        session: the network.
        true_colors: pass colours unchanged. LatentSync's training data came from frames with red
            and blue exchanged, which is the default here as well.
    """

    def __init__(self, session: InferenceSession, *, true_colors: bool = False) -> None:
        self._input = check_signature(
            session, "The face detector", input_shape=(1, 3, None, None), outputs=9
        )
        self._session = session
        self._true_colors = true_colors

    @classmethod
    def from_file(
        cls, path: Path, *, device: str = "cpu", true_colors: bool = False
    ) -> ScrfdDetector:
        """Open ``det_10g.onnx``; raises EngineUnavailable if it cannot be used."""
        return cls(open_model(path, device=device), true_colors=true_colors)

    def detect(self, frame: Frame) -> DetectedFaces:
        """Return the faces in ``frame`` (H,W,3 uint8 RGB)."""
        table = self.run(to_input(fit_picture(frame), true_colors=self._true_colors))
        rows = find_candidates(table)
        return decode_faces(rows, table[rows], scale=fit_scale(*frame.shape[:2]))

    def run(self, blob: Floats) -> Floats:
        """Run the network.

        Args:
            blob: float32 (1,3,512,512) from ``to_input``.

        Returns:
            float32 (10752,15), a row per anchor: score, distances to left, top, right, bottom and
            five keypoints in strides, for the grids of stride 8, 16 and 32.
        """
        outputs = self._session.run(None, {self._input: blob})
        # By position, since names differ between packs: scores of three grids, boxes, keypoints.
        levels = [np.hstack(outputs[level::3]) for level in range(3)]
        return np.asarray(np.vstack(levels), np.float32)


def fit_size(height: int, width: int) -> tuple[int, int]:
    """Return the (height, width) of a frame scaled to the network's square.

    Both are truncated; at least one pixel.
    """
    ratio = height / width
    if ratio > 1:
        return INPUT_SIDE, max(1, int(INPUT_SIDE / ratio))
    return max(1, int(INPUT_SIDE * ratio)), INPUT_SIDE


def fit_scale(height: int, width: int) -> float:
    """Return pixels of the square per pixel of a frame of this size, from the heights."""
    return fit_size(height, width)[0] / height


def fit_picture(frame: Frame) -> Frame:
    """Return the frame at the top left of a black square, 512,512,3 uint8."""
    height, width = fit_size(*frame.shape[:2])
    picture = np.zeros((INPUT_SIDE, INPUT_SIDE, 3), np.uint8)
    picture[:height, :width] = cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)
    return picture


def to_input(picture: Frame, *, true_colors: bool = False) -> Floats:
    """Return the network's input, float32 (1,3,512,512), about -1..1.

    Args:
        picture: 512,512,3 uint8 RGB.
        true_colors: keep red first, instead of blue.
    """
    planes = (picture if true_colors else picture[:, :, ::-1]).transpose(2, 0, 1)
    scaled = (planes.astype(np.float32, order="C") - np.float32(127.5)) / np.float32(128)
    return np.asarray(scaled[None], np.float32)


def find_candidates(table: Floats) -> Indices:
    """Return the rows of the raw table with a score of 0.5 or more, int64 (n,)."""
    return np.flatnonzero(table[:, 0] >= np.float32(MIN_SCORE))


def decode_faces(rows: Indices, raw: Floats, *, scale: float) -> DetectedFaces:
    """Turn raw values into faces, one per person.

    Args:
        rows: int64 (n,), rows of the raw table, in ascending order.
        raw: float32 (n,15), the values in those rows.
        scale: pixels of the network's square per pixel of the frame.
    """
    anchors, strides = (values[rows] for values in _anchors())
    values = raw[:, 1:] * strides[:, None]
    per_pixel = np.float32(scale)
    corners = np.hstack([anchors - values[:, :2], anchors + values[:, 2:4]])
    boxes: Floats = np.divide(corners, per_pixel, dtype=np.float32)
    places = anchors[:, None] + values[:, 4:].reshape(-1, NUM_KEYPOINTS, 2)
    keypoints: Floats = np.divide(places, per_pixel, dtype=np.float32)
    order = np.argsort(-raw[:, 0], kind="stable")
    kept = order[suppress_overlaps(boxes[order])]
    return DetectedFaces(boxes[kept], raw[kept, 0], keypoints[kept])


def suppress_overlaps(boxes: Floats) -> Indices:
    """Return the boxes to keep: those that overlap no better kept box by more than 0.4.

    Args:
        boxes: float32 (n,4), best first. A box from 2 to 4 is three pixels wide.

    Returns:
        int64 (k,), ascending.
    """
    one = np.float32(1)
    areas = (boxes[:, 2] - boxes[:, 0] + one) * (boxes[:, 3] - boxes[:, 1] + one)
    remaining, kept = np.arange(len(boxes)), []
    while len(remaining) > 0:
        best, others = remaining[0], remaining[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[others, :2])
        high = np.minimum(boxes[best, 2:], boxes[others, 2:])
        sides = np.maximum(np.float32(0), high - low + one)
        shared = sides[:, 0] * sides[:, 1]
        overlaps = shared / (areas[best] + areas[others] - shared)
        remaining = others[overlaps <= np.float32(MAX_OVERLAP)]
    return np.array(kept, np.int64)


def _anchors() -> tuple[Floats, Floats]:
    """Return each anchor's place in the square, float32 (10752,2), and its stride (10752,)."""
    places, strides = [], []
    for stride in STRIDES:
        ticks = np.arange(INPUT_SIDE // stride, dtype=np.float32) * np.float32(stride)
        y, x = np.meshgrid(ticks, ticks, indexing="ij")
        grid = np.stack([x.ravel(), y.ravel()], axis=1)
        places.append(np.repeat(grid, ANCHORS_PER_CELL, axis=0))
        strides.append(np.full(len(grid) * ANCHORS_PER_CELL, stride, np.float32))
    return np.concatenate(places), np.concatenate(strides)
