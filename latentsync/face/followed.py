"""A face while it is followed: where it was last, how it looks, and the rows of its track."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from latentsync.face.boxes import Box, Floats, box_around, center
from latentsync.face.likeness import likeness
from latentsync.face.topology import NUM_LANDMARKS
from latentsync.face.track import FaceTrack
from latentsync.face.usable import face_size

_FIRST_ROWS = 64  # 240 KB
_PORTRAITS = 8  # latest ones kept
_ALIKE = 0.8  # likeness that is enough wherever the face comes back
_NOT_UNLIKE = 0.55  # likeness that is enough near the last place
_BRIEFLY = 25  # frames; a face that comes back at its place so soon is the same however it looks
_REACH = 0.75  # of the face's size: how far "near" is
_SIZE_RATIO = 1.6  # largest change of size for "near"


@dataclass(frozen=True, eq=False)
class Sighting:
    """What the mesh says about one face in one frame.

    Args:
        points: float32 (468,3), landmarks in pixels.
        presence: how surely there is a face, 0..1.
    """

    points: Floats
    presence: float

    @property
    def box(self) -> Box:
        return box_around(self.points)


class FollowedFace:
    """One person's face, followed or lost."""

    def __init__(self, sighting: Sighting, frame: int, shot: int) -> None:
        self.points = sighting.points
        self.last_frame = frame
        self.last_shot = shot
        self.portraits: deque[Floats] = deque(maxlen=_PORTRAITS)
        self._frames: list[int] = []
        # One block: thousands of small rows among other small things would keep their pages.
        self._rows = np.empty((_FIRST_ROWS, NUM_LANDMARKS, 2), np.float32)
        self._presence: list[float] = []
        self._shots: list[int] = []

    @property
    def box(self) -> Box:
        """Where the face was last."""
        return box_around(self.points)

    @property
    def num_usable(self) -> int:
        """Number of frames with a usable face so far."""
        return len(self._frames)

    def was_usable(self, frame: int) -> bool:
        """Tell whether ``frame`` is the last one with a usable face."""
        return bool(self._frames) and self._frames[-1] == frame

    def see(self, sighting: Sighting, frame: int, shot: int, *, usable: bool) -> None:
        """Take down where the face is in ``frame``; only usable sightings become rows."""
        self.points, self.last_frame, self.last_shot = sighting.points, frame, shot
        if usable:
            self._add_row(sighting.points[:, :2])
            self._frames.append(frame)
            self._presence.append(sighting.presence)
            self._shots.append(shot)

    def resemblance(self, sighting: Sighting, portrait: Floats, frame: int, shot: int) -> float:
        """Return how well a face found in ``frame`` may be this one come back; 0 if it is not."""
        like = max((likeness(portrait, known) for known in self.portraits), default=-1.0)
        if like >= _ALIKE:
            return 1 + like
        if not self._is_near(sighting):
            return 0.0
        briefly = shot == self.last_shot and frame - self.last_frame <= _BRIEFLY
        return 1.0 if briefly or like >= _NOT_UNLIKE else 0.0

    def track(self, num_frames: int) -> FaceTrack:
        """Return the rows so far as the track of a clip of ``num_frames``."""
        return FaceTrack(
            num_frames=num_frames,
            frames=np.array(self._frames, np.int64),
            points=self._rows[: self.num_usable].copy(),
            presence=np.array(self._presence, np.float32),
            shots=np.array(self._shots, np.int32),
        )

    def _add_row(self, row: Floats) -> None:
        filled = self.num_usable
        if filled == len(self._rows):
            larger = np.empty((2 * filled, *row.shape), np.float32)
            larger[:filled] = self._rows
            self._rows = larger
        self._rows[filled] = row

    def _is_near(self, sighting: Sighting) -> bool:
        old, new = face_size(self.points), face_size(sighting.points)
        if max(old, new) > _SIZE_RATIO * min(old, new):
            return False
        distance = np.subtract(center(self.box), center(sighting.box))
        return float(np.hypot(*distance)) <= _REACH * max(old, new)
