"""Where a face lies in its frame: the map to the crop that the networks see, frame after frame.

Computed in float32, operation by operation as for the crops that LatentSync was trained on.

From landmarks to the three points that a face is aligned by: left brow, right brow, nose.

"Left" and "right" follow the picture. The points come from the 106 landmarks that LatentSync was
trained with, or from the embedded mesh of 468, whose licence allows every use.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from latentsync.errors import NoFace
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


Matrix = NDArray[np.float32]  # (2,3)

_TEMPLATE = ((17.0, 20.0), (58.0, 20.0), (37.5, 40.0))  # in a crop of 75 x 100
_TEMPLATE_SIZE = (75, 100)  # width, height
_ENLARGED = 2.8  # at a resolution of 256
_KEPT = 0.2  # share of the last frame's shift in this frame's
_NOSE = 2


def crop_size(resolution: int) -> tuple[int, int]:
    """Return the (width, height) of the crop for faces of ``resolution`` pixels, cut not rounded.

    256 gives 210 x 280, 512 gives 420 x 560.
    """
    factor = _factor(resolution)
    width, height = (int(side * factor) for side in _TEMPLATE_SIZE)
    return width, height


class FaceAligner:
    """Aligns one face through one run; frames come in the order of the source.

    A shift is carried from frame to frame. A frame without a face is left out, which leaves the
    shift as it is.

    Args:
        resolution: side of the face that the networks see, in pixels.
    """

    def __init__(self, resolution: int) -> None:
        self._template = torch.tensor(_TEMPLATE) * _factor(resolution)
        self._shift: torch.Tensor | None = None

    @property
    def shift(self) -> NDArray[np.float32] | None:
        """The shift carried on, float32 (2,) in pixels of the crop; None before the first face."""
        return None if self._shift is None else np.asarray(self._shift.numpy().copy())

    def align(self, points: Points3) -> Matrix:
        """Return the map from pixels of the frame to pixels of the crop, float32 (2,3).

        Args:
            points: float64 (3,2) in pixels of the frame.

        Raises:
            NoFace: the points coincide, so there is no face; the shift stays as it is.
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
    """Fit a turn, one scale and a shift, never a mirror image, that take points to a template.

    Args:
        points: float32 (3,2).
        template: float32 (3,2).

    Returns:
        The map, float32 (2,3), and by how much the nose's point misses the template before the
        turn, float32 (2,), both point sets centred and at spread one.

    Raises:
        NoFace: the points coincide.
    """
    middle, spread, shape = _normalize(points)
    to_middle, to_spread, to_shape = _normalize(template)
    u, _, vt = torch.linalg.svd(shape.T @ to_shape)
    if torch.linalg.det(vt.T @ u.T) < 0:
        vt[-1] *= -1
    turn, scale = vt.T @ u.T, to_spread / spread
    # The mean is turned first and scaled then: the other way round rounds differently.
    start = to_middle[:, None] - scale * (turn @ middle[:, None])
    return torch.cat([scale * turn, start], dim=1), to_shape[_NOSE] - shape[_NOSE]


def _normalize(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the middle, the standard deviation over all coordinates, and the points in them."""
    middle = points.mean(dim=0)
    centered = points - middle
    spread = centered.std()
    if not spread > 0:
        raise NoFace("The points that a face is aligned by coincide.")
    return middle, spread, centered / spread


def _factor(resolution: int) -> float:
    """Return pixels of the crop per unit of the template."""
    return resolution / 256 * _ENLARGED
