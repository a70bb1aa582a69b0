"""The values of the draft engine that decide how its speakers speak; see ``configs/draft.yaml``."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class MotionConfig:
    """How the mouth moves over time. Openings are shares of the full opening.

    Attributes:
        slope_limit: largest change of the opening between two frames.
        closure_slope_limit: the same next to a bilabial (B, M, P).
        widest_opening: opening that the loudest open vowels of a clip reach.
        strongest_articulation: largest factor by which mumbled speech is enlarged to get there.
        quiet_share: share of a sound's opening that remains at the lowest loudness.
        easing: exponent of the opening; below 1, small openings show more.
        smoothing_s: standard deviation of the low-pass filter, in seconds.
    """

    slope_limit: float = 0.09
    closure_slope_limit: float = 0.25
    widest_opening: float = 0.95
    strongest_articulation: float = 1.6
    quiet_share: float = 0.55
    easing: float = 0.85
    smoothing_s: float = 0.022


@dataclass(frozen=True)
class MouthConfig:
    """How shapes become lips. Sizes are shares of the distance of the outer eye corners.

    Attributes:
        full_gap: lip gap of the full opening; a lively speaker reaches about 0.13.
        upper_share: share of the gap by which the upper lip rises; the lower one drops the rest.
        chin_share: share of the gap by which the chin drops.
        narrow_by_opening: share of the mouth's width that a full opening takes.
        narrow_by_rounding: share of the width that full rounding takes.
        widen_by_spread: share of the width that full spreading adds.
    """

    full_gap: float = 0.17
    upper_share: float = 0.20
    chin_share: float = 0.8
    narrow_by_opening: float = 0.14
    narrow_by_rounding: float = 0.26
    widen_by_spread: float = 0.05


@dataclass(frozen=True)
class DraftConfig:
    """One version of the draft engine."""

    model_version: str = "draft-1"
    motion: MotionConfig = field(default_factory=MotionConfig)
    mouth: MouthConfig = field(default_factory=MouthConfig)
