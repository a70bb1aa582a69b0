"""Draws a mouth shape on a frame: warps the lips and paints cavity, upper teeth and tongue.

The teeth are fixed to the skull: they start at the resting line of the lips, and a rising upper lip
uncovers them. All colours follow the light on the face.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentsync.formats import Frame
from latentsync.pipelines.draft.mouth import Mouth, MouthView, shape_contours
from latentsync.pipelines.draft.visemes import MouthConfig, MouthShape
from latentsync.pipelines.draft.warp import Field, Grid, Motion, move, plan_shift, warp_field

Colour = NDArray[np.floating[Any]]  # (3,) RGB, 0..255

# Colours on a face whose skin has the colour _SKIN.
_SKIN = np.array([205, 155, 130], np.float32)
_CAVITY_FRONT = np.array([112, 50, 46], np.float32)
_CAVITY_BACK = np.array([44, 16, 16], np.float32)
_SHADOW = np.array([84, 36, 33], np.float32)  # under the lips and at the ends of the row of teeth
_TONGUE = np.array([158, 84, 82], np.float32)
_TEETH = np.array([222, 203, 180], np.float32)
_SEAM = np.array([96, 46, 44], np.float32)

# Sizes as shares of the distance between the outer corners of the eyes.
_TEETH_BELOW_REST = 0.012  # edge of the incisors below the resting line of the lips
_TEETH_ARC = 0.028  # by how much the row of teeth rises from its middle to its ends
_TEETH_HALF_ROW = 0.205
_TEETH_FROM_GAP = 0.025  # smaller gaps show no teeth
_TOOTH_WIDTHS = (0.072, 0.056, 0.052, 0.05)  # incisor, lateral, canine, premolar
_TONGUE_FROM_GAP = 0.045


def measure_light(frame: Frame, view: MouthView) -> Colour:
    """Return the light on the skin next to the mouth, (3,) RGB relative to ``_SKIN``.

    The hue has half weight, because a part of it comes from the skin.
    """
    down = np.array([-view.axis[1], view.axis[0]])
    skin = [
        _mean_around(frame, view.origin + (side * view.axis * 0.42 + down * 0.02) * view.unit)
        for side in (-1, 1)
    ]
    light = np.clip(np.mean(skin, axis=0) / _SKIN, 0.1, 1.25)
    return np.asarray((light + light.mean()) / 2, np.float32)


def paint(grid: Grid, view: MouthView, motion: Motion, light: Colour) -> tuple[Field, Field]:
    """Return (colours, cover) of the inside of the mouth on the grid.

    Returns:
        float32 (rows, columns, 3) RGB 0..255 and float32 (rows, columns) cover 0..1.
    """
    rows = grid.v[:, None]
    gap = np.maximum(motion.lower - motion.upper, 0)
    depth = np.clip((rows - motion.upper) / np.maximum(gap, 1.0), 0, 1)  # 0 upper lip, 1 lower
    half = max(float(np.abs(grid.u[gap > 0.5]).max(initial=0.0)), 1.0)
    side = np.clip(np.abs(grid.u) / half, 0, 1)
    colours = _cavity(depth, side)
    gap_share = float(gap.max(initial=0.0)) / view.unit
    _lay(colours, _TONGUE * _lit(depth, 0.55), _tongue_cover(depth, side, gap_share))
    teeth, cover = _teeth(grid, view, motion, gap_share)
    _lay(colours, teeth, cover)
    edge = _near_edges(rows, motion, view.unit)
    _lay(colours, _SHADOW, 0.6 * edge)
    colours *= light
    return _with_seam(colours, rows, grid, view, motion, light)


def _cavity(depth: Field, side: Field) -> Field:
    back = np.exp(-np.square((depth - 0.45) / 0.4)) * (1 - 0.5 * side**2)
    return np.asarray(_CAVITY_FRONT + (_CAVITY_BACK - _CAVITY_FRONT) * back[..., None], np.float32)


def _tongue_cover(depth: Field, side: Field, gap_share: float) -> Field:
    visible = _ramp(gap_share, _TONGUE_FROM_GAP, 2 * _TONGUE_FROM_GAP)
    top = 0.62 + 0.25 * np.square(side)
    return np.asarray(_ramp(depth, top - 0.12, top + 0.18) * (1 - side**4) * visible * 0.85)


def _lit(depth: Field, top: float) -> Field:
    """Return a brightness that rises towards the lower lip, (rows, columns, 1)."""
    return np.asarray(0.55 + 0.45 * _ramp(depth, top, 1.0), np.float32)[..., None]


def _teeth(grid: Grid, view: MouthView, motion: Motion, gap_share: float) -> tuple[Field, Field]:
    """Return (colours, cover) of the upper row."""
    unit = view.unit
    rows = grid.v[:, None]
    rest = np.interp(grid.u, view.rest.upper_inner[:, 0], view.rest.upper_inner[:, 1])
    middle = np.interp(0.0, view.rest.upper_inner[:, 0], view.rest.upper_inner[:, 1])
    along = np.clip(np.abs(grid.u) / (_TEETH_HALF_ROW * unit), 0, 1)
    # The row is half as curved as the line of the lips, which may droop or smile.
    edge = (rest + middle) / 2 + (_TEETH_BELOW_REST - _TEETH_ARC * along**2) * unit
    soft = max(0.014 * unit, 0.8 * grid.step)
    cover = _ramp(edge - rows, -soft, soft) * (1 - _ramp(along, 0.72, 1.0))
    cover *= _ramp(gap_share, _TEETH_FROM_GAP, 2.4 * _TEETH_FROM_GAP) * 0.92
    under_lip = np.clip((rows - motion.upper) / (0.05 * unit), 0, 1)
    lit = (0.55 + 0.45 * under_lip) * (1 - 0.6 * along**2) * (1 - 0.16 * _gaps(grid.u / unit))
    colours = _SHADOW + (_TEETH - _SHADOW) * lit[..., None]
    return np.asarray(colours, np.float32), np.asarray(cover, np.float32)


def _gaps(u: Field) -> Field:
    """Return 1 on the lines between teeth, 0 elsewhere, for u in eye distances."""
    ends = np.concatenate(([0.0], np.cumsum(_TOOTH_WIDTHS)))
    nearest = np.abs(np.abs(u)[:, None] - ends).min(axis=1)
    return np.asarray(np.exp(-np.square(nearest / 0.007)), np.float32)


def _near_edges(rows: Field, motion: Motion, unit: float) -> Field:
    """Return the soft shadow of the lips: 1 at their edges, falling inwards."""
    above, below = rows - motion.upper, motion.lower - rows
    return np.asarray(
        np.maximum(
            np.exp(-np.maximum(above, 0) / (0.016 * unit)),
            0.6 * np.exp(-np.maximum(below, 0) / (0.010 * unit)),
        ),
        np.float32,
    )


def _with_seam(
    colours: Field, rows: Field, grid: Grid, view: MouthView, motion: Motion, light: Colour
) -> tuple[Field, Field]:
    """Add the dark line between lips that were open in the source and are closed now."""
    source = view.source
    was_open = np.interp(grid.u, source.lower_inner[:, 0], source.lower_inner[:, 1])
    was_open = was_open - np.interp(grid.u, source.upper_inner[:, 0], source.upper_inner[:, 1])
    middle = (motion.upper + motion.lower) / 2
    width = max(0.011 * view.unit, 0.8 * grid.step)
    line = np.exp(-np.square((rows - middle) / width)) * np.clip(was_open / 2, 0, 1)
    half = np.abs(source.upper_outer[:, 0]).max()
    line = line * (1 - _ramp(np.abs(grid.u) / max(half, 1.0), 0.75, 0.95)) * 0.75
    seam = np.maximum(line - motion.inside, 0)
    cover = np.maximum(motion.inside, line)
    mix = (seam / np.maximum(cover, 1e-3))[..., None]
    return np.asarray(colours * (1 - mix) + _SEAM * light * mix, np.float32), cover


def _lay(colours: Field, layer: Field, cover: Field) -> None:
    """Lay a colour layer over ``colours`` in place."""
    colours += (layer - colours) * cover[..., None]


def _ramp(value: Field | float, low: Field | float, high: Field | float) -> Field:
    clipped = np.clip((np.asarray(value) - low) / (np.asarray(high) - low), 0, 1)
    return np.asarray(clipped * clipped * (3 - 2 * clipped), np.float32)


def _mean_around(frame: Frame, point: NDArray[np.float64]) -> Colour:
    height, width = frame.shape[:2]
    x, y = int(np.clip(point[0], 3, width - 4)), int(np.clip(point[1], 3, height - 4))
    return np.asarray(frame[y - 3 : y + 4, x - 3 : x + 4].mean(axis=(0, 1)), np.float32)


_LIGHT_MEMORY = 0.9  # weight of the previous frames' light; avoids flicker


class FaceWriter:
    """Draws the mouth shapes of one speaker, frame by frame in the order of the output.

    Args:
        mouth: the speaker's mouth through the clip.
        config: how shapes become lips.
    """

    def __init__(self, mouth: Mouth, config: MouthConfig) -> None:
        self._mouth = mouth
        self._config = config
        self._light: Colour | None = None
        self._shot = -1

    def write(
        self, frame: Frame, points: NDArray[np.float32], shape: MouthShape, *, shot: int = 0
    ) -> Frame:
        """Return a copy of ``frame`` (H,W,3 uint8 RGB) in which the mouth has ``shape``.

        Args:
            frame: the source frame; it is not changed.
            points: float32 (468,2), the speaker's smoothed landmarks in it.
            shape: the mouth to draw.
            shot: number of the camera shot; the light is measured anew in each.
        """
        view = self._mouth.view(points)
        grid = Grid.around(view)
        motion = plan_shift(grid, view, shape_contours(view, shape, self._config))
        rows, columns, moved = move(frame, view, grid, motion)
        light = self._follow_light(measure_light(frame, view), shot)
        colours, cover = paint(grid, view, motion, light)
        matrix = grid.to_frame(view, columns.start, rows.start)
        size = (moved.shape[1], moved.shape[0])
        share = warp_field(cover, matrix, size)[..., None]
        inside = warp_field(colours, matrix, size)
        finished = frame.copy()
        finished[rows, columns] = np.rint(moved + (inside - moved) * share).astype(np.uint8)
        return finished

    def _follow_light(self, light: Colour, shot: int) -> Colour:
        before = light if self._light is None or shot != self._shot else self._light
        self._light, self._shot = _LIGHT_MEMORY * before + (1 - _LIGHT_MEMORY) * light, shot
        return self._light
