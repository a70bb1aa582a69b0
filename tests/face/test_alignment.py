import numpy as np
import pytest

from latentsync.errors import NoFace
from latentsync.face.alignment import FaceAligner, crop_size
from tests.golden_files import FOLDERS, arrays, numbered

TEMPLATE = np.array([[17.0, 20.0], [58.0, 20.0], [37.5, 40.0]])


@pytest.mark.parametrize(
    ("resolution", "size"),
    [(64, (52, 70)), (128, (105, 140)), (192, (157, 209)), (256, (210, 280)), (512, (420, 560))],
)
def test_crop_sizes_are_cut_in_double_precision(resolution, size):
    assert crop_size(resolution) == size


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_matrices_and_shifts_equal_the_recorded_ones(folder):
    golden = arrays(folder / "align.npz")
    runs = numbered(golden, r"M_(\d+)_res(\d+)")
    assert runs
    for clip, resolution in runs:
        aligner = FaceAligner(int(resolution))
        for time, points in enumerate(golden[f"points3_{clip}"]):
            matrix = aligner.align(points)
            wanted = golden[f"M_{clip}_res{resolution}"][time]
            np.testing.assert_allclose(matrix, wanted, atol=1e-3)
            shift = golden[f"bias_{clip}_res{resolution}"][time]
            np.testing.assert_allclose(aligner.shift, shift, atol=1e-5)


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_odd_faces_are_aligned_as_recorded(folder):
    golden = arrays(folder / "align.npz")
    cases = numbered(golden, r"(special_.+)_M")
    assert len(cases) >= 5
    for (case,) in cases:
        aligner = FaceAligner(256)
        np.testing.assert_allclose(aligner.align(golden[case]), golden[f"{case}_M"], atol=1e-3)
        np.testing.assert_allclose(aligner.shift, golden[f"{case}_bias"], atol=1e-5)


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_without_the_shift_the_fit_equals_the_recorded_one(folder):
    golden = arrays(folder / "align.npz")
    for clip, resolution in numbered(golden, r"M_nosmooth_(\d+)_res(\d+)"):
        for time, points in enumerate(golden[f"points3_{clip}"]):
            aligner = FaceAligner(int(resolution))
            matrix = aligner.align(points)
            matrix[:, 2] -= aligner.shift
            wanted = golden[f"M_nosmooth_{clip}_res{resolution}"][time]
            np.testing.assert_allclose(matrix, wanted, atol=1e-3)


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
