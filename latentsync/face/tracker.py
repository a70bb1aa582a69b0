"""Follows faces through a clip: each frame's landmarks tell where to look in the next one.

The detector runs only at the first frame, at cuts, when a face is lost and every few frames for
newcomers; the mesh network confirms every hit of it, so that a false hit makes no track.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from latentsync.face.boxes import Box, Floats, box_around, center, overlap
from latentsync.face.detector import Detection, FaceDetector
from latentsync.face.mesh import FaceMesh, FaceRegion
from latentsync.face.shots import CutFinder
from latentsync.face.track import FaceTrack
from latentsync.face.usable import face_size, is_usable
from latentsync.formats import Frame
from latentsync.monitor import RunMonitor

MAX_FACES = 4  # followed at the same time
MIN_PRESENCE = 0.5  # of the mesh network, below which there is no face
DETECT_EVERY = 10  # frames between two looks at the whole picture
SEARCH_EVERY = 25  # frames between two searches for small faces
_SETTLING_PASSES = 3  # of the mesh on a new face: its crop follows from its own landmarks
_WATCH = 10  # frames for which a lost face is looked for at its last place
_DOUBLE_OVERLAP = 0.5  # two faces that overlap more than this are one
_KNOWN_OVERLAP = 0.2  # a detection that overlaps a followed face more than this is that face
_REACH = 0.75  # of the face's size: how far from its last place a lost face may come back
_SIZE_RATIO = 1.6  # largest change of size between losing a face and finding it again
_SHORTEST_TRACK = 3  # frames; anything shorter is a false hit unless the clip is as short


def track_faces(frames: Iterable[Frame], *, monitor: RunMonitor | None = None) -> list[FaceTrack]:
    """Follow every usable face through a clip.

    Args:
        frames: the clip's frames in order, each H,W,3 uint8 RGB of one size; read once.
        monitor: asked before every frame whether the run must stop.

    Returns:
        One track per face, in order of appearance; empty if no frame shows a usable face.

    Raises:
        Canceled, DeadlineExceeded: as the monitor says.
    """
    tracker = FaceTracker()
    for frame in frames:
        if monitor is not None:
            monitor.check()
        tracker.add(frame)
    return tracker.tracks()


@dataclass(eq=False)
class _Face:
    """A face while it is followed."""

    points: Floats  # (468,3) where it was seen last
    last_frame: int
    frames: list[int] = field(default_factory=list)
    rows: list[Floats] = field(default_factory=list)  # (468,2) each
    presence: list[float] = field(default_factory=list)
    shots: list[int] = field(default_factory=list)

    @property
    def box(self) -> Box:
        return box_around(self.points)


@dataclass(frozen=True, eq=False)
class _Sighting:
    """What the mesh says about one face in one frame."""

    points: Floats  # (468,3)
    presence: float

    @property
    def box(self) -> Box:
        return box_around(self.points)


class FaceTracker:
    """Takes frames one by one; ``tracks`` tells what was seen."""

    def __init__(self) -> None:
        self._detector = FaceDetector()
        self._mesh = FaceMesh()
        self._cuts = CutFinder()
        self._faces: list[_Face] = []
        self._frame = -1
        self._shot = 0

    def add(self, frame: Frame) -> None:
        """Take the next frame, H,W,3 uint8 RGB."""
        self._frame += 1
        cut = self._cuts.is_cut(frame)
        self._shot += cut
        seen = self._follow(frame)
        for detection in self._detections(frame, cut, nobody=not seen):
            self._meet(detection, frame, seen)
        for face, sighting in seen.items():
            self._record(face, sighting, frame)

    def tracks(self) -> list[FaceTrack]:
        """Return one track per usable face, in order of appearance."""
        num_frames = self._frame + 1
        shortest = min(_SHORTEST_TRACK, num_frames)
        return [_finish(face, num_frames) for face in self._faces if len(face.frames) >= shortest]

    def _follow(self, frame: Frame) -> dict[_Face, _Sighting]:
        """Look for the faces of the last frame where they were in it."""
        seen = {}
        for face in self._faces:
            if face.last_frame == self._frame - 1:
                sighting = self._look(frame, FaceRegion.from_landmarks(face.points))
                if sighting.presence >= MIN_PRESENCE:
                    seen[face] = sighting
        _drop_doubles(seen)
        return seen

    def _detections(self, frame: Frame, cut: bool, nobody: bool) -> list[Detection]:
        if cut or self._frame % SEARCH_EVERY == 0:
            return self._detector.search(frame)
        found = []
        if nobody or self._frame % DETECT_EVERY == 0:
            found = self._detector.detect(frame)
        for face in self._faces:
            if 0 < self._frame - 1 - face.last_frame < _WATCH:
                found += self._detector.detect_near(frame, face.box)
        return found

    def _meet(self, detection: Detection, frame: Frame, seen: dict[_Face, _Sighting]) -> None:
        """Add the detected face to ``seen`` unless it is in there or not a face at all."""
        if _is_known(detection.box, seen) or len(seen) >= MAX_FACES:
            return
        sighting = self._look(frame, FaceRegion.from_detection(detection))
        for _ in range(_SETTLING_PASSES - 1):
            if sighting.presence < MIN_PRESENCE:
                return
            sighting = self._look(frame, FaceRegion.from_landmarks(sighting.points))
        if sighting.presence >= MIN_PRESENCE and not _is_known(sighting.box, seen):
            seen[self._recognise(sighting, seen)] = sighting

    def _look(self, frame: Frame, region: FaceRegion) -> _Sighting:
        return _Sighting(*self._mesh.landmarks(frame, region))

    def _recognise(self, sighting: _Sighting, seen: dict[_Face, _Sighting]) -> _Face:
        """Return the lost face that came back, or a new one."""
        lost = [face for face in self._faces if face not in seen and _may_be(face, sighting)]
        if lost:
            return max(lost, key=lambda face: overlap(face.box, sighting.box))
        face = _Face(sighting.points, self._frame)
        self._faces.append(face)
        return face

    def _record(self, face: _Face, sighting: _Sighting, frame: Frame) -> None:
        face.points, face.last_frame = sighting.points, self._frame
        if is_usable(sighting.points, width=frame.shape[1], height=frame.shape[0]):
            face.frames.append(self._frame)
            face.rows.append(sighting.points[:, :2].copy())
            face.presence.append(sighting.presence)
            face.shots.append(self._shot)


def _drop_doubles(seen: dict[_Face, _Sighting]) -> None:
    """Where two faces were found at one place, keep the one that moved less to get there."""
    for one, other in combinations(list(seen), 2):
        if one not in seen or other not in seen:
            continue
        if overlap(seen[one].box, seen[other].box) > _DOUBLE_OVERLAP:
            del seen[min(one, other, key=lambda face: overlap(face.box, seen[face].box))]


def _is_known(box: Box, seen: dict[_Face, _Sighting]) -> bool:
    return any(overlap(box, sighting.box) > _KNOWN_OVERLAP for sighting in seen.values())


def _may_be(face: _Face, sighting: _Sighting) -> bool:
    """Tell whether a sighting is near enough to a lost face's last place, and alike in size."""
    old, new = face_size(face.points), face_size(sighting.points)
    if max(old, new) > _SIZE_RATIO * min(old, new):
        return False
    distance = np.subtract(center(face.box), center(sighting.box))
    return float(np.hypot(*distance)) <= _REACH * max(old, new)


def _finish(face: _Face, num_frames: int) -> FaceTrack:
    return FaceTrack(
        num_frames=num_frames,
        frames=np.array(face.frames, np.int64),
        points=np.stack(face.rows),
        presence=np.array(face.presence, np.float32),
        shots=np.array(face.shots, np.int32),
    )
