"""The speaker's mouth at rest, and the contours of a mouth shape in a frame.

The rest mouth is estimated once per clip in a head frame that follows the rigid part of the face.
The contours therefore do not depend on the motion of the mouth in the source.

Contours are curves over ``u``, the position along the line between the mouth's corners, and give
``v``, the position across it (downwards), both in pixels of the frame from the middle of the mouth.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentsync.face import geometry
from latentsync.pipelines.draft.visemes import MouthConfig, MouthShape

Points = NDArray[np.float64]  # (n,2) x, y

# Sizes as shares of the distance between the outer corners of the eyes.
_WIDEST_REST = 0.585  # wider mouths are smiles, which would open to a grin
_STRONGEST_NARROWING = 0.88  # stronger narrowing distorts the cheeks
_MEETING = 0.62  # where open lips meet, from upper (0) to lower (1): covers teeth

_CORNER_SHARE = 0.12  # share of the gap by which the corners drop
_THIN_BY_OPENING = 0.12  # open lips are thinner
_THICK_BY_ROUNDING = 0.18  # rounded lips are thicker
_QUIET_QUANTILE = 0.25  # of the frames by lip gap, from which the rest mouth is estimated


def _halves(ring: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Split a lip ring into its upper and its lower half, 11 points each, both from the right."""
    return list(ring[:11]), [ring[0], *reversed(ring[11:]), ring[10]]


_UPPER_OUTER, _LOWER_OUTER = _halves(geometry.LIPS_OUTER)
_UPPER_INNER, _LOWER_INNER = _halves(geometry.LIPS_INNER)
_CORNERS = [geometry.LIPS_OUTER[0], geometry.LIPS_OUTER[10]]
_LIP_MIDDLES = [
    geometry.LIPS_OUTER[5],
    geometry.LIPS_INNER[5],
    geometry.LIPS_INNER[15],
    geometry.LIPS_OUTER[15],
]
_RIGID = list(geometry.RIGID)


@dataclass(frozen=True)
class Contours:
    """The mouth's curves in one frame, each (n,2) of (u, v) pixels with rising u.

    ``upper_outer``, ``upper_inner``, ``lower_inner``, ``lower_outer`` have 11 points from corner to
    corner; ``jaw`` runs from ear to ear.
    """

    upper_outer: Points
    upper_inner: Points
    lower_inner: Points
    lower_outer: Points
    jaw: Points


@dataclass(frozen=True)
class MouthView:
    """The mouth in one frame, as it is and at rest.

    Attributes:
        origin: (2,) pixel x, y of the middle of the resting mouth.
        axis: (2,) unit vector along the mouth, towards the picture's right.
        unit: distance of the outer corners of the eyes, facing the camera, in pixels.
        nose_v: v of the base of the nose.
        source: contours in the frame.
        rest: contours at rest; both inner curves are the line where the lips meet.
    """

    origin: Points
    axis: Points
    unit: float
    nose_v: float
    source: Contours
    rest: Contours


class Mouth:
    """One speaker's mouth through one clip.

    Args:
        points: float (K,468,2), the smoothed landmarks of the speaker in pixels.
    """

    def __init__(self, points: NDArray[np.float32]) -> None:
        head = _mean_head(points)
        self._rigid = head[_RIGID]
        self._unit = float(
            np.linalg.norm(head[geometry.LEFT_EYE_OUTER] - head[geometry.RIGHT_EYE_OUTER])
        )
        self._rest = _learn_rest(points, self._rigid, self._unit)

    def view(self, points: NDArray[np.float32]) -> MouthView:
        """Return the mouth in one frame, from its landmarks (468,2)."""
        here = points.astype(np.float64)
        pose = _fit_affine(self._rigid, here[_RIGID])
        rest = _apply(pose, self._rest)
        rest += _mouth_offset(rest, here)
        corners = rest[_CORNERS]
        origin = corners.mean(axis=0)
        axis = (corners[1] - corners[0]) / np.linalg.norm(corners[1] - corners[0])
        local, local_rest = _to_local(here, origin, axis), _to_local(rest, origin, axis)
        return MouthView(
            origin=origin,
            axis=axis,
            unit=self._unit * float(np.sqrt(abs(np.linalg.det(pose[:, :2])))),
            nose_v=float(local_rest[geometry.NOSE_BOTTOM, 1]),
            source=_read_contours(local),
            rest=_read_contours(local_rest),
        )


def shape_contours(view: MouthView, shape: MouthShape, config: MouthConfig) -> Contours:
    """Return the contours of ``shape`` in the frame of ``view``."""
    gap = shape.opening * config.full_gap * view.unit
    width = (
        1
        - config.narrow_by_opening * shape.opening
        - config.narrow_by_rounding * shape.rounding
        + config.widen_by_spread * shape.spread
    )
    rest = view.rest
    thickness = 1 - _THIN_BY_OPENING * shape.opening + _THICK_BY_ROUNDING * shape.rounding
    corner_drop = _CORNER_SHARE * gap

    def place(curve: Points, lip: Points, lift: float) -> Points:
        """Move a curve of the rest mouth: lips keep their thickness around the meeting line."""
        half = max(float(np.abs(curve[[0, -1], 0]).min()), 1e-6)
        profile = _profile(curve[:, 0] / half, shape.rounding)
        meeting = np.interp(curve[:, 0], lip[:, 0], lip[:, 1])
        v = meeting + (curve[:, 1] - meeting) * thickness + lift * profile + corner_drop
        return np.column_stack((curve[:, 0] * width, v))

    rise, drop = (
        -config.upper_share * gap - corner_drop,
        (1 - config.upper_share) * gap - corner_drop,
    )
    jaw_profile = _profile(rest.jaw[:, 0] / max(np.abs(rest.jaw[:, 0]).max(), 1e-6), 0.0)
    return Contours(
        upper_outer=place(rest.upper_outer, rest.upper_inner, rise),
        upper_inner=place(rest.upper_inner, rest.upper_inner, rise),
        lower_inner=place(rest.lower_inner, rest.lower_inner, drop),
        lower_outer=place(rest.lower_outer, rest.lower_inner, drop),
        jaw=rest.jaw + np.column_stack((0 * jaw_profile, config.chin_share * gap * jaw_profile)),
    )


def _profile(position: NDArray[np.float64], rounding: float) -> NDArray[np.float64]:
    """Return the share of a lip's motion at -1..1 along the mouth: 1 mid-way, 0 in corners."""
    return np.asarray(np.power(np.clip(1 - np.square(position), 0, 1), 0.75 - 0.2 * rounding))


def _mean_head(points: NDArray[np.float32]) -> Points:
    """Return the mean face (468,2), with frames aligned to the middle one by rigid points."""
    reference = points[len(points) // 2].astype(np.float64)
    total = np.zeros_like(reference)
    for frame in points:
        total += _apply(_fit_affine(frame[_RIGID].astype(np.float64), reference[_RIGID]), frame)
    return np.asarray(total / len(points))


def _learn_rest(points: NDArray[np.float32], rigid: Points, unit: float) -> Points:
    """Return the face (468,2) with the lips closed and not smiling, in the head frame."""
    gaps = np.linalg.norm(
        points[:, geometry.LIPS_INNER[5]] - points[:, geometry.LIPS_INNER[15]], axis=1
    )
    quiet = np.argsort(gaps, kind="stable")[: max(1, int(len(points) * _QUIET_QUANTILE))]
    faces = [
        _apply(_fit_affine(points[i][_RIGID].astype(np.float64), rigid), points[i]) for i in quiet
    ]
    return _close_lips(np.median(np.stack(faces), axis=0), unit)


def _close_lips(face: Points, unit: float) -> Points:
    """Close the lips without changing their thickness."""
    closed = face.copy()
    meeting = face[_UPPER_INNER] * (1 - _MEETING) + face[_LOWER_INNER] * _MEETING
    for outer, inner in ((_UPPER_OUTER, _UPPER_INNER), (_LOWER_OUTER, _LOWER_INNER)):
        closed[outer] += meeting - face[inner]
        closed[inner] = meeting
    lips = [*geometry.LIPS_OUTER, *geometry.LIPS_INNER]
    middle = closed[_CORNERS].mean(axis=0)
    width = float(np.linalg.norm(np.subtract(*closed[_CORNERS])))
    narrow = min(1.0, max(_STRONGEST_NARROWING, _WIDEST_REST * unit / width))
    closed[lips, 0] = middle[0] + (closed[lips, 0] - middle[0]) * narrow
    return closed


def _mouth_offset(rest: Points, here: Points) -> Points:
    """Return the offset of the mouth from its place by the affine pose: heads are not flat."""
    base = [geometry.NOSE_BOTTOM, *geometry.NOSE_WINGS]
    nose = (here[base] - rest[base]).mean(axis=0)
    lips = (here[_LIP_MIDDLES] - rest[_LIP_MIDDLES]).mean(axis=0)
    corners = (here[_CORNERS] - rest[_CORNERS]).mean(axis=0)
    across = here[_CORNERS[1]] - here[_CORNERS[0]]
    across /= np.linalg.norm(across)
    # Along the mouth the lips are used; across it they move with speech, so the nose is used.
    return np.asarray(nose + across * float(((lips + corners) / 2 - nose) @ across))


def _read_contours(local: Points) -> Contours:
    """Return the contours of landmarks in (u, v); inner lips that cross meet in the middle."""
    upper, lower = local[_UPPER_INNER], local[_LOWER_INNER]
    middle = (upper[:, 1] + lower[:, 1]) / 2
    upper[:, 1], lower[:, 1] = np.minimum(upper[:, 1], middle), np.maximum(lower[:, 1], middle)
    return Contours(
        upper_outer=_rising(local[_UPPER_OUTER]),
        upper_inner=_rising(upper),
        lower_inner=_rising(lower),
        lower_outer=_rising(local[_LOWER_OUTER]),
        jaw=_rising(local[[n for n in geometry.JAW if local[n, 1] > 0] or [geometry.CHIN]]),
    )


def _rising(curve: Points) -> Points:
    """Sort a curve by u, as ``np.interp`` requires."""
    return curve[np.argsort(curve[:, 0], kind="stable")]


def _to_local(points: Points, origin: Points, axis: Points) -> Points:
    return np.asarray((points - origin) @ np.array([[axis[0], -axis[1]], [axis[1], axis[0]]]))


def _fit_affine(source: Points, target: Points) -> Points:
    """Return the 2x3 matrix that maps ``source`` to ``target`` with the least squared error."""
    design = np.column_stack((source, np.ones(len(source))))
    solution, *_ = np.linalg.lstsq(design, target, rcond=None)
    return np.asarray(solution.T)


def _apply(matrix: Points, points: NDArray[np.floating]) -> Points:
    return np.asarray(points.astype(np.float64) @ matrix[:, :2].T + matrix[:, 2])
