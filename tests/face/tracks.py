"""Tracks made of numbers alone, for tests that need no picture."""

from functools import cache

import numpy as np

from latentsync.face.geometry import Floats
from latentsync.face.track import FaceTrack
from latentsync.face.tracker import track_faces
from tests.face.pictures import astronaut


@cache
def face_points() -> Floats:
    """Return the astronaut's landmarks (468,2)."""
    (track,) = track_faces([astronaut()] * 4)
    return track.points[-1]


def make_track(points, *, num_frames=None, frames=None, shots=None) -> FaceTrack:
    """Return a track with these rows (K,468,2), by default in the first K frames."""
    rows = np.asarray(points, np.float32)
    frames = np.arange(len(rows)) if frames is None else np.asarray(frames)
    shots = np.zeros(len(rows)) if shots is None else np.asarray(shots)
    return FaceTrack(
        num_frames=int(frames[-1]) + 1 if num_frames is None else num_frames,
        frames=frames.astype(np.int64),
        points=rows,
        presence=np.full(len(rows), 0.9, np.float32),
        shots=shots.astype(np.int32),
    )


def still(count, x=0.0, y=0.0, scale=1.0):
    """Return ``count`` equal rows of the face, scaled and then moved."""
    return np.repeat(face_points()[None] * scale + np.float32([x, y]), count, axis=0)
