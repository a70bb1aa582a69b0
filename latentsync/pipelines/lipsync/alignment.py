"""Alignment of faces: landmarks to three points, and those to the map from frame to crop.

The points are left brow, right brow and nose; "left" and "right" are those of the picture. They
come from the 106 landmarks that LatentSync was trained with, or from the embedded mesh of 468
landmarks, whose licence allows every use.

The map is computed in float32 with the same operations as the crops that LatentSync was trained on.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from latentsync.errors import NoFace
from latentsync.face import geometry
from latentsync.face.geometry import Floats

LEFT_BROW_106 = (43, 48, 49, 50, 51)
RIGHT_BROW_106 = (101, 102, 103, 104, 105)
NOSE_106 = (74, 77, 83, 86)

MIN_FACE_WIDTH, MIN_FACE_HEIGHT = 50, 80  # pixels
WIDEST, NARROWEST = 1.5, 0.2  # width over height
MIN_SCORE = 0.5

Points3 = NDArray[np.float64]  # (3,2): left brow, right brow, nose; x and y in pixels


def choose_largest(boxes: Floats, scores: Floats) -> int | None:
    """Return the index of the face to use, or None if none fits the limits.

    Args:
        boxes: float32 (k,4), x1, y1, x2, y2 in pixels; corners are truncated to whole pixels.
        scores: float32 (k,).

    Returns:
        The largest face of at least 50 x 80 pixels and plausible shape; the first of equals.
    """
    fits = fits_limits(boxes, scores)
    if not fits.any():
        return None
    widths, heights = _sides(boxes)
    return int(np.argmax(np.where(fits, widths * heights, -1)))


def fits_limits(boxes: Floats, scores: Floats) -> NDArray[np.bool_]:
    """Return bool (k,): which faces fit the limits of score, size and aspect ratio."""
    widths, heights = _sides(boxes)
    fits = (widths >= MIN_FACE_WIDTH) & (heights >= MIN_FACE_HEIGHT) & (scores >= MIN_SCORE)
    shapes = widths / np.maximum(heights, 1)
    return np.asarray(fits & (shapes <= WIDEST) & (shapes >= NARROWEST))


def _sides(boxes: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return widths and heights (k,) between corners truncated to whole pixels."""
    corners = np.trunc(boxes).astype(np.int64)
    widths, heights = (corners[:, 2:] - corners[:, :2]).T
    return widths, heights


def round_landmarks(landmarks: Floats) -> NDArray[np.int64]:
    """Return the landmarks rounded to whole pixels, halves to even."""
    return np.rint(landmarks).astype(np.int64)


def points3(landmarks: NDArray[np.integer]) -> Points3:
    """Return the three points of a face with 106 landmarks.

    Args:
        landmarks: integers (106,2), from ``round_landmarks``.

    Returns:
        float64 (3,2), whole numbers: means of landmarks, rounded again.
    """
    sets = (LEFT_BROW_106, RIGHT_BROW_106, NOSE_106)
    return np.rint(_means(landmarks.astype(np.float64), sets))


def mesh_points3(landmarks: Floats) -> Points3:
    """Return the three points of a face with the embedded mesh's 468 landmarks.

    They are not rounded, because the mesh is smoothed over time and rounding would add jitter.

    Their distance from the points of the 106 landmarks has not been measured, since that network
    was not available. All sets of mesh landmarks that match the description of those points (whole
    brows or their upper edge; tip and wings of the nose with a lower or higher point of the bridge)
    put the nose within 0.05 brow distances of this one on three faces: 5 pixels of the crop at 256.

    Args:
        landmarks: float32 (468,2) or (468,3) in pixels.

    Returns:
        float64 (3,2).
    """
    sets = (
        geometry.ALIGNMENT_LEFT_BROW,
        geometry.ALIGNMENT_RIGHT_BROW,
        geometry.ALIGNMENT_NOSE,
    )
    return _means(landmarks[:, :2].astype(np.float64), sets)


def _means(landmarks: NDArray[np.float64], sets: tuple[tuple[int, ...], ...]) -> Points3:
    return np.stack([landmarks[list(members)].mean(axis=0) for members in sets])


Matrix = NDArray[np.float32]  # (2,3)

_TEMPLATE = ((17.0, 20.0), (58.0, 20.0), (37.5, 40.0))  # in a crop of 75 x 100
_TEMPLATE_SIZE = (75, 100)  # width, height
_ENLARGED = 2.8  # at a resolution of 256
_KEPT = 0.2  # weight of the previous frame's shift
_NOSE = 2


def crop_size(resolution: int) -> tuple[int, int]:
    """Return the (width, height) of the crop for faces of ``resolution`` pixels, truncated.

    256 gives 210 x 280, 512 gives 420 x 560.
    """
    factor = _factor(resolution)
    width, height = (int(side * factor) for side in _TEMPLATE_SIZE)
    return width, height


class FaceAligner:
    """Aligns one face in the frames of a source, in order.

    The shift is smoothed from frame to frame. Frames without a face are left out and do not change
    it.

    Args:
        resolution: side of the networks' input, in pixels.
    """

    def __init__(self, resolution: int) -> None:
        self._template = torch.tensor(_TEMPLATE) * _factor(resolution)
        self._shift: torch.Tensor | None = None

    @property
    def shift(self) -> NDArray[np.float32] | None:
        """The current shift, float32 (2,) in pixels of the crop; None before the first face."""
        return None if self._shift is None else np.asarray(self._shift.numpy().copy())

    def align(self, points: Points3) -> Matrix:
        """Return the map from pixels of the frame to pixels of the crop, float32 (2,3).

        Args:
            points: float64 (3,2) in pixels of the frame.

        Raises:
            NoFace: the points coincide; the shift does not change.
        """
        matrix, shift = fit_similarity(torch.as_tensor(points, dtype=torch.float32), self._template)
        if self._shift is not None:
            shift = _KEPT * self._shift + (1 - _KEPT) * shift
        self._shift = shift
        matrix[:, 2] += shift
        return np.asarray(matrix.numpy())


def fit_similarity(
    points: torch.Tensor, template: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit rotation, uniform scale and translation, without reflection, from points to a template.

    Args:
        points: float32 (3,2).
        template: float32 (3,2).

    Returns:
        The map, float32 (2,3), and the offset of the nose from the template before the rotation,
        float32 (2,), with both point sets centred and scaled to a standard deviation of one.

    Raises:
        NoFace: the points coincide.
    """
    middle, spread, shape = _normalize(points)
    to_middle, to_spread, to_shape = _normalize(template)
    u, _, vt = torch.linalg.svd(shape.T @ to_shape)
    if torch.linalg.det(vt.T @ u.T) < 0:
        vt[-1] *= -1
    turn, scale = vt.T @ u.T, to_spread / spread
    # The mean is rotated first and then scaled: the other order rounds differently.
    start = to_middle[:, None] - scale * (turn @ middle[:, None])
    return torch.cat([scale * turn, start], dim=1), to_shape[_NOSE] - shape[_NOSE]


def _normalize(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return mean, standard deviation over all coordinates, and the normalized points."""
    middle = points.mean(dim=0)
    centered = points - middle
    spread = centered.std()
    if not spread > 0:
        raise NoFace("The alignment points of the face coincide.")
    return middle, spread, centered / spread


def _factor(resolution: int) -> float:
    """Return pixels of the crop per unit of the template."""
    return resolution / 256 * _ENLARGED
