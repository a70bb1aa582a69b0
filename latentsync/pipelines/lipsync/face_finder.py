"""Finds the speakers' faces in each source frame and their alignment points."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from latentsync.errors import NoFace
from latentsync.face.geometry import Box, Floats, overlap
from latentsync.face.landmarks106 import Landmarks106
from latentsync.face.scrfd import ScrfdDetector
from latentsync.face.smoothing import smooth_track
from latentsync.face.speaker import Choice, choose_speaker
from latentsync.face.track import FaceTrack
from latentsync.face.tracker import track_faces
from latentsync.formats import Frame
from latentsync.pipelines.lipsync import alignment

ReadFrames = Callable[[], Iterator[Frame]]
Matrices = NDArray[np.float32]  # (frames,2,3); NaN where there is no face

_SAME_FACE = 0.3  # least overlap of a detected box with that of the tracked face
_MOST_WORKERS = 8  # frames processed concurrently, each with the values of a network
_NEAR = 12  # frames for which the last known position identifies a face


@dataclass(frozen=True, eq=False)
class FoundSpeakers:
    """The speakers' faces in all frames of the source.

    Attributes:
        faces: the number of the chosen face for each choice.
        points: by that number, float64 (frames,3,2) in pixels: left brow, right brow, nose; NaN
            where the face is not usable.
        faces_found: number of different people.
    """

    faces: list[int]
    points: dict[int, NDArray[np.float64]]
    faces_found: int


class SpeakerFinder(Protocol):
    """Finds the speakers' faces in all frames of a source."""

    def find(self, read: ReadFrames, num_frames: int, choices: Sequence[Choice]) -> FoundSpeakers:
        """Return the speakers' alignment points.

        Args:
            read: returns the first ``num_frames`` frames of the source; may be called again.
            num_frames: at least one.
            choices: who speaks, at least one.

        Raises:
            NoFace: a speaker has no usable face in any frame.
            InvalidField: there is no face at the given position.
        """
        ...


@dataclass(frozen=True, eq=False)
class _Sighting:
    """The usable faces of one frame: boxes float32 (k,4), points float64 (k,3,2)."""

    boxes: Floats
    points: NDArray[np.float64]

    def largest(self) -> alignment.Points3 | None:
        """Return the points of the largest face, which LatentSync chooses."""
        scores = np.ones(len(self.boxes), np.float32)
        chosen = alignment.choose_largest(self.boxes, scores)
        return None if chosen is None else self.points[chosen]


class InsightFaceFinder:
    """The detector and the landmarks that LatentSync was trained with.

    With one person in the video the result equals LatentSync's. With several, LatentSync uses the
    largest face of each frame, which may switch between people; here one person is tracked.
    """

    def __init__(self, detector: ScrfdDetector, landmarks: Landmarks106) -> None:
        self._detector = detector
        self._landmarks = landmarks

    def find(self, read: ReadFrames, num_frames: int, choices: Sequence[Choice]) -> FoundSpeakers:
        """See :class:`SpeakerFinder`."""
        sightings = list(_map_concurrently(self._detect, read()))
        all_auto = all(choice.speaker == "auto" for choice in choices)
        if all_auto and all(len(seen.boxes) <= 1 for seen in sightings):
            return _only_face(sightings, len(choices))
        tracks = track_faces(read())
        if all_auto and not tracks:  # faces that only the detector finds
            return _only_face(sightings, len(choices))
        faces = [choose_speaker(tracks, choice, num_frames) for choice in choices]
        points = {face: _stack(_follow(sightings, tracks[face])) for face in faces}
        return FoundSpeakers(faces, points, faces_found=len(tracks))

    def _detect(self, frame: Frame) -> _Sighting:
        faces = self._detector.detect(frame)
        boxes = faces.boxes[alignment.fits_limits(faces.boxes, faces.scores)]
        landmarks = alignment.round_landmarks(
            self._landmarks.landmarks([frame] * len(boxes), boxes)
        )
        points = [alignment.points3(of_face) for of_face in landmarks]
        return _Sighting(boxes, np.array(points, np.float64).reshape(-1, 3, 2))


class MeshFinder:
    """The embedded mesh of 468 points, whose licence allows every use."""

    def find(self, read: ReadFrames, num_frames: int, choices: Sequence[Choice]) -> FoundSpeakers:
        """See :class:`SpeakerFinder`."""
        tracks = track_faces(read())
        faces = [choose_speaker(tracks, choice, num_frames) for choice in choices]
        points = {face: _stack(_mesh_points(tracks[face], num_frames)) for face in faces}
        return FoundSpeakers(faces, points, faces_found=len(tracks))


def _mesh_points(track: FaceTrack, num_frames: int) -> list[alignment.Points3 | None]:
    smooth = smooth_track(track)
    seen = (smooth.at(frame) for frame in range(num_frames))
    return [None if landmarks is None else alignment.mesh_points3(landmarks) for landmarks in seen]


def _only_face(sightings: Sequence[_Sighting], num_choices: int) -> FoundSpeakers:
    """Return the largest face of each frame as the only person."""
    points = _stack([seen.largest() for seen in sightings])
    return FoundSpeakers(num_choices * [0], {0: points}, faces_found=1)


def align_speaker(points: NDArray[np.float64], resolution: int) -> Matrices:
    """Return the map from each frame to the aligned face, float32 (frames,2,3).

    Frames without a face do not change the smoothed shift.

    Args:
        points: float64 (frames,3,2) in the order of the source; NaN where there is no face.
        resolution: side of the aligned face in pixels.
    """
    aligner = alignment.FaceAligner(resolution)
    matrices = np.full((len(points), 2, 3), np.nan, np.float32)
    for frame in np.flatnonzero(np.isfinite(points[:, 0, 0])):
        try:
            matrices[frame] = aligner.align(points[frame])
        except NoFace:  # coinciding points are not a face; the frame is not changed
            continue
    return matrices


def _map_concurrently(
    detect: Callable[[Frame], _Sighting], frames: Iterator[Frame]
) -> Iterator[_Sighting]:
    """Yield the faces of each frame, in order; several frames are processed concurrently."""
    workers = min(_MOST_WORKERS, os.cpu_count() or 1)
    waiting: deque[Future[_Sighting]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="find") as pool:
        for frame in frames:
            waiting.append(pool.submit(detect, frame))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _follow(sightings: Sequence[_Sighting], track: FaceTrack) -> list[alignment.Points3 | None]:
    """Return the points of the tracked person in each frame; None where the face is not found.

    Where the track has a gap, a face at the person's last position counts as theirs.
    """
    points: list[alignment.Points3 | None] = []
    last: tuple[int, Box] | None = None
    for frame, seen in enumerate(sightings):
        place = _place_near(track, frame)
        if place is None and last is not None and frame - last[0] <= _NEAR:
            place = last[1]
        chosen = None if place is None else _face_at(place, seen)
        if chosen is not None:
            last = frame, _as_box(seen.boxes[chosen])
        points.append(None if chosen is None else seen.points[chosen])
    return points


def _face_at(place: Box, seen: _Sighting) -> int | None:
    """Return the index of the face at a position, or None."""
    shares = [overlap(place, _as_box(box)) for box in seen.boxes]
    best = max(range(len(shares)), key=shares.__getitem__, default=None)
    return best if best is not None and shares[best] >= _SAME_FACE else None


def _place_near(track: FaceTrack, frame: int) -> Box | None:
    """Return the box of the tracked face in ``frame`` or in the nearest frame that has it."""
    right = int(np.searchsorted(track.frames, frame))
    rows = [row for row in (right - 1, right) if 0 <= row < track.frames_present]
    nearest = min(rows, key=lambda row: abs(int(track.frames[row]) - frame))
    known = int(track.frames[nearest])
    return track.box_at(known) if abs(known - frame) <= _NEAR else None


def _as_box(box: Floats) -> Box:
    x1, y1, x2, y2 = (float(value) for value in box)
    return x1, y1, x2, y2


def _stack(points: list[alignment.Points3 | None]) -> NDArray[np.float64]:
    """Return float64 (frames,3,2), NaN for None; raises NoFace if all are None."""
    if all(of_frame is None for of_frame in points):
        raise NoFace(
            f"No usable face in any of the {len(points)} frames. LatentSync needs one of at least "
            f"{alignment.MIN_FACE_WIDTH} x {alignment.MIN_FACE_HEIGHT} pixels."
        )
    missing = np.full((3, 2), np.nan)
    return np.stack([missing if of_frame is None else of_frame for of_frame in points])
