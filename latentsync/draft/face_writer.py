"""Puts one mouth shape on one frame: the parts of this package in their order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from latentsync.draft.config import MouthConfig
from latentsync.draft.interior import Colour, measure_light, paint
from latentsync.draft.mouth import Mouth, shape_contours
from latentsync.draft.visemes import MouthShape
from latentsync.draft.warp import Grid, move, plan_shift, warp_field
from latentsync.formats import Frame

_LIGHT_MEMORY = 0.9  # share of the light of the frames before: a flickering palette would show


class FaceWriter:
    """Gives one speaker new mouth shapes, frame by frame in the order of the output.

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
            shape: the wanted mouth.
            shot: number of the camera shot; the light is measured afresh in each.
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
