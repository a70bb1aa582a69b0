"""Decides which channels of a recording the lips follow.

Usually that is the mono mix. It loses the speech if one of two wires is exchanged, so that the
channels cancel, and if a loud hum, a timecode or dozens of silent channels are mixed in. Speech is
recognised by how much its level varies: a lot, while a hum hardly varies.
"""

from dataclasses import dataclass
from functools import lru_cache

import av
import numpy as np
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from latentsync.formats import SAMPLE_RATE

MOST_CHANNELS = 64  # of FFmpeg's converter
MOST_WRITTEN_CHANNELS = 8  # of the AAC in the result
Weights = NDArray[np.float64]

_FRAME_SAMPLES = SAMPLE_RATE // 50  # the level is measured over 20 ms
_LOST = 0.3  # a mix that varies by less than this share of the best channel (-10 dB) lost it
_AUDIBLE = 0.1  # of the best channel (-20 dB); channels below it have no part in the speech


@dataclass(frozen=True, eq=False)
class ChannelChoice:
    """What is heard of a recording's channels.

    Attributes:
        weights: float64 (channels,), the share of each; None for FFmpeg's own mono mix.
        audible: indices of the channels that have a part in the speech; all if none has.
        description: of the weights, to end "the lips follow …"; empty for the mono mix.
    """

    weights: Weights | None
    audible: tuple[int, ...]
    description: str = ""


class LevelMeter:
    """Measures how much the level of some mixes varies; memory does not grow with length.

    Args:
        mixes: float64 (mixes, channels), the shares of the channels in each mix.
    """

    def __init__(self, mixes: Weights) -> None:
        self._mixes = mixes
        self._left = np.zeros((mixes.shape[1], 0), np.float32)
        self._count = 0
        self._sum = np.zeros(len(mixes))
        self._sum_of_squares = np.zeros(len(mixes))

    def feed(self, block: NDArray[np.float32]) -> None:
        """Measure the next samples, float32 (channels, samples) at 16 kHz."""
        samples = np.concatenate([self._left, block], axis=1)
        num_frames = samples.shape[1] // _FRAME_SAMPLES
        whole = num_frames * _FRAME_SAMPLES
        self._left = samples[:, whole:]
        mixed = self._mixes @ samples[:, :whole]
        frames = mixed.reshape(len(mixed), num_frames, _FRAME_SAMPLES)
        levels = frames.std(axis=2)  # a constant offset is no sound
        self._count += num_frames
        self._sum += levels.sum(axis=1)
        self._sum_of_squares += (levels**2).sum(axis=1)

    def variation(self) -> Weights:
        """Return the standard deviation of each mix's level, float64 (mixes,)."""
        count = max(1, self._count)
        variance = self._sum_of_squares / count - (self._sum / count) ** 2
        return np.sqrt(np.maximum(variance, 0))


@lru_cache
def mono_weights(layout: str) -> Weights | None:
    """Return the shares of the channels in FFmpeg's mono mix.

    None for channels without positions: FFmpeg has no mix of them, or drops some as loudspeakers
    at the ceiling.
    """
    channels = av.AudioLayout(layout).nb_channels
    if layout.endswith(" channels"):
        return None
    impulses = np.eye(channels, dtype=np.float32).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(impulses, format="flt", layout=layout)
    frame.sample_rate = SAMPLE_RATE
    resampler = build_resampler("mono", SAMPLE_RATE)
    mixed = [part.to_ndarray() for part in resampler.resample(frame)]
    return np.asarray(np.concatenate(mixed, axis=1)[0], np.float64)


def build_resampler(layout: str, sample_rate: int) -> AudioResampler:
    """Return a converter to packed float whose downmix is never louder than its channels."""
    return AudioResampler("flt", layout, sample_rate, options={"rematrix_maxval": "1"})


def first_candidates(layout: str) -> Weights:
    """Return the mixes to measure first, (channels + 1, channels): each channel, and their mix."""
    channels = av.AudioLayout(layout).nb_channels
    mono = mono_weights(layout)
    mix = np.full(channels, 1 / channels) if mono is None else mono
    return np.vstack([np.eye(channels), mix])


def keeps_speech(variation: Weights) -> bool:
    """Return whether the mono mix, the last of :func:`first_candidates`, is good enough."""
    return bool(variation[-1] >= _LOST * variation[:-1].max())


def audible_channels(variation: Weights) -> tuple[int, ...]:
    """Return the channels that have a part in the speech; all if there is only silence."""
    levels = variation[:-1]
    return tuple(np.flatnonzero(levels >= _AUDIBLE * levels.max()).tolist())


def further_candidates(variation: Weights) -> Weights:
    """Return the mixes to measure if the mono mix lost the speech, (2, channels).

    The first is the mean of the audible channels, the second half the difference of the two best.
    """
    levels = variation[:-1]
    audible = list(audible_channels(variation))
    mean, difference = np.zeros(levels.size), np.zeros(levels.size)
    mean[audible] = 1 / len(audible)
    best, second = sorted(np.argsort(-levels, kind="stable")[:2].tolist())
    difference[best], difference[second] = 0.5, -0.5
    return np.vstack([mean, difference])


def choose_channels(variation: Weights, further: Weights) -> ChannelChoice:
    """Return what to follow instead of a mono mix that lost the speech.

    Args:
        variation: of the first candidates.
        further: variation of the further candidates.
    """
    levels, audible = variation[:-1], audible_channels(variation)
    mean, difference = further_candidates(variation)
    independent = np.sqrt((levels[list(audible)] ** 2).sum()) / len(audible)
    best = int(np.argmax(levels))
    if further[0] >= _LOST * independent:
        numbers = [str(index + 1) for index in audible]
        if len(numbers) == 1:
            return ChannelChoice(mean, audible, f"channel {numbers[0]}")
        described = f"channels {', '.join(numbers[:-1])} and {numbers[-1]}"
        return ChannelChoice(mean, audible, described)
    if further[1] >= levels[best] / 2:
        first, second = np.flatnonzero(difference) + 1
        described = f"the difference of channels {first} and {second}"
        return ChannelChoice(difference, audible, described)
    return ChannelChoice(np.eye(levels.size)[best], audible, f"channel {best + 1}")
