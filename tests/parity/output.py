"""A recorded array together with the code that must reproduce it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from tests.parity.recorded import Array, RecordedFile, UnfitArray
from tests.parity.tolerance import Comparison

Make = Callable[[], Array]
_NOT_COMPARED = "-"


@dataclass(frozen=True)
class Reproduction:
    """Several ways to compute one array; one that is near enough will do.

    Attributes:
        attempts: tried in order.
        exact: computes it as well as can be.
        open_by: how far each value may be from that, by the recording's own precision.
    """

    attempts: Mapping[str, Make]
    exact: Make | None = None
    open_by: Make | None = None


@dataclass(frozen=True)
class Output:
    """What a check says about one array.

    Attributes:
        name: of the recorded array.
        tolerance: how far off it may be.
        make: computes it; or several ways to.
        dtype: of the recorded array, see :meth:`RecordedFile.read`.
        note: shown next to the name, where one array is compared more than once.
    """

    name: str
    tolerance: Comparison
    make: Make | Reproduction
    dtype: str = "float32"
    note: str = ""


@dataclass(frozen=True)
class Line:
    """One line of the report."""

    file: str
    array: str
    worst: str = "-"
    tolerance: str = "-"
    verdict: str = "ok"
    remark: str = ""

    @property
    def failed(self) -> bool:
        return self.verdict == "FAIL"

    def __str__(self) -> str:
        columns = (
            f"{self.file:<32} {self.array:<36} {self.worst:>18} {self.tolerance:>14}  "
            f"{self.verdict:<7} {self.remark}"
        )
        return columns.rstrip()


def judge(output: Output, recorded: RecordedFile) -> Line:
    """Compute and compare one array; whatever goes wrong is the line's reason."""
    shown = f"{output.name} {output.note}".rstrip()
    tolerance = str(output.tolerance)

    def line(worst: str, verdict: str, remark: str) -> Line:
        return Line(recorded.title, shown, worst, tolerance, verdict, remark)

    try:
        wanted = recorded.read(output.name, output.dtype)
    except UnfitArray as error:
        return line(_NOT_COMPARED, "FAIL", str(error))
    ways = output.make if isinstance(output.make, Reproduction) else Reproduction({"": output.make})
    tried = {}
    for way, make in ways.attempts.items():
        found = _compare(make, wanted, output.tolerance)
        if found.reason is None:
            return line(found.worst, "ok", way)
        tried[way] = found.worst, found.reason
        if found.hopeless:  # other precisions would take long to say the same
            return line(found.worst, "FAIL", _reasons(tried))
    if ways.exact and ways.open_by:
        found = _compare(ways.exact, wanted, output.tolerance, ways.open_by)
        if found.reason is None:
            return line(found.worst, "ok", "float64, within the recording's own rounding")
    return line(next(iter(tried.values()))[0], "FAIL", _reasons(tried))


@dataclass(frozen=True)
class _Found:
    """What a comparison found.

    Attributes:
        worst: the worst difference, in words.
        reason: why it is too much; None if it is not.
        hopeless: other precisions cannot help.
    """

    worst: str
    reason: str | None
    hopeless: bool = False


def _compare(
    make: Make, wanted: Array, tolerance: Comparison, open_by: Make | None = None
) -> _Found:
    """Compare what ``make`` computes with the recorded array."""
    try:
        got = np.asarray(make())
        if got.shape != wanted.shape:
            return _Found(_NOT_COMPARED, f"shape {wanted.shape} recorded, {got.shape} computed")
        if _kind(got) != _kind(wanted):
            recorded, computed = wanted.dtype.name, got.dtype.name
            return _Found(_NOT_COMPARED, f"{recorded} recorded, {computed} computed")
        measure = tolerance.measure(got, wanted, None if open_by is None else open_by())
    except Exception as error:  # one check that breaks must not end the others
        return _Found(_NOT_COMPARED, f"{type(error).__name__}: {error}".splitlines()[0])
    reason = None if measure.ok else f"differs by {measure.worst}"
    return _Found(measure.worst, reason, measure.hopeless)


def _reasons(tried: Mapping[str, tuple[str, str]]) -> str:
    """Return why each way failed, once where it is no matter of precision."""
    parts = (
        f"{way}: {reason}" if way and worst != _NOT_COMPARED else reason
        for way, (worst, reason) in tried.items()
    )
    return "; ".join(dict.fromkeys(parts))


def _kind(array: Array) -> str:
    return "i" if array.dtype.kind == "u" and array.itemsize > 1 else array.dtype.kind
