import numpy as np
import pytest

from latentsync.face.boxes import area, box_around, center, contains, overlap


def test_overlap_is_intersection_over_union():
    assert overlap((0, 0, 4, 4), (2, 0, 6, 4)) == pytest.approx(8 / 24)
    assert overlap((0, 0, 4, 4), (0, 0, 4, 4)) == 1


@pytest.mark.parametrize("other", [(4, 0, 8, 4), (0, 5, 4, 9), (2, 2, 2, 2)])
def test_boxes_that_share_no_area_do_not_overlap(other):
    assert overlap((0, 0, 4, 4), other) == 0


def test_box_around_uses_x_and_y_of_points_in_space():
    points = np.array([[1, 5, 99], [3, 2, -99]], np.float32)
    assert box_around(points) == (1, 2, 3, 5)


def test_measures_of_a_box():
    assert area((1, 2, 4, 6)) == 12
    assert center((1, 2, 4, 6)) == (2.5, 4)
    assert contains((1, 2, 4, 6), 4, 2)
    assert not contains((1, 2, 4, 6), 4.1, 2)
