"""The demo clip and speech of the repository, as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import av
import numpy as np

from latentsync.formats import SAMPLE_RATE, Frame, Waveform

ASSETS = Path(__file__).resolve().parent.parent / "assets"
DEMO_VIDEO, DEMO_AUDIO = ASSETS / "demo_video.mp4", ASSETS / "demo_audio.wav"


class FramesInMemory:
    """A FrameSource over decoded frames, for clips of a few seconds."""

    def __init__(self, frames: list[Frame]) -> None:
        self._frames = frames
        self.num_frames = len(frames)
        self.height, self.width = frames[0].shape[:2]

    def read(self, indices: Iterable[int]) -> Iterator[Frame]:
        return (self._frames[int(index)] for index in indices)


@cache
def demo_frames() -> tuple[Frame, ...]:
    with av.open(str(DEMO_VIDEO)) as container:
        return tuple(frame.to_ndarray(format="rgb24") for frame in container.decode(video=0))


@cache
def demo_speech() -> Waveform:
    resampler = av.AudioResampler("flt", "mono", SAMPLE_RATE)
    with av.open(str(DEMO_AUDIO)) as container:
        blocks = [
            block.to_ndarray()[0]
            for frame in [*container.decode(audio=0), None]
            for block in resampler.resample(frame)
        ]
    return np.concatenate(blocks)
