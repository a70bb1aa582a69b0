import zlib

import numpy as np
import pytest

from latentsync.face.landmarks106 import (
    Landmarks106,
    crop_matrices,
    cut_crop,
    place_landmarks,
)
from tests.face.test_scrfd import PICTURES, recorded
from tests.golden_files import FOLDERS, arrays


@pytest.fixture(scope="module")
def landmarker() -> Landmarks106:
    return Landmarks106.from_file(FOLDERS[0] / "detector/landmark_standin.onnx")


@pytest.fixture(scope="module")
def units() -> dict[str, np.ndarray]:
    return arrays(FOLDERS[0] / "detector/units.npz")


@pytest.mark.parametrize(("folder", "number"), PICTURES)
def test_crops_of_recorded_boxes_are_equal_bit_by_bit(folder, number):
    frame, steps = recorded(folder, number)
    matrices = crop_matrices(steps["boxes"])
    np.testing.assert_array_equal(matrices, steps["crop_M"])
    sums = [zlib.crc32(cut_crop(frame, matrix).tobytes()) for matrix in matrices]
    assert sums == steps["crop_crc32"].tolist()


@pytest.mark.parametrize(("folder", "number"), PICTURES)
def test_recorded_outputs_become_the_recorded_landmarks(landmarker, folder, number):
    frame, steps = recorded(folder, number)
    placed = place_landmarks(steps["lm_raw"], crop_matrices(steps["boxes"]))
    np.testing.assert_allclose(placed, steps["lm106"], atol=1e-5)
    found = landmarker.landmarks([frame] * len(steps["boxes"]), steps["boxes"])
    np.testing.assert_allclose(found, steps["lm106"], atol=1e-3)


def test_boxes_beyond_the_frame_tiny_and_huge_ones_are_cropped_as_recorded(landmarker, units):
    frame, matrices = units["crop_image"], crop_matrices(units["crop_boxes"])
    np.testing.assert_array_equal(matrices, units["crop_M"])
    crops = np.stack([cut_crop(frame, matrix) for matrix in matrices])
    np.testing.assert_array_equal(crops, units["crop_pixels"])
    raw = landmarker.run(crops)
    np.testing.assert_allclose(raw, units["crop_raw"], atol=1e-4)
    np.testing.assert_allclose(
        place_landmarks(units["crop_raw"], matrices), units["crop_lm106"], atol=1e-4
    )


def test_a_batch_equals_one_by_one(landmarker, units):
    frame, boxes = units["crop_image"], units["crop_boxes"]
    together = landmarker.landmarks([frame] * len(boxes), boxes)
    alone = [landmarker.landmarks([frame], box[None])[0] for box in boxes]
    np.testing.assert_allclose(together, alone, atol=1e-3)


def test_the_matrix_does_not_depend_on_the_type_of_the_boxes(units):
    boxes = units["crop_boxes"]
    np.testing.assert_array_equal(crop_matrices(boxes.astype(np.float64)), crop_matrices(boxes))


def test_no_boxes_make_no_landmarks(landmarker):
    assert landmarker.landmarks([], np.zeros((0, 4), np.float32)).shape == (0, 106, 2)
