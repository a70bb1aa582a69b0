from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentsync.pipelines.lipsync.face_generator import LatentCache

BOUNCE = np.array([0, 1, 2, 3, 3, 2, 1, 0, 0, 1, 2])


class Encoder:
    """Remembers which source frames it was asked for."""

    def __init__(self, window: NDArray[np.int64]) -> None:
        self.window = window
        self.asked: list[int] = []

    def __call__(self, places: NDArray[np.int64]) -> Tensor:
        frames = self.window[places]
        self.asked += frames.tolist()
        return torch.from_numpy(frames).float()[:, None]


def encoded_frames(cache: LatentCache, indices: NDArray[np.int64], size: int) -> list[int]:
    """Go through the video in windows; check the values, return what had to be encoded."""
    asked = []
    for start in range(0, len(indices), size):
        window = indices[start : start + size]
        encoder = Encoder(window)
        assert cache.of(window, encoder)[:, 0].tolist() == window.tolist()
        asked += encoder.asked
    return asked


def test_every_frame_is_encoded_once_however_often_it_is_shown() -> None:
    for size in (1, 3, 4, 11):
        assert encoded_frames(LatentCache(BOUNCE), BOUNCE, size) == [0, 1, 2, 3]


def test_a_frame_is_forgotten_after_its_last_use() -> None:
    cache = LatentCache(BOUNCE)
    encoded_frames(cache, BOUNCE, 4)
    assert cache._kept == {}


def test_nothing_is_kept_of_a_video_that_does_not_repeat() -> None:
    cache, frames = LatentCache(np.arange(8)), np.arange(4)
    cache.of(frames, Encoder(frames))
    assert cache._kept == {}


def test_without_room_frames_are_encoded_again() -> None:
    cache = LatentCache(BOUNCE, most_bytes=4)  # one value
    assert encoded_frames(cache, BOUNCE, 4) == [0, 1, 2, 3, 3, 2, 1, 1, 2]
