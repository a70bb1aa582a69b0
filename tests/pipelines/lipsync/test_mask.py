import numpy as np
import pytest

from latentsync.pipelines.lipsync.mask import hide_mouth, keep_mask, latent_mask


def test_the_mask_is_the_u_of_the_outline():
    mask = keep_mask(256)
    assert set(np.unique(mask)) == {0, 255}
    assert (mask == 0).mean() == pytest.approx(0.407, abs=1e-3)
    assert mask[94].all()  # eyes
    assert mask[100, 78:178].all()  # bridge of the nose
    assert not mask[100, 9:78].any()
    assert not mask[190, 60:200].any()  # mouth
    assert mask[243].all()


def test_at_512_edges_are_soft():
    assert len(np.unique(keep_mask(512))) > 2
    assert len(np.unique(latent_mask(512))) > 2


def test_what_is_handed_out_cannot_be_spoilt():
    with pytest.raises(ValueError, match="read-only"):
        keep_mask(256)[0, 0] = 3
    latent_mask(256)[:] = 0.5
    assert latent_mask(256).max() == 1


def test_the_hole_is_mid_grey_and_the_rest_stays():
    pixels = np.full((1, 3, 256, 256), 0.7, np.float32)
    hidden = hide_mouth(pixels)[0, 0]
    assert np.all(hidden[keep_mask(256) == 0] == 0)
    assert np.all(hidden[keep_mask(256) == 255] == np.float32(0.7))
