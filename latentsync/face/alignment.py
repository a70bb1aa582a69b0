"""Where a face lies in its frame: the map to the crop that the networks see, frame after frame.

Computed in float32, operation by operation as for the crops that LatentSync was trained on.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from latentsync.errors import NoFace
from latentsync.face.alignment_points import Points3

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
