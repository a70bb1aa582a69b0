"""How far a computed array may lie from the recorded one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Measure:
    """The worst difference of an array, in words, and whether it is allowed."""

    worst: str
    ok: bool


@dataclass(frozen=True)
class Tolerance:
    """The largest allowed difference.

    Attributes:
        most: of a single value; 0 asks for equality.
        share: of the values that may differ at all, 0..1.
        relative: ``most`` is a part of the largest recorded value.
        counts: differences have no size (checksums): only their number is shown.
        labels: the values are names for people; only how many there are matters.
    """

    most: float
    share: float = 1.0
    relative: bool = False
    counts: bool = False
    labels: bool = False

    def __str__(self) -> str:
        if self.labels:
            return "one per case"
        if self.most == 0:
            return "exact"
        share = "" if self.share == 1 else f" in {self.share:.2%}"
        return f"{self.most:g}{' relative' if self.relative else ''}{share}"

    def measure(
        self,
        got: NDArray[np.generic],
        wanted: NDArray[np.generic],
        open_by: NDArray[np.floating[Any]] | None = None,
    ) -> Measure:
        """Compare two arrays of the same shape; values that are not finite are never allowed.

        Args:
            got: computed.
            wanted: recorded.
            open_by: how far each value may be off, where that is more than ``most``.
        """
        if self.labels or wanted.size == 0:
            return Measure("-", ok=True)  # the shapes are equal already
        if self.counts:
            differing = int((got != wanted).sum())
            return Measure(f"{differing} differ", ok=differing == 0)
        distance = np.abs(got.astype(np.float64) - wanted.astype(np.float64))
        if self.relative:
            distance /= max(float(np.abs(wanted).max()), np.finfo(np.float64).tiny)
        worst, share = float(distance.max()), float((distance > 0).mean())
        shown = f"{worst:.1e}" if self.share == 1 else f"{worst:.1e} in {share:.2%}"
        # Written so that a NaN, for which every comparison is false, is not allowed.
        allowed = self.most if open_by is None else np.maximum(self.most, open_by)
        return Measure(shown, ok=bool((distance <= allowed).all()) and share <= self.share)


EXACT = Tolerance(0)
EXACT_COUNT = Tolerance(0, counts=True)
LABELS = Tolerance(0, labels=True)
