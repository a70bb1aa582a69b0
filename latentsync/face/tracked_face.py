"""A face while it is tracked: its last position, its appearance, and the rows of its track.

People in one clip are distinguished by coarse portraits, compared by correlation. That is not face
recognition: it uses colours, hair and light, which is enough to find a face again after a cut.
"""

import math
from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np

from latentsync.face import geometry
from latentsync.face.geometry import NUM_LANDMARKS, Box, Floats, box_around, center
from latentsync.face.mesh import FaceRegion
from latentsync.face.track import FaceTrack
from latentsync.formats import Frame

MIN_SIZE = 32  # pixels; of the face, as ``face_size`` measures it
MAX_YAW = math.radians(58)  # beyond it, a corner of the mouth is hidden
MAX_OUTSIDE = 0.1  # largest share of the lip landmarks outside of the picture
_SLACK = 1.08  # factor on the limits for a face that was usable in the previous frame


def is_usable(points: Floats, width: int, height: int, *, was_usable: bool = False) -> bool:
    """Return whether lips can be drawn on the face: large, frontal, mouth inside the picture.

    Args:
        points: float32 (468,3) landmarks in pixels, z in the same unit.
        width: of the picture in pixels.
        height: of the picture in pixels.
        was_usable: in the previous frame, which relaxes the limits.
    """
    slack = _SLACK if was_usable else 1.0
    return (
        face_size(points) * slack >= MIN_SIZE
        and abs(yaw(points)) <= MAX_YAW * slack
        and _share_outside(points[list(geometry.LIPS_OUTER)], width, height) <= MAX_OUTSIDE * slack
    )


def face_size(points: Floats) -> float:
    """Return the side of the square with the area of the landmarks' box, in pixels."""
    x1, y1, x2, y2 = box_around(points)
    return math.sqrt(max(0.0, x2 - x1) * max(0.0, y2 - y1))


def yaw(points: Floats) -> float:
    """Return the yaw of the head in radians; 0 faces the camera."""
    right, left = (points[side].astype(np.float64) for side in geometry.FACE_SIDES)
    across = left - right
    return math.atan2(float(across[2]), math.hypot(float(across[0]), float(across[1])))


def _share_outside(points: Floats, width: int, height: int) -> float:
    x, y = points[:, 0], points[:, 1]
    return float(np.mean((x < 0) | (x > width - 1) | (y < 0) | (y > height - 1)))


_SIDE = 8  # cells per side of a portrait


def portrait(frame: Frame, points: Floats) -> Floats:
    """Return a portrait of the face with these landmarks: float32 (192,), mean 0, length 1.

    Args:
        frame: H,W,3 uint8 RGB.
        points: landmarks (468,2) or (468,3) in pixels.
    """
    to_frame = FaceRegion.from_landmarks(points).to_frame(side=4 * _SIDE)
    crop = cv2.warpAffine(
        frame, to_frame, (4 * _SIDE, 4 * _SIDE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    cells = cv2.resize(crop, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    values = cells.astype(np.float32).ravel()
    values -= values.mean()
    return np.asarray(values / max(float(np.linalg.norm(values)), 1e-6), np.float32)


def likeness(one: Floats, other: Floats) -> float:
    """Return the correlation of two portraits, -1..1."""
    return float(one @ other)


_FIRST_ROWS = 64  # 240 KB
_PORTRAITS = 8  # of a face, the latest ones
_ALIKE = 0.8  # likeness that identifies a face anywhere
_NOT_UNLIKE = 0.55  # likeness that identifies a face near its last position
_BRIEFLY = 25  # frames within which a face near the last position is the same
_REACH = 0.75  # of the face's size: largest distance that is near
_SIZE_RATIO = 1.6  # largest change of size that is near


@dataclass(frozen=True, eq=False)
class Sighting:
    """The output of the mesh for one face in one frame.

    Args:
        points: float32 (468,3), landmarks in pixels.
        presence: probability of a face, 0..1.
    """

    points: Floats
    presence: float

    @property
    def box(self) -> Box:
        return box_around(self.points)


class TrackedFace:
    """One person's face, tracked or lost."""

    def __init__(self, sighting: Sighting, frame: int, shot: int) -> None:
        self.points = sighting.points
        self.last_frame = frame
        self.last_shot = shot
        self.portraits: deque[Floats] = deque(maxlen=_PORTRAITS)
        self._frames: list[int] = []
        # One block: thousands of small arrays would fragment the heap.
        self._rows = np.empty((_FIRST_ROWS, NUM_LANDMARKS, 2), np.float32)
        self._presence: list[float] = []
        self._shots: list[int] = []

    @property
    def box(self) -> Box:
        """The last box of the face."""
        return box_around(self.points)

    @property
    def num_usable(self) -> int:
        """Number of frames with a usable face so far."""
        return len(self._frames)

    def was_usable(self, frame: int) -> bool:
        """Return whether ``frame`` is the last one with a usable face."""
        return bool(self._frames) and self._frames[-1] == frame

    def see(self, sighting: Sighting, frame: int, shot: int, *, usable: bool) -> None:
        """Record the face in ``frame``; only usable sightings become rows."""
        self.points, self.last_frame, self.last_shot = sighting.points, frame, shot
        if usable:
            self._add_row(sighting.points[:, :2])
            self._frames.append(frame)
            self._presence.append(sighting.presence)
            self._shots.append(shot)

    def resemblance(self, sighting: Sighting, portrait: Floats, frame: int, shot: int) -> float:
        """Return how well a face found in ``frame`` matches this one; 0 if it does not."""
        like = max((likeness(portrait, known) for known in self.portraits), default=-1.0)
        if like >= _ALIKE:
            return 1 + like
        if not self._is_near(sighting):
            return 0.0
        briefly = shot == self.last_shot and frame - self.last_frame <= _BRIEFLY
        return 1.0 if briefly or like >= _NOT_UNLIKE else 0.0

    def track(self, num_frames: int) -> FaceTrack:
        """Return the rows as the track of a clip of ``num_frames``."""
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
