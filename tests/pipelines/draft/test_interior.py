from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import pytest

from latentsync.face.geometry import (
    FACE_OVAL,
    LEFT_EYE_OUTER,
    LOWER_LIP_INNER,
    MOUTH_LEFT,
    MOUTH_RIGHT,
    RIGHT_EYE_OUTER,
    UPPER_LIP_INNER,
)
from latentsync.face.track import FaceTrack
from latentsync.face.tracker import track_faces
from latentsync.pipelines.draft.interior import FaceWriter
from latentsync.pipelines.draft.mouth import Mouth, shape_contours
from latentsync.pipelines.draft.visemes import MouthConfig, MouthShape
from latentsync.pipelines.draft.warp import Grid, region_of
from tests.demo_media import demo_frames

CLOSED, WIDE = MouthShape(0, 0, 0), MouthShape(1, 0, 0)


@cache
def still() -> tuple[np.ndarray, FaceTrack]:
    """The first frame of the demo clip and its face."""
    frame = demo_frames()[0]
    return frame, track_faces([frame] * 2)[0]


def write(shape: MouthShape, frame: np.ndarray | None = None) -> np.ndarray:
    source, track = still()
    return FaceWriter(Mouth(track.points), MouthConfig()).write(
        source if frame is None else frame, track.points[0], shape
    )


def measure(frame: np.ndarray, first: int, second: int) -> float:
    """Distance of two landmarks found again, in eye distances."""
    points = track_faces([frame] * 2)[0].points[0].astype(float)
    eyes = np.linalg.norm(points[RIGHT_EYE_OUTER] - points[LEFT_EYE_OUTER])
    return float(np.linalg.norm(points[first] - points[second]) / eyes)


def test_the_drawn_gap_is_found_again_and_grows_with_the_opening():
    gaps = [
        measure(write(MouthShape(opening, 0, 0)), UPPER_LIP_INNER, LOWER_LIP_INNER)
        for opening in (0, 0.25, 0.5, 0.75, 1)
    ]
    assert gaps == sorted(gaps)
    assert gaps[0] < 0.02
    assert gaps[-1] > 0.08


def test_rounding_draws_the_corners_in_and_spreading_pulls_them_apart():
    rounded, plain, spread = (
        measure(write(MouthShape(0.3, s, r)), MOUTH_RIGHT, MOUTH_LEFT)
        for s, r in ((0, 1), (0, 0), (1, 0))
    )
    assert rounded < 0.93 * plain
    assert spread > plain


def test_a_wide_opening_draws_the_corners_in():
    assert measure(write(WIDE), MOUTH_RIGHT, MOUTH_LEFT) < measure(
        write(CLOSED), MOUTH_RIGHT, MOUTH_LEFT
    )


@pytest.mark.parametrize("shape", [CLOSED, WIDE, MouthShape(0.4, 0, 1)])
def test_everything_outside_the_region_is_bit_identical(shape):
    frame, track = still()
    view = Mouth(track.points).view(track.points[0])
    rows, columns = region_of(frame, view, Grid.around(view))
    same = write(shape) == frame
    same[rows, columns] = True
    assert same.all()
    height, width = frame.shape[:2]
    share = (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
    assert share < 0.25


def test_eyes_and_background_are_never_in_the_region():
    frame, track = still()
    view = Mouth(track.points).view(track.points[0])
    rows, columns = region_of(frame, view, Grid.around(view))
    eyes = track.points[0][[RIGHT_EYE_OUTER, LEFT_EYE_OUTER]]
    assert (eyes[:, 1] < rows.start).all()
    oval = track.points[0][list(FACE_OVAL)]
    assert columns.start > oval[:, 0].min() - 0.1 * view.unit
    assert columns.stop < oval[:, 0].max() + 0.1 * view.unit


def test_the_edge_of_the_region_shows_no_seam():
    frame, track = still()
    view = Mouth(track.points).view(track.points[0])
    rows, columns = region_of(frame, view, Grid.around(view))
    change = np.abs(write(WIDE).astype(int) - frame)[rows, columns].max(axis=2)
    border = np.concatenate((change[:2].ravel(), change[-2:].ravel(), change[:, :2].ravel()))
    assert border.max() <= 6
    assert change.max() > 60  # and inside something really happens


def test_the_source_frame_is_not_written_to():
    frame, _ = still()
    before = frame.copy()
    write(WIDE)
    assert np.array_equal(frame, before)


def test_a_smile_is_narrowed_at_rest():
    _, track = still()
    smiling = track.points.copy()
    middle = smiling[:, [MOUTH_RIGHT, MOUTH_LEFT], 0].mean()
    lips = np.linalg.norm(smiling[0] - smiling[0, UPPER_LIP_INNER], axis=1) < 60
    smiling[:, lips, 0] = middle + (smiling[:, lips, 0] - middle) * 1.35
    view = Mouth(smiling).view(smiling[0])
    assert np.ptp(view.rest.upper_outer[:, 0]) < 0.92 * np.ptp(view.source.upper_outer[:, 0])


def test_contours_never_cross():
    _, track = still()
    view = Mouth(track.points).view(track.points[0])
    for opening in np.linspace(0, 1, 6):
        for rounding in (0, 1):
            wanted = shape_contours(view, MouthShape(opening, 0, rounding), MouthConfig())
            assert (wanted.lower_inner[:, 1] - wanted.upper_inner[:, 1] > -1e-6).all()
            assert wanted.upper_outer[5, 1] < wanted.upper_inner[5, 1] + 1e-6
            assert wanted.lower_outer[5, 1] > wanted.lower_inner[5, 1] - 1e-6


@pytest.mark.parametrize("angle", [-35, 20])
def test_a_tilted_head_opens_its_mouth_along_its_own_axis(angle):
    frame, _ = still()
    height, width = frame.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 0.9)
    tilted = cv2.warpAffine(frame, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)
    track = track_faces([tilted] * 2)[0]
    opened = FaceWriter(Mouth(track.points), MouthConfig()).write(tilted, track.points[0], WIDE)
    assert measure(opened, UPPER_LIP_INNER, LOWER_LIP_INNER) > 0.07


def test_a_mouth_at_the_edge_of_the_picture_is_drawn_as_far_as_it_is_there():
    frame, track = still()
    mouth_y = int(track.points[0, UPPER_LIP_INNER, 1])
    cut = frame[: mouth_y + 4].copy()
    opened = FaceWriter(Mouth(track.points), MouthConfig()).write(cut, track.points[0], WIDE)
    assert opened.shape == cut.shape
    assert (opened != cut).any()


@pytest.mark.parametrize("level", [0.25, 0.6])
def test_paint_follows_the_light_on_the_face(level):
    frame, _ = still()
    dark = (frame * level).astype(np.uint8)
    bright_inside = np.percentile(write(WIDE)[write(WIDE) != frame], 99)
    dark_inside = np.percentile(write(WIDE, dark)[write(WIDE, dark) != dark], 99)
    assert dark_inside < (level + 0.2) * bright_inside
