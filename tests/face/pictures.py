"""Frames with real faces for the tests of this folder."""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from latentsync.formats import Frame

FOLDER = Path(__file__).parent
FACE_SIZE = 101  # pixels: side of the square with the area of the astronaut's landmarks' box


def astronaut() -> Frame:
    """Return the portrait, 256,256,3; the face's box is about 79, 69, 174, 178."""
    picture = cv2.imread(str(FOLDER / "astronaut.jpg"))
    assert picture is not None
    return np.ascontiguousarray(picture[:, :, ::-1])


def stranger() -> Frame:
    """Return the portrait mirrored and in other colours: to this package another person."""
    return np.ascontiguousarray(astronaut()[:, ::-1, ::-1])


def blank(height: int = 256, width: int = 448, level: int = 90) -> Frame:
    return np.full((height, width, 3), level, np.uint8)


def paste(frame: Frame, portrait: Frame, x: float, y: float, side: int) -> Frame:
    """Put a portrait (only the head, soft edges) with its middle at x, y; returns ``frame``."""
    head = cv2.resize(portrait[16:232, 22:238], (side, side), interpolation=cv2.INTER_AREA)
    alpha = np.zeros((side, side), np.float32)
    axes = (round(side * 0.42), round(side * 0.48))
    cv2.ellipse(alpha, (side // 2, side // 2), axes, 0, 0, 360, 1.0, -1)
    alpha = cv2.GaussianBlur(alpha, (5, 5), 0)[..., None]
    left, top = round(x - side / 2), round(y - side / 2)
    height, width = frame.shape[:2]
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + side, width), min(top + side, height)
    if x1 < x2 and y1 < y2:
        part = np.s_[y1 - top : y2 - top, x1 - left : x2 - left]
        mixed = frame[y1:y2, x1:x2] * (1 - alpha[part]) + head[part] * alpha[part]
        frame[y1:y2, x1:x2] = mixed.round().astype(np.uint8)
    return frame


def turned(picture: Frame, degrees: float) -> Frame:
    """Return the picture turned about its middle (positive is counter-clockwise)."""
    height, width = picture.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), degrees, 1)
    return np.asarray(
        cv2.warpAffine(picture, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE), np.uint8
    )


def noisy(picture: Frame, sigma: float, count: int, seed: int = 0) -> Iterable[Frame]:
    """Yield ``count`` copies with fresh sensor noise of ``sigma`` levels."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        grain = random.normal(0, sigma, picture.shape)
        yield np.clip(picture + grain, 0, 255).round().astype(np.uint8)
