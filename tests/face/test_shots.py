import numpy as np

from latentsync.face.tracker import CutFinder
from tests.face.pictures import astronaut, blank, noisy, paste


def _cuts(frames):
    finder = CutFinder()
    return [i for i, frame in enumerate(frames) if finder.is_cut(frame)]


def test_a_change_of_picture_is_a_cut():
    assert _cuts([blank(level=60)] * 3 + [blank(level=160)] * 3 + [blank(level=60)]) == [3, 6]


def test_movement_and_noise_are_no_cuts():
    moving = [paste(blank(), astronaut(), 100 + 12 * i, 128, 200) for i in range(10)]
    assert _cuts(moving) == []
    assert _cuts(noisy(astronaut(), sigma=25, count=5)) == []


def test_takes_a_frame_of_one_pixel():
    assert _cuts([np.zeros((1, 1, 3), np.uint8), np.full((1, 1, 3), 255, np.uint8)]) == [1]
