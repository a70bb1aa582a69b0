"""align.npz: from 106 landmarks to the matrix of each frame's crop."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from latentsync.pipelines.lipsync.alignment import FaceAligner, points3
from tests.parity.output import Output
from tests.parity.recorded import Array, RecordedFile
from tests.parity.tolerance import EXACT, Tolerance

MATRIX = Tolerance(2e-3)
_SHIFT = Tolerance(1e-4)  # of points at spread one, so far smaller than a matrix's pixels
_ODD_RESOLUTION = 256  # of the odd single frames


def check(recorded: RecordedFile) -> Iterator[Output]:
    yield from _points(recorded)
    runs = recorded.numbered(r"(?:M_nosmooth|M|bias)_((?!nosmooth_).+)_res(\d+)")
    for clip, resolution in dict.fromkeys((run[1], run[2]) for run in runs):
        for kind, tolerance in (("M", MATRIX), ("M_nosmooth", MATRIX), ("bias", _SHIFT)):
            make = partial(_carried, recorded, f"points3_{clip}", int(resolution), kind)
            yield Output(f"{kind}_{clip}_res{resolution}", tolerance, make)
    yield from _odd_faces(recorded)


def _points(recorded: RecordedFile) -> Iterator[Output]:
    pairs = recorded.numbered(r"(rounding_)?(?:lm106|points3)(_.+)?")
    for name, landmarks in dict.fromkeys(
        (f"{pair[1] or ''}points3{pair[2] or ''}", f"{pair[1] or ''}lm106{pair[2] or ''}")
        for pair in pairs
    ):
        yield Output(name, EXACT, partial(_points3, recorded, landmarks), "float64")


def _odd_faces(recorded: RecordedFile) -> Iterator[Output]:
    odd = recorded.numbered(r"(special_.+?)(?:_M|_bias)?")
    for name in dict.fromkeys(match[1] for match in odd):
        for kind, tolerance in (("M", MATRIX), ("bias", _SHIFT)):
            yield Output(f"{name}_{kind}", tolerance, partial(_single, recorded, name, kind))


def _points3(recorded: RecordedFile, name: str) -> Array:
    landmarks = recorded.read(name, "int")
    if landmarks.ndim == 2:
        return points3(landmarks)
    return np.stack([points3(frame) for frame in landmarks])


def _single(recorded: RecordedFile, name: str, kind: str) -> Array:
    return align(recorded.read(name, "float64")[None], _ODD_RESOLUTION, kind)[0]


def _carried(recorded: RecordedFile, name: str, resolution: int, kind: str) -> Array:
    return align(recorded.read(name, "float64"), resolution, kind)


def align(points: Array, resolution: int, kind: str = "M") -> Array:
    """Return matrices ``M`` (T,2,3) or shifts ``bias`` (T,2) of a sequence of points (T,3,2).

    ``M_nosmooth`` are the matrices before the shift is added.
    """
    aligner, made = FaceAligner(resolution), []
    for frame in points:
        matrix = aligner.align(frame)
        shift = aligner.shift
        if shift is None:
            raise AssertionError("an aligned face leaves a shift")
        if kind == "M_nosmooth":
            matrix[:, 2] -= shift
            aligner = FaceAligner(resolution)
        made.append(shift if kind == "bias" else matrix)
    return np.stack(made)
