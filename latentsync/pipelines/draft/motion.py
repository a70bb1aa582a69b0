"""Phones, loudness and voice activity -> smooth mouth motion at 25 fps.

Co-articulation follows the dominance model of Cohen and Massaro (1993): every sound pulls the
mouth towards its shape with a weight that decays around its middle, and the shape at any time is
the weighted mean. Loudness scales how far the mouth opens, voice activity closes it in pauses,
bilabials close it for at least one frame, and a slope limit keeps the motion free of jumps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentsync.formats import ROUNDING, VIDEO_FPS
from latentsync.pipelines.draft import visemes
from latentsync.pipelines.draft.phones import HOP_S, SILENCE, Phone

Curve = NDArray[np.float64]

_REST_WEIGHT = 0.02  # weight of the closed mouth where no sound is near
_BLENDING_S = 0.04  # largest part of a sound at each end that blends with its neighbours
_PAUSE_RAMP_S = 0.06  # standard deviation of the ramp into and out of pauses
_LONGEST_PHONE_S = 0.6  # longer sounds are errors of the recognizer
_SHORTEST_PAUSE_S = 0.16  # shorter gaps of voice activity (stops within words) are bridged
_MIDDLE_OF_FRAME_S = 0.5 / VIDEO_FPS
_WIDEST_PERCENTILE = 97.0
_CLOSURE_REACH = 2  # frames around a bilabial in which the faster slope is allowed
_CLOSURE_NEIGHBOURHOOD_S = 0.08  # before and after a bilabial, where its loudness is compared
_FULL_CLOSURE_DIP = 0.08  # of the loudness scale; sounds with a smaller dip are doubtful,
_DOUBTFUL_CLOSURE = 0.6  # and close the lips only by this share
_CORNERS_SMOOTHING_S = 0.04  # standard deviation; corners move more slowly than lips part


@dataclass(frozen=True)
class MouthMotion:
    """Mouth shape per video frame, each (num_frames,) float64 in 0..1; see :class:`Viseme`.

    ``plosive`` marks the frames next to a bilabial closure, where the lips may move fast.
    """

    opening: Curve
    spread: Curve
    rounding: Curve
    plosive: NDArray[np.bool_]

    def shape_at(self, frame: int) -> visemes.MouthShape:
        """Return the mouth shape of an output frame."""
        return visemes.MouthShape(
            float(self.opening[frame]), float(self.spread[frame]), float(self.rounding[frame])
        )


def plan_motion(
    phones: Sequence[Phone],
    loudness: Curve,
    voiced: NDArray[np.bool_],
    num_frames: int,
    config: visemes.MotionConfig,
) -> MouthMotion:
    """Return the mouth's motion for ``num_frames`` frames at 25 fps.

    Args:
        phones: sounds in order of time.
        loudness: 0..1 per 10 ms.
        voiced: voice activity per 10 ms, same length.
        num_frames: number of frames; the mouth is closed after the end of the sound.
        config: how the mouth moves.
    """
    hops = max(len(loudness), int(np.ceil(num_frames / VIDEO_FPS / HOP_S - ROUNDING)) + 1)
    loudness = _extend(loudness, hops)
    speaking = speech_envelope(_extend(voiced.astype(np.float64), hops) > 0.5)
    opening, spread, rounding = blend_visemes(phones, hops)
    opening *= (config.quiet_share + (1 - config.quiet_share) * loudness) * speaking
    closures = _find_closures(phones, loudness)
    opening = _gaussian(_articulate(opening, config), config.smoothing_s / HOP_S)
    eased = np.clip(_sample(opening, num_frames), 0, 1) ** config.easing
    calm = limit_slope(eased, np.full(num_frames, config.slope_limit))
    opening, plosive = _close_bilabials(calm, closures, config)
    corners_sigma = _CORNERS_SMOOTHING_S / HOP_S
    return MouthMotion(
        opening=opening,
        spread=_sample(_gaussian(spread * speaking, corners_sigma), num_frames),
        rounding=_sample(_gaussian(rounding * speaking, corners_sigma), num_frames),
        plosive=plosive,
    )


def blend_visemes(phones: Sequence[Phone], hops: int) -> tuple[Curve, Curve, Curve]:
    """Return (opening, spread, rounding) per 10 ms, the dominance-weighted mean of all sounds."""
    weight = np.full(hops, _REST_WEIGHT)
    shapes = np.zeros((3, hops))
    for phone in phones:
        viseme = _viseme_of(phone)
        first, pull = _dominance(phone, viseme, hops)
        span = slice(first, first + len(pull))
        weight[span] += pull
        shapes[:, span] += np.outer((viseme.opening, viseme.spread, viseme.rounding), pull)
    opening, spread, rounding = shapes / weight
    return opening, spread, rounding


def _articulate(opening: Curve, config: visemes.MotionConfig) -> Curve:
    """Scale the curve so that mumbled speech opens the mouth as wide as clear speech."""
    widest = float(np.percentile(opening, _WIDEST_PERCENTILE)) if len(opening) else 0.0
    if widest <= 0:
        return opening
    factor = np.clip(config.widest_opening / widest, 1.0, config.strongest_articulation)
    return opening * float(factor)


def _viseme_of(phone: Phone) -> visemes.Viseme:
    if phone.name == SILENCE:
        return visemes.REST
    if phone.end_s - phone.start_s > _LONGEST_PHONE_S + ROUNDING:
        return visemes.UNCLEAR
    return visemes.VISEMES.get(phone.name, visemes.UNCLEAR)


def _dominance(phone: Phone, viseme: visemes.Viseme, hops: int) -> tuple[int, Curve]:
    """Return the first hop and the pull of one sound: flat in its middle, falling outside."""
    first = max(0, _hop_at(phone.start_s - 3 * viseme.reach_s))
    last = min(hops, _hop_at(phone.end_s + 3 * viseme.reach_s) + 1)
    time_s = (np.arange(first, last) + 0.5) * HOP_S
    middle_s, half_s = (phone.start_s + phone.end_s) / 2, (phone.end_s - phone.start_s) / 2
    flat_s = max(0.5 * half_s, half_s - _BLENDING_S)
    outside_s = np.maximum(0.0, np.abs(time_s - middle_s) - flat_s)
    return first, viseme.dominance * np.exp(-np.square(outside_s / viseme.reach_s) * 2)


def speech_envelope(voiced: NDArray[np.bool_]) -> Curve:
    """Return 1 in speech and 0 in pauses, with soft ramps; short gaps within words are bridged."""
    bridged = voiced.copy()
    gap = int(_SHORTEST_PAUSE_S / HOP_S)
    edges = np.flatnonzero(np.diff(np.concatenate(([1], voiced.astype(np.int8), [1]))))
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        if start > 0 and stop < len(voiced) and stop - start < gap:
            bridged[start:stop] = True
    return _gaussian(bridged.astype(np.float64), _PAUSE_RAMP_S / HOP_S)


def limit_slope(values: Curve, limits: Curve) -> Curve:
    """Return the mean of the tightest upper and lower bounds that obey the slope limits.

    Args:
        values: (n,) target values.
        limits: (n,) largest allowed change from frame ``i - 1`` to ``i``.

    The result has no lag: it precedes a movement as much as it follows it.
    """
    upper, lower = values.copy(), values.copy()
    for i in range(1, len(values)):
        upper[i] = max(upper[i], upper[i - 1] - limits[i])
        lower[i] = min(lower[i], lower[i - 1] + limits[i])
    for i in range(len(values) - 2, -1, -1):
        upper[i] = max(upper[i], upper[i + 1] - limits[i + 1])
        lower[i] = min(lower[i], lower[i + 1] + limits[i + 1])
    return (upper + lower) / 2


def _find_closures(phones: Sequence[Phone], loudness: Curve) -> list[tuple[float, float]]:
    """Return (middle in seconds, strength in 0..1) of every bilabial."""
    closures = []
    reach = int(_CLOSURE_NEIGHBOURHOOD_S / HOP_S)
    for phone in phones:
        if phone.name in visemes.BILABIALS:
            first, last = _hop_at(phone.start_s), _hop_at(phone.end_s) + 1
            around = loudness[max(0, first - reach) : last + reach]
            within = loudness[first:last]
            dip = around.max(initial=0.0) - within.min(initial=1.0)
            strength = 1.0 if dip >= _FULL_CLOSURE_DIP else _DOUBTFUL_CLOSURE
            closures.append(((phone.start_s + phone.end_s) / 2, strength))
    return closures


def _close_bilabials(
    opening: Curve, closures: Sequence[tuple[float, float]], config: visemes.MotionConfig
) -> tuple[Curve, NDArray[np.bool_]]:
    """Close the lips in the frame nearest to each bilabial; mark the frames around it.

    Around a closure the opening stays under a cone that rises fast next to it and at the ordinary
    slope further out.
    """
    frames = np.arange(len(opening))
    closed, plosive = opening.copy(), np.zeros(len(opening), dtype=np.bool_)
    for middle_s, strength in closures:
        frame = int(middle_s * VIDEO_FPS + ROUNDING)
        if frame < len(opening):
            distance = np.abs(frames - frame)
            fast = np.minimum(distance, _CLOSURE_REACH) * config.closure_slope_limit
            slow = np.maximum(distance - _CLOSURE_REACH, 0) * config.slope_limit
            np.minimum(closed, opening[frame] * (1 - strength) + fast + slow, out=closed)
            plosive |= distance <= _CLOSURE_REACH
    return closed, plosive


def _hop_at(moment_s: float) -> int:
    """Return the 10 ms hop that contains a time; on a boundary, the later one."""
    return math.floor(moment_s / HOP_S + ROUNDING)


def _extend(values: Curve, length: int) -> Curve:
    return np.pad(values, (0, length - len(values)))


def _sample(values: Curve, num_frames: int) -> Curve:
    """Read a 10 ms curve at the middle of each video frame."""
    frame_s = np.arange(num_frames) / VIDEO_FPS + _MIDDLE_OF_FRAME_S
    return np.interp(frame_s, (np.arange(len(values)) + 0.5) * HOP_S, values)


def _gaussian(values: Curve, sigma: float) -> Curve:
    """Smooth with a symmetric Gaussian (standard deviation in hops); the ends count as held."""
    radius = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * np.square(np.arange(-radius, radius + 1) / sigma))
    padded = np.pad(values, radius, mode="edge")
    return np.convolve(padded, kernel / kernel.sum(), mode="valid")
