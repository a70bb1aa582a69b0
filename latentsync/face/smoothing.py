"""Removes jitter from a track without delay.

The whole track is known, so all filters are symmetric in time (zero phase). The pose of the head, a
similarity transform, and the shape of the face in the head's frame are smoothed separately, so that
rotation of the head does not affect the shape. The width of the filter adapts to the motion: where
a longer mean differs from the shortest one by more than the noise of the track, the shorter one is
used, which keeps plosives and nods sharp. Filters do not extend over gaps and cuts.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.face.geometry import RIGID, Floats
from latentsync.face.track import FaceTrack

Reals = NDArray[np.float64]
Complex = NDArray[np.complex128]

_SIGMAS = (0.7, 1.2, 2.2, 4.0, 8.0)  # of the means in frames, shortest first
_TOLERANCE = 1.5  # difference of a longer mean from the shortest one, in units of the noise
_NOISE_LIMITS = (0.001, 0.004)  # of the face's radius
_JUMP = 0.5  # of the face's radius; a larger step between two frames is a cut
_REFERENCE_PASSES = 3
_POINTS_AT_ONCE = 26  # limits the memory of long tracks


def smooth_track(track: FaceTrack) -> FaceTrack:
    """Return the track with smoothed landmarks, computed in float64.

    Runs of fewer than three frames do not change.
    """
    points = track.points.copy()
    for run in _runs(track):
        _smooth_run(points[run])
    return replace(track, points=points)


def _runs(track: FaceTrack) -> Iterator[slice]:
    """Yield the rows of each run of consecutive frames of one shot."""
    breaks = (np.diff(track.frames) != 1) | (np.diff(track.shots) != 0) | _jumps(track)
    edges = [0, *(np.flatnonzero(breaks) + 1).tolist(), track.frames_present]
    for start, stop in zip(edges, edges[1:], strict=False):
        if stop - start >= 3:
            yield slice(start, stop)


def _jumps(track: FaceTrack) -> NDArray[np.bool_]:
    """Return bool (K-1,): whether the face jumps between two rows."""
    rigid = track.points[:, list(RIGID)].astype(np.float64)
    middles = rigid.mean(axis=1)
    radii = np.sqrt(((rigid - middles[:, None]) ** 2).sum(axis=2).mean(axis=1))
    steps = np.linalg.norm(np.diff(middles, axis=0), axis=1)
    return np.asarray(steps > _JUMP * np.minimum(radii[1:], radii[:-1]))


def _smooth_run(points: Floats) -> None:
    """Smooth one run (n,468,2) in place.

    Landmarks are complex numbers x + iy here: points = turn * shape + place.
    """
    place, turn = _pose(_as_complex(points[:, list(RIGID)]))
    radius = np.abs(turn).mean()
    pose = _smooth(np.concatenate([place, turn], axis=1) / radius, together=True) * radius
    for start in range(0, points.shape[1], _POINTS_AT_ONCE):
        some = slice(start, start + _POINTS_AT_ONCE)
        shape = (_as_complex(points[:, some]) - place) / turn
        smooth = pose[:, 1:] * _smooth(shape, together=False) + pose[:, :1]
        points[:, some, 0], points[:, some, 1] = smooth.real, smooth.imag


def _as_complex(points: Floats) -> Complex:
    return np.ascontiguousarray(points, np.float64).view(np.complex128)[..., 0]


def _pose(rigid: Complex) -> tuple[Complex, Complex]:
    """Fit a similarity transform to the rigid points (n,m) of every row, by least squares.

    Returns:
        place, complex (n,1) in pixels, and turn, complex (n,1): scale and rotation; its absolute
        value is the RMS distance of the rigid points from their mean, in pixels.
    """
    place = rigid.mean(axis=1, keepdims=True)
    reference = rigid[len(rigid) // 2]
    for _ in range(_REFERENCE_PASSES):
        reference = reference - reference.mean()
        reference = reference / np.sqrt((np.abs(reference) ** 2).mean())
        turn = ((rigid - place) * reference.conj()).mean(axis=1, keepdims=True)
        reference = ((rigid - place) / turn).mean(axis=0)
    return place, turn


def _smooth(signals: Complex, together: bool) -> Complex:
    """Smooth each column (n frames, m signals), with a width that adapts to the motion.

    Args:
        signals: complex128 (n,m), in units of the face's radius.
        together: measure the difference over all columns, so that they share the widths.
    """
    noise = np.clip(_noise(signals), *_NOISE_LIMITS)
    shortest = _mean_over_time(signals, _SIGMAS[0])
    smooth, trust = shortest, np.ones(signals.shape)
    for sigma in _SIGMAS[1:]:
        longer = _mean_over_time(signals, sigma)
        departure = np.abs(longer - shortest) / noise
        if together:
            departure = np.sqrt((departure**2).mean(axis=1, keepdims=True))
        trust = trust * np.exp(-((departure / _TOLERANCE) ** 4))
        smooth = smooth + cv2.GaussianBlur(trust, (1, 7), sigmaX=1.0) * (longer - smooth)
    return smooth


def _noise(signals: Complex) -> Reals:
    """Estimate each column's noise per axis from the median of its second differences."""
    bend = np.abs(signals[2:] - 2 * signals[1:-1] + signals[:-2])
    # White noise of deviation s has second differences of s * sqrt(6) per axis; the median length
    # of such a vector is sqrt(2 ln 2) of that.
    return np.asarray(np.median(bend, axis=0) / np.sqrt(6 * 2 * np.log(2)))


def _mean_over_time(signals: Complex, sigma: float) -> Complex:
    axes = np.ascontiguousarray(signals).view(np.float64)
    reach = min(math.ceil(3 * sigma), len(axes) - 1)
    # Point reflection at the ends, which preserves straight lines.
    before = 2 * axes[:1] - axes[reach:0:-1]
    after = 2 * axes[-1:] - axes[-2 : -reach - 2 : -1]
    longer = np.concatenate([before, axes, after])
    mean = cv2.filter2D(longer, cv2.CV_64F, _kernel(sigma, reach)[:, None])
    return np.ascontiguousarray(mean[reach : reach + len(axes)]).view(np.complex128)


def _kernel(sigma: float, reach: int) -> Reals:
    """Return a Gaussian times a parabola: a mean that preserves curves of second order."""
    steps = np.arange(-reach, reach + 1, dtype=np.float64)
    bell = np.exp(-0.5 * (steps / sigma) ** 2)
    moments = [float((bell * steps**power).sum()) for power in (0, 2, 4)]
    weights = bell * (moments[2] - moments[1] * steps**2)
    return np.asarray(weights / weights.sum())
