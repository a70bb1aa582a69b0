import cv2
import numpy as np

from latentsync.pipelines.lipsync.alignment import crop_size
from latentsync.pipelines.lipsync.bilinear import cut_crop, cut_face, window_of
from tests.face.pictures import astronaut


def test_between_pixels_values_are_mixed_exactly():
    ramp = np.tile(np.arange(64, dtype=np.uint8)[:, None] * 4, (1, 64))
    frame = np.stack([ramp, ramp.T, np.full_like(ramp, 128)], axis=-1)
    scale, angle = 3.3, 0.3
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    matrix = np.array([[cos, -sin, 10.0], [sin, cos, -40.0]], np.float32)
    width, height = crop_size(64)
    y, x = np.mgrid[:height, :width]
    back = np.linalg.inv(matrix[:, :2].astype(float))
    places = np.stack([x - 10.0, y + 40.0], axis=-1) @ back.T
    inside = ((places > 0) & (places < 63)).all(axis=-1)
    assert inside.mean() > 0.5
    crop = cut_crop(frame, matrix, 64).astype(float)
    for color, place in ((0, places[..., 1]), (1, places[..., 0])):
        short = (place * 4 - crop[..., color])[inside]
        assert short.min() > -1e-3
        assert short.max() < 1 + 1e-3


def test_beyond_the_frame_all_is_grey():
    matrix = np.array([[1, 0, 5000], [0, 1, 0]], np.float32)
    assert np.all(cut_face(astronaut(), matrix, 128) == 127)


def test_the_edge_is_mixed_with_grey():
    frame = np.full((40, 60, 3), 255, np.uint8)
    crop = cut_crop(frame, np.array([[1, 0, 10.5], [0, 1, 0]], np.float32), 64)
    assert crop[5, 9].tolist() == [127, 127, 127]
    assert set(crop[5, 10].tolist()) <= {190, 191}  # 191, or a hair less and cut
    assert crop[5, 11].tolist() == [255, 255, 255]


def test_only_a_part_of_the_frame_is_read():
    frame = np.zeros((300, 400, 3), np.uint8)
    matrix = np.array([[2.0, 0, -100], [0, 2.0, -60]], np.float32)
    picture = frame.copy()
    picture[100:130, 100:130] = 200
    window = window_of(cv2.invertAffineTransform(matrix), crop_size(128)[::-1], (300, 400))
    elsewhere = np.full_like(picture, 255)
    elsewhere[window] = picture[window]
    np.testing.assert_array_equal(cut_crop(picture, matrix, 128), cut_crop(elsewhere, matrix, 128))
    assert picture[window].size < picture.size / 8


def test_a_frame_that_is_a_part_of_another_array_will_do():
    picture = astronaut()
    matrix = np.array([[1.2, 0.1, -30], [-0.1, 1.2, -40]], np.float32)
    wide = np.zeros((256, 400, 3), np.uint8)
    wide[:, 50:306] = picture
    np.testing.assert_array_equal(
        cut_face(wide[:, 50:306], matrix, 128), cut_face(picture, matrix, 128)
    )
