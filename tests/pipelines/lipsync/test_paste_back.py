import numpy as np
import pytest
import torch

from latentsync.pipelines.lipsync.alignment import FaceAligner, crop_size
from latentsync.pipelines.lipsync.bilinear import (
    cut_face,
    interpolate,
    invert,
    place_pixels,
    window_of,
)
from latentsync.pipelines.lipsync.mask import to_pixel_values
from latentsync.pipelines.lipsync.paste_back import restore_face, seam_mask
from tests.face.pictures import astronaut, blank

POINTS = np.array([[104.0, 92.0], [152.0, 95.0], [127.0, 122.0]])  # of the portrait, roughly


def test_only_the_region_is_touched():
    frame = blank(1080, 1920)
    matrix = np.array([[0.9, 0.05, -700], [-0.05, 0.9, -300]], np.float32)
    rows, columns = window_of(invert(matrix), crop_size(256)[::-1], (1080, 1920))
    restored = restore_face(frame, np.ones((3, 256, 256), np.float32), matrix)
    assert (restored != frame).any()
    restored[rows, columns] = frame[rows, columns]
    np.testing.assert_array_equal(restored, frame)
    assert np.all(frame == 90)


def test_a_face_that_was_not_changed_comes_back():
    frame = astronaut()
    matrix = FaceAligner(256).align(POINTS)
    face = to_pixel_values(cut_face(frame, matrix, 256)[None])[0]
    restored = restore_face(frame, face, matrix)
    levels = np.abs(restored.astype(int) - frame)
    assert levels.mean() < 1.0
    assert np.percentile(levels, 99) < 8


@pytest.mark.parametrize("shift", [4000, -4000])
def test_a_crop_outside_the_frame_changes_nothing(shift):
    frame = astronaut()
    matrix = np.array([[1, 0, shift], [0, 1, 0]], np.float32)
    restored = restore_face(frame, np.ones((3, 64, 64), np.float32), matrix)
    np.testing.assert_array_equal(restored, frame)
    assert restored is not frame


def test_a_crop_larger_than_the_frame_fills_it_to_the_edges():
    frame = np.zeros((20, 24, 3), np.uint8)
    matrix = np.array([[4, 0, 50], [0, 4, 90]], np.float32)
    restored = restore_face(frame, np.ones((3, 256, 256), np.float32), matrix)
    assert np.all(restored >= 254)


@pytest.mark.parametrize("value", [-5.0, 5.0])
def test_values_beyond_the_range_are_clipped(value):
    matrix = FaceAligner(128).align(POINTS)
    restored = restore_face(astronaut(), np.full((3, 128, 128), value, np.float32), matrix)
    # White is cut to one level less where the seam's filter sums up to a hair below one.
    assert set(restored[125, 128].tolist()) <= ({0} if value < 0 else {254, 255})


def test_the_white_beyond_the_crop_hardly_shows_in_the_seam():
    frame, face = blank(256, 256, level=0), np.full((3, 128, 128), -1, np.float32)
    assert restore_face(frame, face, FaceAligner(128).align(POINTS)).max() <= 8


def test_the_seam_is_soft():
    covered = np.zeros((300, 300), np.float32)
    covered[50:250, 50:250] = 1
    mask = seam_mask(covered)
    assert mask.width == 9
    row = mask.soft[150]
    assert row[150] == 1
    assert np.all(np.diff(row[50:80]) >= 0)
    assert 0 < row[60] < 1
    assert row[:50].max() == 0


@pytest.mark.parametrize("side", [160, 320, 640])
def test_a_crop_over_the_whole_frame_covers_all_of_it_but_for_rounding(side):
    covered = np.full((side, side), 1 - 2**-20, np.float32)
    mask = seam_mask(covered)
    assert (mask.area, mask.width) == (side * side, side // 20)


@pytest.mark.parametrize("angle", np.linspace(-0.15, 0.15, 7))
def test_the_seam_is_as_wide_however_the_crop_over_the_frame_is_turned(angle):
    turn = 1.1 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.hstack([turn, [[105], [140]] - turn @ [[80], [80]]]).astype(np.float32)
    source, output = crop_size(256)[::-1], (160, 160)
    places = place_pixels(invert(matrix), source, output)
    covered = interpolate(torch.ones(1, *source), places).numpy()[0]
    mask = seam_mask(covered)
    assert (mask.area, mask.width) == (25_600, 8)
