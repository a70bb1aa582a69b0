import numpy as np
import pytest

from latentsync.pipelines.lipsync.paste_back import resize_bicubic


@pytest.mark.parametrize("size", [(210, 280), (105, 140), (256, 256), (40, 300), (1, 7)])
def test_a_flat_picture_stays_flat(size):
    sized = resize_bicubic(np.full((3, 128, 128), 0.37, np.float32), *size)
    assert sized.shape == (3, size[1], size[0])
    np.testing.assert_allclose(sized, 0.37, atol=1e-6)


def test_the_same_size_changes_nothing():
    face = np.random.default_rng(0).random((3, 64, 64), np.float32)
    np.testing.assert_allclose(resize_bicubic(face, 64, 64), face, atol=1e-6)


def test_a_straight_slope_stays_straight_inside():
    ramp = np.broadcast_to(np.linspace(-1, 1, 100, dtype=np.float32), (1, 100, 100))
    row = resize_bicubic(ramp, 180, 100)[0, 50, 8:-8]
    np.testing.assert_allclose(np.diff(row), 2 / 99 / 1.8, atol=1e-5)


def test_shrinking_leaves_no_alias():
    stripes = np.broadcast_to(np.arange(200) % 2 * 2.0 - 1, (1, 200, 200)).astype(np.float32)
    assert np.abs(resize_bicubic(stripes, 70, 200)[:, :, 4:-4]).max() < 0.1
