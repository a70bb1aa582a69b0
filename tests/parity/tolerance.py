"""How far a computed array may lie from the recorded one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

_LEAST_ERROR = 1e-20  # of equal pictures: logarithms need more than nothing
_HOPELESS = 100  # times what is allowed: no matter of rounding any more


@dataclass(frozen=True)
class Measure:
    """What became of an array.

    Attributes:
        worst: the worst difference, in words.
        ok: it is allowed.
        hopeless: it is so large that no other rounding explains it.
    """

    worst: str
    ok: bool
    hopeless: bool = False


class Comparison(Protocol):
    """Measures how far a computed array lies from the recorded one, and judges it."""

    def measure(
        self,
        got: NDArray[np.generic],
        wanted: NDArray[np.generic],
        open_by: NDArray[np.floating[Any]] | None = None,
    ) -> Measure:
        """See :meth:`Tolerance.measure`."""
        ...


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
        ok = bool((distance <= allowed).all()) and share <= self.share
        return Measure(shown, ok, hopeless=worst > _HOPELESS * self.most)


@dataclass(frozen=True)
class Bound:
    """The largest allowed difference, where it has to be computed, too.

    Attributes:
        most: computes it.
    """

    most: Callable[[], float]

    def __str__(self) -> str:
        return "computed"

    def measure(
        self,
        got: NDArray[np.generic],
        wanted: NDArray[np.generic],
        open_by: NDArray[np.floating[Any]] | None = None,
    ) -> Measure:
        """See :meth:`Tolerance.measure`."""
        most = self.most()
        measure = Tolerance(most).measure(got, wanted, open_by)
        return Measure(f"{measure.worst} of {most:.1e}", measure.ok)


@dataclass(frozen=True)
class Likeness:
    """How alike two pictures must be whose last digits are chaotic.

    Attributes:
        psnr_db: at least, over the values that count.
        beyond: how many values at most differ by more than ``level``, as a share of those that
            count.
        level: the step between two neighbouring values.
        peak: the range of the values.
        counts: returns which values count, bool, for arrays of pictures that are mostly untouched;
            all by default. Differences elsewhere are part of ``beyond`` nevertheless.
    """

    psnr_db: float
    beyond: float
    level: float = 1.0
    peak: float = 255.0
    counts: Callable[[], NDArray[np.bool_]] | None = None

    def __str__(self) -> str:
        return f"{self.psnr_db:g} dB, {self.beyond:.1%}"

    def measure(
        self,
        got: NDArray[np.generic],
        wanted: NDArray[np.generic],
        open_by: NDArray[np.floating[Any]] | None = None,
    ) -> Measure:
        """See :meth:`Tolerance.measure`; ``open_by`` changes nothing."""
        distance = np.abs(got.astype(np.float64) - wanted.astype(np.float64))
        counted = np.ones(distance.shape, np.bool_) if self.counts is None else self.counts()
        error = max(float(np.square(distance[counted]).mean()), _LEAST_ERROR)
        psnr_db = 10 * np.log10(self.peak**2 / error)
        # Written so that a NaN, for which every comparison is false, is not allowed.
        beyond = float((~(distance <= self.level)).sum() / counted.sum())
        ok = bool(psnr_db >= self.psnr_db and beyond <= self.beyond)
        return Measure(f"{psnr_db:.1f} dB, {beyond:.2%}", ok)


EXACT = Tolerance(0)
EXACT_COUNT = Tolerance(0, counts=True)
LABELS = Tolerance(0, labels=True)
