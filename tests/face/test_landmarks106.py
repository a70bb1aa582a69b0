import numpy as np
import pytest

from latentsync.face.landmarks106 import Landmarks106, crop_matrices
from tests.golden_files import GOLDEN, arrays


@pytest.fixture(scope="module")
def landmarker() -> Landmarks106:
    return Landmarks106.from_file(GOLDEN / "detector/landmark_standin.onnx")


@pytest.fixture(scope="module")
def units() -> dict[str, np.ndarray]:
    return arrays(GOLDEN / "detector/units.npz")


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
