"""The face detector: BlazeFace, short range, at several scales of the picture.

The network (MediaPipe's graph of the same name): 128x128 RGB in -1..1; two grids of
anchors, 16x16 with two and 8x8 with six per cell, all of size one; per anchor a centre, a size
and six keypoints in pixels of the input, relative to the anchor's centre, and one logit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.face.geometry import Box, Floats, area, center, overlap
from latentsync.face.onnx import DETECTOR_FILE, open_network
from latentsync.formats import Frame

INPUT_SIDE = 128  # pixels
NUM_KEYPOINTS = 6  # eyes, nose tip, mouth, ears; the person's right side first
RIGHT_EYE, LEFT_EYE = 0, 1

_ANCHORS_PER_CELL = ((16, 2), (8, 6))  # (cells per side, anchors in each)
_MERGE_OVERLAP = 0.3  # detections that overlap more are merged
_OBLONG = 1.25  # pictures with a larger aspect ratio are also searched in squares
_DIVISORS = (1.5, 2.5)  # shorter side of the picture divided by the side of the tiles
_SMALLEST_TILE = 224  # pixels of the frame; faces too small to find in it are not usable


@dataclass(frozen=True, eq=False)
class Detection:
    """One face: box in pixels of the frame, score 0..1, keypoints float32 (6,2) in pixels."""

    box: Box
    score: float
    keypoints: Floats


class FaceDetector:
    """Finds faces in a single frame.

    Args:
        min_score: detections below this are dropped, 0..1.
    """

    def __init__(self, min_score: float = 0.5) -> None:
        self._session = open_network(DETECTOR_FILE)
        self._anchors = _build_anchors()
        self._min_score = min_score

    def detect(self, frame: Frame) -> list[Detection]:
        """Find the faces that fill a good part of ``frame`` (H,W,3 uint8 RGB), best first."""
        return _merge(self._hits(_whole_picture(frame)))

    def search(self, frame: Frame) -> list[Detection]:
        """Find small faces as well, in overlapping tiles of the frame.

        Finds faces of a twelfth of the frame's shorter side; costs about ten times ``detect``.
        """
        hits = self._hits(_whole_picture(frame))
        for tiles in _tilings(frame):
            hits += self._hits(tiles)
        return _merge(hits)

    def detect_near(self, frame: Frame, box: Box) -> list[Detection]:
        """Find faces of any size around the last position of one."""
        return _merge(self._hits(_surroundings(frame, box)))

    def _hits(self, tiles: Iterator[_Tile]) -> list[NDArray[np.float64]]:
        """Return each detection as a row: score, box (4), keypoints (12), in frame pixels."""
        hits: list[NDArray[np.float64]] = []
        for tile in tiles:
            regressors, logits = self._session.run(None, {"input": _network_input(tile.pixels)})
            hits += self._decode(regressors[0], logits[0, :, 0], tile)
        return hits

    def _decode(self, regressors: Floats, logits: Floats, tile: _Tile) -> list[NDArray[np.float64]]:
        threshold = math.log(self._min_score / (1 - self._min_score))
        found = np.flatnonzero(logits > threshold)
        points = regressors[found].astype(np.float64).reshape(-1, 2 + NUM_KEYPOINTS, 2)
        sizes = points[:, 1].copy()
        points[:, 1] = 0.0
        points += self._anchors[found, None]
        centers = points[:, 0].copy()
        points[:, 0] = centers - sizes / 2
        points[:, 1] = centers + sizes / 2
        points = points / tile.scale + (tile.x, tile.y)
        scores = 1 / (1 + np.exp(-np.clip(logits[found].astype(np.float64), -80, 80)))
        return list(np.hstack([scores[:, None], points.reshape(len(found), 4 + 2 * NUM_KEYPOINTS)]))


@dataclass(frozen=True, eq=False)
class _Tile:
    """A part of the frame at the network's size; frame = pixel / scale + (x, y)."""

    pixels: Frame  # 128,128,3 uint8
    scale: float
    x: float
    y: float


def _build_anchors() -> NDArray[np.float64]:
    """Return the anchors' centres, (896,2), x and y in pixels of the input."""
    grids = []
    for cells, per_cell in _ANCHORS_PER_CELL:
        ticks = (np.arange(cells) + 0.5) * (INPUT_SIDE / cells)
        y, x = np.meshgrid(ticks, ticks, indexing="ij")
        grids.append(np.repeat(np.stack([x.ravel(), y.ravel()], axis=1), per_cell, axis=0))
    return np.concatenate(grids)


def _network_input(pixels: Frame) -> Floats:
    scaled = pixels.astype(np.float32) * np.float32(1 / 127.5) - np.float32(1)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


def _whole_picture(frame: Frame) -> Iterator[_Tile]:
    """Yield the whole frame as one tile, with black borders."""
    height, width = frame.shape[:2]
    scale = INPUT_SIDE / max(height, width)
    small = _resize(frame, scale)
    top, left = ((INPUT_SIDE - side) // 2 for side in small.shape[:2])
    pixels = np.zeros((INPUT_SIDE, INPUT_SIDE, 3), np.uint8)
    pixels[top : top + small.shape[0], left : left + small.shape[1]] = small
    yield _Tile(pixels, scale, -left / scale, -top / scale)


def _surroundings(frame: Frame, box: Box) -> Iterator[_Tile]:
    """Yield a square tile around ``box``, three times as large, black outside of the frame."""
    side = max(3 * math.sqrt(area(box)), 1.0)
    scale = INPUT_SIDE / side
    x, y = (middle - side / 2 for middle in center(box))
    matrix = np.array([[scale, 0, -x * scale], [0, scale, -y * scale]])
    pixels = cv2.warpAffine(frame, matrix, (INPUT_SIDE, INPUT_SIDE), flags=cv2.INTER_LINEAR)
    yield _Tile(pixels.astype(np.uint8, copy=False), scale, x, y)


def _tilings(frame: Frame) -> Iterator[Iterator[_Tile]]:
    """Yield sets of overlapping square tiles, as large as the shorter side and then smaller."""
    shorter, longer = sorted(frame.shape[:2])
    if longer >= _OBLONG * shorter and shorter >= INPUT_SIDE / 2:
        yield _tiles(frame, shorter)
    for divisor in _DIVISORS:
        if shorter / divisor >= _SMALLEST_TILE:
            yield _tiles(frame, shorter / divisor)


def _tiles(frame: Frame, side: float) -> Iterator[_Tile]:
    scale = INPUT_SIDE / side
    small = _resize(frame, scale)
    for top in _tile_starts(small.shape[0]):
        for left in _tile_starts(small.shape[1]):
            pixels = small[top : top + INPUT_SIDE, left : left + INPUT_SIDE]
            yield _Tile(pixels, scale, left / scale, top / scale)


def _tile_starts(length: int) -> list[int]:
    """Return starts of tiles that overlap by at least 0.3."""
    count = 1 + math.ceil((length - INPUT_SIDE) / (0.7 * INPUT_SIDE))
    return [round(start) for start in np.linspace(0, length - INPUT_SIDE, count)]


def _resize(frame: Frame, scale: float) -> Frame:
    height, width = frame.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(frame, size, interpolation=method).astype(np.uint8, copy=False)


def _merge(hits: list[NDArray[np.float64]]) -> list[Detection]:
    """Merge detections of one face to their mean weighted by score; best score first."""
    remaining = sorted(hits, key=lambda hit: -hit[0])
    faces = []
    while remaining:
        best = _box_of(remaining[0])
        same = [hit for hit in remaining if overlap(best, _box_of(hit)) > _MERGE_OVERLAP]
        # A degenerate box does not even overlap itself.
        same = same or remaining[:1]
        joined = np.average(same, axis=0, weights=[hit[0] for hit in same])
        keypoints = joined[5:].reshape(NUM_KEYPOINTS, 2).astype(np.float32)
        faces.append(Detection(_box_of(joined), float(remaining[0][0]), keypoints))
        chosen = {id(hit) for hit in same}
        remaining = [hit for hit in remaining if id(hit) not in chosen]
    return faces


def _box_of(hit: NDArray[np.float64]) -> Box:
    return float(hit[1]), float(hit[2]), float(hit[3]), float(hit[4])
