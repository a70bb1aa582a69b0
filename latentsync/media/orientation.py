"""Turning a picture the way its display matrix says (phones film lying on their side)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from av.sidedata.sidedata import SideDataContainer, Type
from av.video.frame import VideoFrame

from latentsync.formats import Frame


@dataclass(frozen=True)
class Orientation:
    """One of the eight ways to lay a rectangle down: transpose first, then flip."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    def apply(self, frame: Frame) -> Frame:
        """Return the frame upright as contiguous H,W,3; a view where nothing has to move."""
        upright = frame.transpose(1, 0, 2) if self.transpose else frame
        if self.flip_x:
            upright = upright[:, ::-1]
        if self.flip_y:
            upright = upright[::-1]
        return np.ascontiguousarray(upright)

    def upright_size(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height after :meth:`apply`."""
        return (height, width) if self.transpose else (width, height)


def read_orientation(frame: VideoFrame) -> Orientation:
    """Return how a decoded frame must be turned.

    The display matrix sends pixel (x, y) to (a x + c y, b x + d y). Angles that are no multiple
    of 90 degrees are taken as the nearest one.
    """
    side_data = cast(SideDataContainer, frame.side_data).get(Type.DISPLAYMATRIX)
    if side_data is None:
        return Orientation()
    a, b, _, c, d = np.frombuffer(bytes(side_data), np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(transpose=True, flip_x=c < 0, flip_y=b < 0)
    return Orientation(flip_x=a < 0, flip_y=d < 0)
