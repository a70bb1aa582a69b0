import numpy as np
import pytest

from latentsync.face.scrfd import ScrfdDetector, fit_size, to_input
from tests.face.pictures import blank
from tests.golden_files import GOLDEN


@pytest.fixture(scope="module")
def detector() -> ScrfdDetector:
    return ScrfdDetector.from_file(GOLDEN / "detector/det_standin.onnx")


def test_a_frame_too_narrow_for_the_square_is_searched_all_the_same(detector):
    assert fit_size(2, 2000) == (1, 512)
    assert np.isfinite(detector.detect(blank(2, 2000)).boxes).all()


def test_true_colours_are_an_option():
    picture = np.zeros((512, 512, 3), np.uint8)
    picture[..., 0] = 255
    assert to_input(picture)[0, 2, 0, 0] == to_input(picture, true_colors=True)[0, 0, 0, 0] > 0.9
