"""Follows faces through a clip: each frame's landmarks tell where to look in the next one.

The detector runs only at the first frame, at cuts, when a face is lost and every few frames for
newcomers; the mesh network confirms every hit of it, so that a false hit makes no track.

Hard cuts between camera shots.
"""

import math
from collections.abc import Iterable
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from latentsync.face.blazeface import Detection, FaceDetector
from latentsync.face.boxes import Box, area, box_around, center, overlap
from latentsync.face.mesh import FaceMesh, FaceRegion
from latentsync.face.track import FaceTrack
from latentsync.face.tracked_face import FollowedFace, Sighting, face_size, is_usable, portrait
from latentsync.formats import Frame
from latentsync.monitor import RunMonitor

_GRID = (18, 32)  # samples per frame, rows and columns
_CUT_CHANGE = 24.0  # mean change of brightness between two frames, of 255


class CutFinder:
    """Compares each frame with the one before.

    A flash counts as a cut too; that costs one more search and loses nothing.
    """

    def __init__(self) -> None:
        self._last: NDArray[np.float32] | None = None

    def is_cut(self, frame: Frame) -> bool:
        """Tell whether ``frame`` begins a new shot; the first frame does not."""
        samples = _sample(frame)
        last, self._last = self._last, samples
        return last is not None and float(np.abs(samples - last).mean()) > _CUT_CHANGE


def _sample(frame: Frame) -> NDArray[np.float32]:
    """Return the brightness at a coarse grid of small blocks, float32 (18,32)."""
    height, width = frame.shape[:2]
    rows = np.linspace(0, height - 1, 2 * _GRID[0]).astype(int)
    columns = np.linspace(0, width - 1, 2 * _GRID[1]).astype(int)
    brightness = frame[rows[:, None], columns].astype(np.float32).mean(axis=2)
    blocks: NDArray[np.float32] = brightness.reshape(_GRID[0], 2, _GRID[1], 2).mean(axis=(1, 3))
    return blocks


MAX_FACES = 4  # followed at the same time, the largest first
NEW_PRESENCE = 0.75  # of the mesh network, from which a detection is a face
KEPT_PRESENCE = 0.5  # below which a followed face is lost
DETECT_EVERY = 10  # frames between two looks at the whole picture
SEARCH_EVERY = 25  # frames between two searches for small faces
PORTRAY_EVERY = 10  # frames
_SETTLING_PASSES = 3  # of the mesh on a new or fast face: its crop follows from its landmarks
_WATCH = 10  # frames for which a lost face is looked for at its last place
_FAST = 0.05  # of the face's size; after a larger step the mesh looks again at the new place
_ONE_FACE = 0.35  # two sightings that overlap more than this are one face
_SHORTEST_TRACK = 3  # frames; anything shorter is a false hit unless the clip is as short

_Seen = dict[FollowedFace, Sighting]


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


class FaceTracker:
    """Takes frames one by one; ``tracks`` tells what was seen."""

    def __init__(self) -> None:
        self._detector = FaceDetector()
        self._mesh = FaceMesh()
        self._cuts = CutFinder()
        self._faces: list[FollowedFace] = []
        self._frame = -1
        self._shot = 0

    def add(self, frame: Frame) -> None:
        """Take the next frame, H,W,3 uint8 RGB."""
        self._frame += 1
        cut = self._cuts.is_cut(frame)
        self._shot += cut
        # What lies where a face was before a cut may be anybody's.
        seen = {} if cut else self._follow(frame)
        for detection in self._detections(frame, cut, seen):
            self._meet(detection, frame, seen)
        for face, sighting in seen.items():
            self._record(face, sighting, frame)

    def tracks(self) -> list[FaceTrack]:
        """Return one track per usable face, in order of appearance."""
        num_frames = self._frame + 1
        shortest = max(1, min(_SHORTEST_TRACK, num_frames))
        return [face.track(num_frames) for face in self._faces if face.num_usable >= shortest]

    def _follow(self, frame: Frame) -> _Seen:
        """Look for the faces of the last frame where they were in it."""
        seen = {}
        for face in self._faces:
            if face.last_frame == self._frame - 1:
                sighting = self._look_again(face, frame)
                if sighting.presence >= KEPT_PRESENCE:
                    seen[face] = sighting
        _drop_doubles(seen)
        return seen

    def _detections(self, frame: Frame, cut: bool, seen: _Seen) -> list[Detection]:
        """Return hits of the detector, if it is due, the largest first."""
        if cut or self._frame % SEARCH_EVERY == 0:
            return _largest_first(self._detector.search(frame))
        found = []
        if not seen or self._frame % DETECT_EVERY == 0:
            found = self._detector.detect(frame)
        for face in self._faces:
            if face not in seen and self._frame - face.last_frame <= _WATCH:
                found += self._detector.detect_near(frame, face.box)
        return _largest_first(found)

    def _meet(self, detection: Detection, frame: Frame, seen: _Seen) -> None:
        """Add the detected face to ``seen`` unless it is in there or not a face at all."""
        if len(seen) >= MAX_FACES or _is_known(detection.box, seen):
            return
        sighting = self._look(frame, FaceRegion.from_detection(detection))
        for _ in range(_SETTLING_PASSES - 1):
            if sighting.presence < KEPT_PRESENCE:
                return
            sighting = self._look(frame, FaceRegion.from_landmarks(sighting.points))
        if sighting.presence >= NEW_PRESENCE and not _is_known(sighting.box, seen):
            seen[self._recognise(sighting, frame, seen)] = sighting

    def _look(self, frame: Frame, region: FaceRegion) -> Sighting:
        return Sighting(*self._mesh.landmarks(frame, region))

    def _look_again(self, face: FollowedFace, frame: Frame) -> Sighting:
        """Look where the face was in the last frame; if it has moved far, look there too."""
        points = face.points
        for _ in range(_SETTLING_PASSES):
            sighting = self._look(frame, FaceRegion.from_landmarks(points))
            step = math.dist(center(sighting.box), center(box_around(points)))
            if sighting.presence < KEPT_PRESENCE or step < _FAST * face_size(points):
                break
            points = sighting.points
        return sighting

    def _recognise(self, sighting: Sighting, frame: Frame, seen: _Seen) -> FollowedFace:
        """Return the lost face that came back, or a new one."""
        likely: dict[FollowedFace, float] = {}
        looks = portrait(frame, sighting.points)
        for face in self._faces:
            if face not in seen:
                likely[face] = face.resemblance(sighting, looks, self._frame, self._shot)
        best = max(likely, key=lambda face: likely[face], default=None)
        if best is None or likely[best] <= 0:
            best = FollowedFace(sighting, self._frame, self._shot)
            self._faces.append(best)
        best.portraits.append(looks)
        return best

    def _record(self, face: FollowedFace, sighting: Sighting, frame: Frame) -> None:
        height, width = frame.shape[:2]
        was_usable = face.was_usable(self._frame - 1)
        usable = is_usable(sighting.points, width, height, was_usable=was_usable)
        face.see(sighting, self._frame, self._shot, usable=usable)
        if self._frame % PORTRAY_EVERY == 0:
            face.portraits.append(portrait(frame, sighting.points))


def _drop_doubles(seen: _Seen) -> None:
    """Where two faces were found at one place, keep the one that moved less to get there."""
    for one, other in combinations(list(seen), 2):
        if one not in seen or other not in seen:
            continue
        if overlap(seen[one].box, seen[other].box) > _ONE_FACE:
            del seen[min(one, other, key=lambda face: overlap(face.box, seen[face].box))]


def _is_known(box: Box, seen: _Seen) -> bool:
    return any(overlap(box, sighting.box) > _ONE_FACE for sighting in seen.values())


def _largest_first(detections: list[Detection]) -> list[Detection]:
    return sorted(detections, key=lambda detection: -area(detection.box))
