"""Warps the lower face by a smooth displacement of pixels.

In every column of a grid aligned with the mouth, the contours of the source are knots that move to
the target contours. The displacement is linear between knots and zero beyond the base of the nose
and the neck; outside the corners of the mouth it fades out over the cheeks. The region between the
inner lips is painted, not moved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.formats import Frame
from latentsync.pipelines.draft.mouth import Contours, MouthView

Field = NDArray[np.floating[Any]]  # (rows, columns) over the grid

# Sizes as shares of the distance between the outer corners of the eyes.
_REACH_U = 0.62  # largest distance from the middle of the mouth that moves
_REACH_BELOW_CHIN = 0.30
_CONTOUR_BLUR = 0.018  # smooths the polygons of landmarks
_LIP_MARGIN = 0.010  # excludes teeth at the edge of an open source mouth
_WIDEST_GRID = 384  # columns; larger faces are computed at this resolution


@dataclass(frozen=True)
class Grid:
    """A raster aligned with the mouth: columns along it, rows across it.

    ``u`` is (columns,), ``v`` is (rows,), both in pixels of the frame; ``step`` pixels lie between.
    """

    u: Field
    v: Field
    step: float

    @classmethod
    def around(cls, view: MouthView) -> Grid:
        """Return the raster that covers everything that may move in the frame of ``view``."""
        reach = _REACH_U * view.unit
        bottom = float(view.rest.jaw[:, 1].max()) + _REACH_BELOW_CHIN * view.unit
        step = max(1.0, 2 * reach / _WIDEST_GRID)
        u = np.arange(-reach, reach + step, step, dtype=np.float32)
        v = np.arange(view.nose_v, bottom + step, step, dtype=np.float32)
        return cls(u, v, step)

    def to_frame(self, view: MouthView, left: int, top: int) -> NDArray[np.float64]:
        """Return the 2x3 matrix from (column, row) of the raster to pixels of a cut-out."""
        right, down = view.axis, np.array([-view.axis[1], view.axis[0]])
        corner = view.origin + right * float(self.u[0]) + down * float(self.v[0]) - (left, top)
        return np.column_stack((right * self.step, down * self.step, corner))


@dataclass(frozen=True)
class Motion:
    """The displacement at every point of a grid.

    ``shift`` (rows, columns, 2): where to read from, relative to the point, in pixels along u, v.
    ``inside`` (rows, columns): share of the point between the lips, 0..1.
    ``upper``, ``lower`` (columns,): v of the target inner lips.
    """

    shift: Field
    inside: Field
    upper: Field
    lower: Field


def plan_shift(grid: Grid, view: MouthView, wanted: Contours) -> Motion:
    """Return the displacement that turns ``view.source`` into ``wanted`` on ``grid``."""
    unit = view.unit
    fade = _fade_columns(grid.u, view, wanted)
    across = _corner_shift(grid, view, wanted) * fade
    rows = grid.v[:, None]
    top, bottom = float(grid.v[0]), float(grid.v[-1])
    chin = float(wanted.jaw[:, 1].max())
    near_lips = _fade_rows(grid.v, top, wanted, chin)
    source_u = grid.u + across
    knots_from = _knots(source_u, view.source, unit, _LIP_MARGIN)
    knots_to = _knots(grid.u, wanted, unit, 0.0)
    knots_from = knots_to + (knots_from - knots_to) * fade
    knots_from, knots_to = _order(knots_from, top, bottom), _order(knots_to, top, bottom)
    down = _piecewise(rows, knots_to, knots_from)
    shift = np.stack((across[None] * near_lips[:, None] * np.ones_like(down), down), axis=-1)
    upper, lower = knots_to[2], knots_to[3]
    inside = _between(rows, upper, lower, grid.step)
    return Motion(shift.astype(np.float32), inside, upper, lower)


def move(frame: Frame, view: MouthView, grid: Grid, motion: Motion) -> tuple[slice, slice, Frame]:
    """Return (rows, columns, pixels): the part of the frame that changes, moved."""
    rows, columns = region_of(frame, view, grid)
    left, top = columns.start, rows.start
    size = (columns.stop - left, rows.stop - top)
    shift = warp_field(motion.shift, grid.to_frame(view, left, top), size)
    right = view.axis
    dx = shift[..., 0] * right[0] - shift[..., 1] * right[1]
    dy = shift[..., 0] * right[1] + shift[..., 1] * right[0]
    x = np.arange(left, columns.stop, dtype=np.float32)[None] + dx.astype(np.float32)
    y = np.arange(top, rows.stop, dtype=np.float32)[:, None] + dy.astype(np.float32)
    moved = cv2.remap(frame, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return rows, columns, np.asarray(moved, dtype=np.uint8)


def region_of(frame: Frame, view: MouthView, grid: Grid) -> tuple[slice, slice]:
    """Return the rows and columns of the frame that the grid covers; others never change."""
    matrix = grid.to_frame(view, 0, 0)
    ends = np.array([[0, 0, 1], [len(grid.u), 0, 1], [0, len(grid.v), 1]], dtype=np.float64)
    corners = ends @ matrix.T
    corners = np.vstack((corners, corners[1] + corners[2] - corners[0]))
    height, width = frame.shape[:2]
    x1, y1 = np.floor(corners.min(axis=0)).astype(int)
    x2, y2 = np.ceil(corners.max(axis=0)).astype(int) + 1
    return (
        slice(min(max(y1, 0), height), min(max(y2, 0), height)),
        slice(min(max(x1, 0), width), min(max(x2, 0), width)),
    )


def warp_field(field: Field, matrix: NDArray[np.float64], size: tuple[int, int]) -> Field:
    """Map values of the grid to a cut-out of the frame of size (width, height); zero outside."""
    return np.asarray(cv2.warpAffine(field, matrix, size, flags=cv2.INTER_LINEAR), np.float32)


def _corner_shift(grid: Grid, view: MouthView, wanted: Contours) -> Field:
    """Return the displacement of each column along u, which maps corners to corners."""
    to = [wanted.upper_outer[0, 0], 0.0, wanted.upper_outer[-1, 0]]
    source = view.source.upper_outer
    middle = (source[0, 0] + source[-1, 0]) / 2
    back = [source[0, 0], middle, source[-1, 0]]
    shift = np.interp(grid.u, to, np.subtract(back, to))
    return _blur(shift.astype(np.float32), 0.05 * view.unit / grid.step)


def _fade_rows(v: Field, top: float, wanted: Contours, chin: float) -> Field:
    """Return 1 at the lips, falling to 0 at the base of the nose and below the chin."""
    upper = float(wanted.upper_outer[:, 1].min())
    lower = float(wanted.lower_outer[:, 1].max())
    rise = _smoothstep((v - top) / max(upper - top, 1.0))
    fall = 1 - _smoothstep((v - lower) / max(chin - lower, 1.0))
    return np.asarray(rise * fall, np.float32)


def _fade_columns(u: Field, view: MouthView, wanted: Contours) -> Field:
    """Return 1 between the corners, falling to 0 at the edge of the grid."""
    reach = float(u[-1])
    half = max(float(np.abs(wanted.upper_outer[:, 0]).max()), 0.2 * view.unit)
    return np.asarray(1 - _smoothstep((np.abs(u) - half) / max(reach - half, 1.0)), np.float32)


def _knots(u: Field, contours: Contours, unit: float, margin: float) -> Field:
    """Return v of [upper outer, upper inner, lower inner, lower outer, jaw] per column, (5, n).

    Outside the corners all four lip curves are at the corner's height.
    """
    curves = [
        np.interp(u, curve[:, 0], curve[:, 1])
        for curve in (
            contours.upper_outer,
            contours.upper_inner,
            contours.lower_inner,
            contours.lower_outer,
            contours.jaw,
        )
    ]
    open_px = np.maximum(curves[2] - curves[1], 0)
    retreat = np.minimum(margin * unit, 0.25 * open_px) + 0.16 * open_px * (margin > 0)
    curves[1] -= retreat
    curves[2] += retreat
    step = float(u[1] - u[0]) if len(u) > 1 else 1.0
    sigma = _CONTOUR_BLUR * unit / max(abs(step), 1e-3)
    return np.stack([_blur(curve.astype(np.float32), sigma) for curve in curves])


def _order(knots: Field, top: float, bottom: float) -> Field:
    """Add the fixed ends and make the knots of each column non-decreasing, (7, n)."""
    ends = np.full((1, knots.shape[1]), 1, np.float32)
    full = np.concatenate((ends * top, knots, ends * bottom))
    return np.minimum(np.maximum.accumulate(full, axis=0), bottom)


def _piecewise(rows: Field, knots_to: Field, knots_from: Field) -> Field:
    """Return the shift along v at every (row, column): linear between the knots of its column."""
    shift = np.zeros((rows.shape[0], knots_to.shape[1]), np.float32)
    for i in range(len(knots_to) - 1):
        above, below = knots_to[i], knots_to[i + 1]
        first, last = knots_from[i] - above, knots_from[i + 1] - below
        slope = (last - first) / np.maximum(below - above, 1e-3)
        inside = (rows >= above) & (rows < below)
        np.copyto(shift, first + (rows - above) * slope, where=inside)
    return shift


def _between(rows: Field, upper: Field, lower: Field, step: float) -> Field:
    """Return the share of every point between two curves, soft over about a pixel."""
    soft = 1.2 * step
    cover = np.clip((rows - upper) / soft, 0, 1) * np.clip((lower - rows) / soft, 0, 1)
    open_enough = np.clip((lower - upper) / (2 * soft) - 0.25, 0, 1)
    return np.asarray(cover * open_enough, np.float32)


def _smoothstep(value: Field) -> Field:
    clipped = np.clip(value, 0, 1)
    return np.asarray(clipped * clipped * (3 - 2 * clipped), np.float32)


def _blur(curve: Field, sigma: float) -> Field:
    if sigma < 0.3:
        return curve
    return np.asarray(
        cv2.GaussianBlur(curve[None], (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)[0], np.float32
    )
