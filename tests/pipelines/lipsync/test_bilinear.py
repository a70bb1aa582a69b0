import numpy as np
import pytest
import torch

from latentsync.pipelines.lipsync.bilinear import interpolate, place_pixels, split_colors
from tests.face.pictures import astronaut


@pytest.mark.parametrize("window", [np.s_[:], np.s_[3:99, 5:37], np.s_[8:9, 1:2], np.s_[:, 7:8]])
def test_colors_become_planes(window):
    picture = astronaut()[window]
    planes = split_colors(picture)
    np.testing.assert_array_equal(planes, picture.transpose(2, 0, 1))


@pytest.mark.parametrize("width", [31, 32, 64])
def test_no_two_planes_are_aligned_alike(width):
    red, green, blue = (plane.ctypes.data for plane in split_colors(astronaut()[:64, :width]))
    assert (green - red) % 32 != 0
    assert (blue - green) % 32 != 0


def test_between_pixels_lies_their_mean_and_nothing_beyond_the_source():
    source, half_right = (
        torch.tensor([[[2.0, 4.0], [6.0, 8.0]]]),
        np.array([[1, 0, 0.5], [0, 1, 0]]),
    )
    places = place_pixels(half_right, (2, 2), (2, 3))
    expected = [[[1, 3, 2], [3, 7, 4]]]
    np.testing.assert_allclose(interpolate(source, places), expected, atol=1e-5)
