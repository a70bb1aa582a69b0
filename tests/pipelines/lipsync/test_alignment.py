import numpy as np
import pytest

from latentsync.errors import NoFace
from latentsync.pipelines.lipsync.alignment import FaceAligner, crop_size

TEMPLATE = np.array([[17.0, 20.0], [58.0, 20.0], [37.5, 40.0]])


@pytest.mark.parametrize(
    ("resolution", "size"),
    [(64, (52, 70)), (128, (105, 140)), (192, (157, 209)), (256, (210, 280)), (512, (420, 560))],
)
def test_crop_sizes_are_cut_in_double_precision(resolution, size):
    assert crop_size(resolution) == size


def test_two_runs_do_not_know_of_each_other():
    points = [TEMPLATE * 3 + 10, TEMPLATE * 3 + [[0, 0], [0, 0], [4, 9]]]
    one, other = FaceAligner(256), FaceAligner(256)
    one.align(points[1])
    other.align(points[0])
    both = [one.align(points[0]), other.align(points[1])]
    again = FaceAligner(256)
    again.align(points[0])
    np.testing.assert_array_equal(again.align(points[1]), both[1])
    assert np.abs(both[0] - FaceAligner(256).align(points[0])).max() > 1e-3


@pytest.mark.parametrize("value", [7.0, float("nan")])
def test_points_that_coincide_are_no_face_and_change_nothing(value):
    aligner = FaceAligner(256)
    aligner.align(TEMPLATE * 2 + [[0, 0], [0, 0], [3, 0]])
    before = aligner.shift
    with pytest.raises(NoFace, match="coincide"):
        aligner.align(np.full((3, 2), value))
    np.testing.assert_array_equal(aligner.shift, before)


def test_the_shift_given_out_is_a_copy():
    aligner = FaceAligner(256)
    assert aligner.shift is None
    aligner.align(TEMPLATE * 2 + [[0, 0], [0, 0], [3, 0]])
    aligner.shift[:] = 99
    assert np.abs(aligner.shift).max() < 2
