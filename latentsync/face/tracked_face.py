"""A face while it is followed: where it was last, how it looks, and the rows of its track.

Which faces lips can be drawn on: large enough, turned to us, mouth inside the picture.

Whether two sightings show one person: a coarse portrait, compared by correlation.

This is no face recognition. It tells people of one clip apart by colours, hair and light, well
enough to take up a face again after a cut.
"""

import math
from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np

from latentsync.face import topology
from latentsync.face.boxes import Box, Floats, box_around, center
from latentsync.face.mesh import FaceRegion
from latentsync.face.topology import NUM_LANDMARKS
from latentsync.face.track import FaceTrack
from latentsync.formats import Frame

MIN_SIZE = 32  # pixels; of the face, as ``face_size`` measures it
MAX_YAW = math.radians(58)  # beyond this the far corner of the mouth is hidden
MAX_OUTSIDE = 0.1  # share of the lips' points that may lie outside the picture
_SLACK = 1.08  # factor on every limit for a face that was usable just before, against flicker


def is_usable(points: Floats, width: int, height: int, *, was_usable: bool = False) -> bool:
    """Tell whether lips can be drawn on the face.

    Args:
        points: float32 (468,3) landmarks in pixels, z in the same unit.
        width: of the picture in pixels.
        height: of the picture in pixels.
        was_usable: in the frame before; the limits are a little wider then.
    """
    slack = _SLACK if was_usable else 1.0
    return (
        face_size(points) * slack >= MIN_SIZE
        and abs(yaw(points)) <= MAX_YAW * slack
        and _share_outside(points[list(topology.LIPS_OUTER)], width, height) <= MAX_OUTSIDE * slack
    )


def face_size(points: Floats) -> float:
    """Return the side of the square with the area of the landmarks' box, in pixels."""
    x1, y1, x2, y2 = box_around(points)
    return math.sqrt(max(0.0, x2 - x1) * max(0.0, y2 - y1))


def yaw(points: Floats) -> float:
    """Return how far the head is turned aside, in radians; 0 looks straight at the camera."""
    right, left = (points[side].astype(np.float64) for side in topology.FACE_SIDES)
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
    """Return how alike two portraits are, -1..1."""
    return float(one @ other)


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
