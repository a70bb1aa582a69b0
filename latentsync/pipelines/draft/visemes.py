"""The mouth shape of each phone, and the configuration of the draft engine.

The groups are the usual viseme classes of American English (bilabials close the lips, W and UW
round them, IY spreads them, AA opens them most); the values were tuned by eye.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class MouthShape:
    """The mouth shape of one frame, each value 0..1 as in :class:`Viseme`."""

    opening: float
    spread: float
    rounding: float


@dataclass(frozen=True)
class Viseme:
    """A mouth shape and its weight relative to neighbouring sounds.

    Attributes:
        opening: distance of the lips, 0 (closed) to 1 (the widest opening of lively speech).
        spread: corners pulled apart, 0 to 1.
        rounding: lips pushed forward and corners drawn in, 0 to 1.
        dominance: weight against the neighbours' shapes, 0 to 1.
        reach_s: time before and after its middle over which it has an effect, in seconds.
    """

    opening: float
    spread: float = 0.0
    rounding: float = 0.0
    dominance: float = 0.6
    reach_s: float = 0.09


REST = Viseme(0.0, dominance=0.9, reach_s=0.10)
UNCLEAR = Viseme(
    0.6, dominance=0.5, reach_s=0.05
)  # an unknown sound: only loudness determines the mouth
_VOWEL = {"dominance": 0.85, "reach_s": 0.10}
_LOOSE = {"dominance": 0.35, "reach_s": 0.07}  # the tongue works, the lips follow the neighbours
_CLOSED = Viseme(0.0, dominance=1.0, reach_s=0.06)
_LIP_TO_TEETH = Viseme(0.08, spread=0.1, dominance=0.9, reach_s=0.06)
_HUSH = Viseme(0.24, rounding=0.55, dominance=0.65, reach_s=0.08)
_HISS = Viseme(0.16, spread=0.3, dominance=0.6, reach_s=0.07)
_TONGUE_TIP = Viseme(0.24, spread=0.1, **_LOOSE)
_TONGUE_BACK = Viseme(0.32, **_LOOSE)

VISEMES: dict[str, Viseme] = {
    "AA": Viseme(0.95, **_VOWEL),
    "AE": Viseme(0.85, spread=0.3, **_VOWEL),
    "AH": Viseme(0.62, **_VOWEL),
    "AO": Viseme(0.78, rounding=0.45, **_VOWEL),
    "AW": Viseme(0.80, rounding=0.35, **_VOWEL),
    "AY": Viseme(0.82, spread=0.15, **_VOWEL),
    "EH": Viseme(0.66, spread=0.25, **_VOWEL),
    "ER": Viseme(0.42, rounding=0.35, **_VOWEL),
    "EY": Viseme(0.55, spread=0.45, **_VOWEL),
    "IH": Viseme(0.44, spread=0.3, **_VOWEL),
    "IY": Viseme(0.32, spread=0.65, **_VOWEL),
    "OW": Viseme(0.58, rounding=0.65, **_VOWEL),
    "OY": Viseme(0.62, rounding=0.55, **_VOWEL),
    "UH": Viseme(0.38, rounding=0.55, **_VOWEL),
    "UW": Viseme(0.28, rounding=0.9, **_VOWEL),
    "B": _CLOSED,
    "P": _CLOSED,
    "M": _CLOSED,
    "F": _LIP_TO_TEETH,
    "V": _LIP_TO_TEETH,
    "W": Viseme(0.18, rounding=1.0, dominance=0.8, reach_s=0.09),
    "R": Viseme(0.30, rounding=0.4, dominance=0.5, reach_s=0.08),
    "CH": _HUSH,
    "JH": _HUSH,
    "SH": _HUSH,
    "ZH": _HUSH,
    "S": _HISS,
    "Z": _HISS,
    "Y": Viseme(0.26, spread=0.45, dominance=0.5, reach_s=0.08),
    "D": _TONGUE_TIP,
    "T": _TONGUE_TIP,
    "N": _TONGUE_TIP,
    "L": Viseme(0.36, spread=0.1, dominance=0.45, reach_s=0.07),
    "TH": Viseme(0.26, spread=0.1, dominance=0.5, reach_s=0.07),
    "DH": Viseme(0.26, spread=0.1, dominance=0.4, reach_s=0.07),
    "G": _TONGUE_BACK,
    "K": _TONGUE_BACK,
    "NG": _TONGUE_BACK,
    "HH": Viseme(0.45, dominance=0.15, reach_s=0.06),
}

BILABIALS = frozenset({"B", "P", "M"})  # sounds that cannot be made with open lips


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
