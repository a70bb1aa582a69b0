"""The mask of the region of a face that the networks generate.

1 means keep, 0 means generate. The generated region has the shape of a U: cheeks, mouth and chin,
without eyes and bridge of the nose.
"""

import json
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.config import find_packaged
from latentsync.face.geometry import Floats
from latentsync.formats import Frame

GEOMETRY_FILE = "mask_geometry.json"
LATENT_STRIDE = 8  # pixels of the face per latent


@cache
def keep_mask(resolution: int) -> Frame:
    """Return the mask, R,R uint8, 255 where the face is kept; read-only.

    At 256 it is 0 or 255; at other resolutions it has soft edges.
    """
    original = _draw_original()
    mask = original
    if resolution != len(original):
        size = (resolution, resolution)
        resized = cv2.resize(original, size, interpolation=cv2.INTER_LANCZOS4)
        mask = np.asarray(resized, np.uint8)
    mask.setflags(write=False)
    return mask


@cache
def keep_weights(resolution: int) -> Floats:
    """Return the mask as float32 (R,R), 0..1; read-only."""
    weights = (keep_mask(resolution) / 255.0).astype(np.float32)
    weights.setflags(write=False)
    return weights


def latent_mask(resolution: int) -> Floats:
    """Return the mask at the latents' size, float32 (R/8,R/8), 0..1: every eighth value."""
    return keep_weights(resolution)[::LATENT_STRIDE, ::LATENT_STRIDE].copy()


def to_pixel_values(faces: NDArray[np.uint8]) -> Floats:
    """Return faces (n,R,R,3) uint8 as the networks read them, float32 (n,3,R,R), -1..1."""
    planes = faces.transpose(0, 3, 1, 2).astype(np.float32, order="C")
    planes /= np.float32(255)
    planes *= np.float32(2)
    planes -= np.float32(1)
    return planes


def hide_mouth(pixel_values: Floats) -> Floats:
    """Return faces (n,3,R,R) with the region to generate set to 0, mid grey."""
    return pixel_values * keep_weights(pixel_values.shape[-1])


def keep_surroundings(decoded: Floats, pixel_values: Floats) -> Floats:
    """Return the generated faces with the kept part of the originals pasted back.

    Args:
        decoded: float32 (n,3,R,R), about -1..1, not clipped.
        pixel_values: float32 (n,3,R,R), the originals.
    """
    keep = keep_weights(pixel_values.shape[-1])
    return decoded * (1 - keep) + pixel_values * keep


def _draw_original() -> Frame:
    """Return the mask of the geometry file: 0 inside the outline, 255 outside."""
    geometry = json.loads(find_packaged(f"assets/{GEOMETRY_FILE}").read_text("utf-8"))
    width, height = geometry["size"]
    inside = _fill(np.array(geometry["polygon"], np.float64), width, height)
    return np.where(inside, 0, 255).astype(np.uint8)


def _fill(polygon: NDArray[np.float64], width: int, height: int) -> NDArray[np.bool_]:
    """Return which pixels have their centre inside the polygon, by the even-odd rule."""
    x, y = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    inside = np.zeros((height, width), np.bool_)
    for (x1, y1), (x2, y2) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if y1 != y2:  # horizontal sides never cross a row of centres
            crosses = (y1 > y) != (y2 > y)
            inside ^= crosses & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
    return inside
