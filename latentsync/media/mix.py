"""Mixes several recordings, each at its position, with the sound of the video.

The video's own sound is muted during recordings. Sound is processed in blocks, so memory does not
grow with length.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import av
import numpy as np
from numpy.typing import NDArray

from latentsync.media.sound import Block, Sound

_BLOCK_SAMPLES = 4096
_FADE_S = 0.01  # at every cut, against clicks


@dataclass(frozen=True, eq=False)
class Heard:
    """A recording at a position of the output.

    Attributes:
        blocks: float32 (channels, samples) each, at the rate and layout of the mix.
        skip: samples to skip at the start of the recording.
        start, stop: samples of the output that it covers; it may end earlier.
    """

    blocks: Iterator[Block]
    skip: int
    start: int
    stop: int


def mix(
    background: Iterator[Block] | None,
    heard: Sequence[Heard],
    *,
    sample_rate: int,
    layout: str,
    num_samples: int,
) -> Sound:
    """Return the sum of the recordings, with the background between them.

    Args:
        background: the video's own sound at this rate and layout, from the video's start; None for
            silence.
        heard: the recordings.
        sample_rate: samples per second.
        layout: FFmpeg's name of the channels.
        num_samples: length of the output.
    """
    channels = av.AudioLayout(layout).nb_channels
    fade = max(1, round(_FADE_S * sample_rate))
    blocks = _mixed(background, heard, channels, fade, num_samples)
    return Sound(blocks=blocks, sample_rate=sample_rate, layout=layout)


def _mixed(
    background: Iterator[Block] | None,
    heard: Sequence[Heard],
    channels: int,
    fade: int,
    num_samples: int,
) -> Iterator[Block]:
    own = _Samples(iter(()) if background is None else background, channels)
    tapes = [_Samples(one.blocks, channels) for one in heard]
    for tape, one in zip(tapes, heard, strict=True):
        tape.skip = one.skip
    for start in range(0, num_samples, _BLOCK_SAMPLES):
        moments = np.arange(start, min(start + _BLOCK_SAMPLES, num_samples))
        block = own.take(moments.size) * _gap(moments, heard, fade)
        for tape, one in zip(tapes, heard, strict=True):
            low, high = np.searchsorted(moments, (one.start, one.stop))
            if low < high:
                part = tape.take(int(high - low))
                block[:, low:high] += part * _edges(moments[low:high], one, fade)
        yield block.clip(-1, 1)


def _gap(moments: NDArray[np.int64], heard: Sequence[Heard], fade: int) -> NDArray[np.float32]:
    """Return the volume of the background: 0 in recordings, rising to 1 over a fade."""
    volume = np.ones(moments.size, np.float32)
    for one in heard:
        away = np.maximum(one.start - moments, moments - one.stop + 1)
        volume = np.minimum(volume, (away / fade).clip(0, 1).astype(np.float32))
    return volume


def _edges(moments: NDArray[np.int64], one: Heard, fade: int) -> NDArray[np.float32]:
    """Return the volume of a recording, with fades where it is cut."""
    volume = ((one.stop - moments) / fade).clip(0, 1)
    if one.skip > 0:
        volume = np.minimum(volume, ((moments - one.start + 1) / fade).clip(0, 1))
    return volume.astype(np.float32)


class _Samples:
    """Reads a stream of blocks in pieces of any length, followed by silence."""

    def __init__(self, blocks: Iterator[Block], channels: int) -> None:
        self._blocks = blocks
        self._left = np.zeros((channels, 0), np.float32)
        self.skip = 0  # samples still to be dropped

    def take(self, count: int) -> Block:
        """Return the next ``count`` samples, float32 (channels, count); a copy."""
        taken = np.zeros((self._left.shape[0], count), np.float32)
        filled = 0
        while filled < count:
            if not self._left.shape[1]:
                block = next(self._blocks, None)
                if block is None:
                    break
                self._left = block[:, self.skip :]
                self.skip -= min(self.skip, block.shape[1])
                continue
            part = self._left[:, : count - filled]
            taken[:, filled : filled + part.shape[1]] = part
            filled += part.shape[1]
            self._left = self._left[:, part.shape[1] :]
        return taken
