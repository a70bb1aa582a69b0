"""Tracks faces through a clip: the landmarks of a frame determine the crop in the next one.

The detector runs only in the first frame, at cuts, when a face is lost, and every few frames for
new faces. The mesh network confirms each detection, so that false detections do not start tracks.
"""

import math
from collections.abc import Iterable
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from latentsync.face.blazeface import Detection, FaceDetector
from latentsync.face.geometry import Box, area, box_around, center, overlap
from latentsync.face.mesh import FaceMesh, FaceRegion
from latentsync.face.track import FaceTrack
from latentsync.face.tracked_face import Sighting, TrackedFace, face_size, is_usable, portrait
from latentsync.formats import Frame
from latentsync.monitor import RunMonitor

_GRID = (18, 32)  # samples per frame: rows, columns
_CUT_CHANGE = 24.0  # mean change of brightness between two frames at a cut, of 255


class CutFinder:
    """Finds hard cuts between camera shots.

    A flash counts as a cut as well, which only costs one more search.
    """

    def __init__(self) -> None:
        self._last: NDArray[np.float32] | None = None

    def is_cut(self, frame: Frame) -> bool:
        """Return whether ``frame`` begins a new shot; the first frame does not."""
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


MAX_FACES = 4  # tracked at the same time, the largest first
NEW_PRESENCE = 0.75  # presence from which a detection is a face
KEPT_PRESENCE = 0.5  # presence below which a tracked face is lost
DETECT_EVERY = 10  # frames between two detections in the whole picture
SEARCH_EVERY = 25  # frames between two searches for small faces
PORTRAY_EVERY = 10  # frames
_SETTLING_PASSES = 3  # of the mesh for a new or fast face, each with the crop of the previous one
_WATCH = 10  # frames for which a lost face is searched for at its last position
_FAST = 0.05  # of the face's size; after a larger step the mesh runs again
_ONE_FACE = 0.35  # sightings that overlap more are the same face
_SHORTEST_TRACK = 3  # frames; shorter tracks are false detections, except in shorter clips

_Seen = dict[TrackedFace, Sighting]


def track_faces(frames: Iterable[Frame], *, monitor: RunMonitor | None = None) -> list[FaceTrack]:
    """Track every usable face through a clip.

    Args:
        frames: the clip's frames in order, each H,W,3 uint8 RGB of one size; read once.
        monitor: checked before every frame.

    Returns:
        One track per face, in order of appearance; empty if no frame has a usable face.

    Raises:
        Canceled, DeadlineExceeded: raised by the monitor.
    """
    tracker = FaceTracker()
    for frame in frames:
        if monitor is not None:
            monitor.check()
        tracker.add(frame)
    return tracker.tracks()


class FaceTracker:
    """Tracks faces frame by frame."""

    def __init__(self) -> None:
        self._detector = FaceDetector()
        self._mesh = FaceMesh()
        self._cuts = CutFinder()
        self._faces: list[TrackedFace] = []
        self._frame = -1
        self._shot = 0

    def add(self, frame: Frame) -> None:
        """Process the next frame, H,W,3 uint8 RGB."""
        self._frame += 1
        cut = self._cuts.is_cut(frame)
        self._shot += cut
        # After a cut, another face may be at the position of a previous one.
        seen = {} if cut else self._track(frame)
        for detection in self._detections(frame, cut, seen):
            self._add_detection(detection, frame, seen)
        for face, sighting in seen.items():
            self._record(face, sighting, frame)

    def tracks(self) -> list[FaceTrack]:
        """Return one track per usable face, in order of appearance."""
        num_frames = self._frame + 1
        shortest = max(1, min(_SHORTEST_TRACK, num_frames))
        return [face.track(num_frames) for face in self._faces if face.num_usable >= shortest]

    def _track(self, frame: Frame) -> _Seen:
        """Find the faces of the previous frame near their positions in it."""
        seen = {}
        for face in self._faces:
            if face.last_frame == self._frame - 1:
                sighting = self._update(face, frame)
                if sighting.presence >= KEPT_PRESENCE:
                    seen[face] = sighting
        _drop_doubles(seen)
        return seen

    def _detections(self, frame: Frame, cut: bool, seen: _Seen) -> list[Detection]:
        """Return the detections, the largest first, if the detector is due."""
        if cut or self._frame % SEARCH_EVERY == 0:
            return _largest_first(self._detector.search(frame))
        found = []
        if not seen or self._frame % DETECT_EVERY == 0:
            found = self._detector.detect(frame)
        for face in self._faces:
            if face not in seen and self._frame - face.last_frame <= _WATCH:
                found += self._detector.detect_near(frame, face.box)
        return _largest_first(found)

    def _add_detection(self, detection: Detection, frame: Frame, seen: _Seen) -> None:
        """Add the detected face to ``seen`` if it is a face and new."""
        if len(seen) >= MAX_FACES or _is_known(detection.box, seen):
            return
        sighting = self._run_mesh(frame, FaceRegion.from_detection(detection))
        for _ in range(_SETTLING_PASSES - 1):
            if sighting.presence < KEPT_PRESENCE:
                return
            sighting = self._run_mesh(frame, FaceRegion.from_landmarks(sighting.points))
        if sighting.presence >= NEW_PRESENCE and not _is_known(sighting.box, seen):
            seen[self._match(sighting, frame, seen)] = sighting

    def _run_mesh(self, frame: Frame, region: FaceRegion) -> Sighting:
        return Sighting(*self._mesh.landmarks(frame, region))

    def _update(self, face: TrackedFace, frame: Frame) -> Sighting:
        """Run the mesh at the last position of the face, and again if the face has moved far."""
        points = face.points
        for _ in range(_SETTLING_PASSES):
            sighting = self._run_mesh(frame, FaceRegion.from_landmarks(points))
            step = math.dist(center(sighting.box), center(box_around(points)))
            if sighting.presence < KEPT_PRESENCE or step < _FAST * face_size(points):
                break
            points = sighting.points
        return sighting

    def _match(self, sighting: Sighting, frame: Frame, seen: _Seen) -> TrackedFace:
        """Return the lost face that matches, or a new one."""
        likely: dict[TrackedFace, float] = {}
        new_portrait = portrait(frame, sighting.points)
        for face in self._faces:
            if face not in seen:
                likely[face] = face.resemblance(sighting, new_portrait, self._frame, self._shot)
        best = max(likely, key=lambda face: likely[face], default=None)
        if best is None or likely[best] <= 0:
            best = TrackedFace(sighting, self._frame, self._shot)
            self._faces.append(best)
        best.portraits.append(new_portrait)
        return best

    def _record(self, face: TrackedFace, sighting: Sighting, frame: Frame) -> None:
        height, width = frame.shape[:2]
        was_usable = face.was_usable(self._frame - 1)
        usable = is_usable(sighting.points, width, height, was_usable=was_usable)
        face.see(sighting, self._frame, self._shot, usable=usable)
        if self._frame % PORTRAY_EVERY == 0:
            face.portraits.append(portrait(frame, sighting.points))


def _drop_doubles(seen: _Seen) -> None:
    """Of two faces at the same position, keep the one that moved less."""
    for one, other in combinations(list(seen), 2):
        if one not in seen or other not in seen:
            continue
        if overlap(seen[one].box, seen[other].box) > _ONE_FACE:
            del seen[min(one, other, key=lambda face: overlap(face.box, seen[face].box))]


def _is_known(box: Box, seen: _Seen) -> bool:
    return any(overlap(box, sighting.box) > _ONE_FACE for sighting in seen.values())


def _largest_first(detections: list[Detection]) -> list[Detection]:
    return sorted(detections, key=lambda detection: -area(detection.box))
