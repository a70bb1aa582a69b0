"""One face through a whole clip."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from latentsync.face import geometry
from latentsync.face.geometry import Box, Floats, box_around


@dataclass(frozen=True, eq=False)
class FaceTrack:
    """One face in the frames in which it is usable; 3.8 KB for each of those.

    Args:
        num_frames: frames of the clip, T.
        frames: int64 (K,), the frames in which the face is usable, ascending.
        points: float32 (K,468,2), landmarks in pixels of the frame.
        presence: float32 (K,), probability of a face, 0..1.
        shots: int32 (K,), number of the camera shot, increased at every hard cut.
    """

    num_frames: int
    frames: NDArray[np.int64]
    points: Floats
    presence: Floats
    shots: NDArray[np.int32]

    @property
    def frames_present(self) -> int:
        """Number of frames in which the face is usable, K."""
        return len(self.frames)

    @cached_property
    def present(self) -> NDArray[np.bool_]:
        """bool (T,): in which frames the face is usable."""
        present = np.zeros(self.num_frames, np.bool_)
        present[self.frames] = True
        return present

    @cached_property
    def landmarks(self) -> Floats:
        """float32 (T,468,2) in pixels; NaN rows where the face is not usable."""
        if self.frames_present == self.num_frames:
            return self.points
        dense = np.full((self.num_frames, geometry.NUM_LANDMARKS, 2), np.nan, np.float32)
        dense[self.frames] = self.points
        return dense

    @cached_property
    def boxes(self) -> Floats:
        """float32 (T,4), x1, y1, x2, y2 around the landmarks; NaN where not usable."""
        dense = np.full((self.num_frames, 4), np.nan, np.float32)
        dense[self.frames, :2] = self.points.min(axis=1)
        dense[self.frames, 2:] = self.points.max(axis=1)
        return dense

    @cached_property
    def scores(self) -> Floats:
        """float32 (T,), presence 0..1; 0 where not usable."""
        dense = np.zeros(self.num_frames, np.float32)
        dense[self.frames] = self.presence
        return dense

    @cached_property
    def lip_gaps(self) -> NDArray[np.float64]:
        """float64 (T,), lip gap relative to the distance of the outer eye corners, or NaN."""
        points = self.points.astype(np.float64)
        gap = np.linalg.norm(
            points[:, geometry.UPPER_LIP_INNER] - points[:, geometry.LOWER_LIP_INNER], axis=1
        )
        eyes = np.linalg.norm(
            points[:, geometry.RIGHT_EYE_OUTER] - points[:, geometry.LEFT_EYE_OUTER], axis=1
        )
        dense = np.full(self.num_frames, np.nan)
        dense[self.frames] = gap / eyes
        return dense

    def at(self, frame: int) -> Floats | None:
        """Return the landmarks (468,2) in ``frame``, or None where the face is not usable."""
        row = int(np.searchsorted(self.frames, frame))
        if row == self.frames_present or self.frames[row] != frame:
            return None
        points: Floats = self.points[row]
        return points

    def shot_at(self, frame: int) -> int:
        """Return the number of the shot of ``frame``, in which the face must be usable."""
        return int(self.shots[np.searchsorted(self.frames, frame)])

    def box_at(self, frame: int) -> Box | None:
        """Return the box in ``frame``, or None where the face is not usable."""
        points = self.at(frame)
        return None if points is None else box_around(points)
