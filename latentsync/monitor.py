"""Progress, stage times, cancellation and deadline of one run; pauses between retries."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event

from latentsync.errors import Canceled, DeadlineExceeded


@dataclass(frozen=True)
class Progress:
    """Progress of a run: stage, fraction of the whole run in 0..1, frames finished and in total."""

    stage: str
    fraction: float
    frames_done: int = 0
    frames_total: int = 0


ProgressCallback = Callable[[Progress], None]


def no_check() -> None:
    """No-op cancellation check, for work that cannot be canceled."""


def backoff_s(retry: int, *, first_s: float, longest_s: float) -> float:
    """Return the seconds to pause before a retry: exponential, with random jitter.

    Args:
        retry: 1 for the first retry.
        first_s: longest pause before the first retry; it doubles with each further one.
        longest_s: upper bound of every pause.

    Returns:
        Half to all of that time, at random, so that many callers spread out.
    """
    doublings = min(retry - 1, 64)  # more would overflow, and every bound is reached before
    return min(longest_s, first_s * 2.0**doublings) * random.uniform(0.5, 1.0)


class RunMonitor:
    """Progress, cancellation and deadline of one run.

    Args:
        on_progress: called from the running thread at stage starts and after every chunk.
        canceled: set it to stop the run at its next check.
        deadline_s: seconds from now after which the next check raises.
    """

    def __init__(
        self,
        on_progress: ProgressCallback | None = None,
        canceled: Event | None = None,
        deadline_s: float | None = None,
    ) -> None:
        self.seconds: dict[str, float] = {}
        self._on_progress = on_progress
        self._canceled = canceled or Event()
        self._deadline_s = deadline_s
        self._started = time.monotonic()
        self._span = (0.0, 1.0)
        self.fraction = 0.0  # of the whole run, as last reported

    def check(self) -> None:
        """Raise Canceled or DeadlineExceeded if the run must stop; call it between chunks."""
        if self._canceled.is_set():
            raise Canceled("The run was canceled.")
        if self._deadline_s is not None and time.monotonic() - self._started > self._deadline_s:
            raise DeadlineExceeded(f"The run did not finish within {self._deadline_s:g} s.")

    def remaining_s(self) -> float | None:
        """Return the seconds left before the deadline (never negative), or None without one."""
        if self._deadline_s is None:
            return None
        return max(0.0, self._deadline_s - (time.monotonic() - self._started))

    def report(self, stage: str, fraction: float, done: int = 0, total: int = 0) -> None:
        """Report progress; ``fraction`` is 0..1 of the run, or of the enclosing span.

        Reported fractions never decrease.
        """
        self.check()
        start, end = self._span
        self.fraction = max(self.fraction, min(end, start + fraction * (end - start)))
        if self._on_progress is not None:
            self._on_progress(Progress(stage, self.fraction, done, total))

    @contextmanager
    def span(self, start: float, end: float) -> Iterator[None]:
        """Map fractions reported inside the block to this part of the run."""
        outer, self._span = self._span, (start, end)
        try:
            yield
        finally:
            self._span = outer

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the wall time of the block to ``seconds[stage]``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add_seconds(stage, time.perf_counter() - start)

    def add_seconds(self, stage: str, seconds: float) -> None:
        """Add wall time to a stage whose work is interleaved with other stages."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
