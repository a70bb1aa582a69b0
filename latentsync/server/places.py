"""Places for synchronous calls: so many wait at once, the next is told when to come back.

A place is taken before the request's body is read, so that a full line refuses at once and the
number of bodies held in memory is bounded too.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from latentsync.errors import EngineUnavailable, LineFull

_FIRST_GUESS_S = 30.0  # how long a run takes, before any run has told
_RECENT_RUNS = 8


class Places:
    """Counts the calls that run or wait, for one event loop.

    Args:
        max_waiting: calls that may wait behind the running one.
    """

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._taken = 0
        self._is_closed = False
        self._recent_s: deque[float] = deque(maxlen=_RECENT_RUNS)

    @contextmanager
    def place(self, ahead: int = 0) -> Iterator[None]:
        """Hold a place for the block.

        Args:
            ahead: how many wait already that hold no place here.

        Raises:
            LineFull: none is left.
            EngineUnavailable: the server is shutting down.
        """
        self.check_open()
        waiting = max(self._taken - 1, ahead)
        if waiting >= self._max_waiting and self._taken + ahead > 0:
            raise LineFull(
                f"One prediction is running and {waiting} wait, which is all that may.",
                retry_after_s=self._expected_s(),
            )
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    def note_run(self, seconds: float) -> None:
        """Remember how long a run took."""
        self._recent_s.append(seconds)

    def close(self) -> None:
        """Turn away everybody who comes from now on."""
        self._is_closed = True

    def check_open(self) -> None:
        """Raise EngineUnavailable once :meth:`close` was called."""
        if self._is_closed:
            raise EngineUnavailable("The server is shutting down.", retry_after_s=_FIRST_GUESS_S)

    def _expected_s(self) -> float:
        """Return the seconds after which a place should be free: one run, as they went lately."""
        typical_s = statistics.median(self._recent_s) if self._recent_s else _FIRST_GUESS_S
        return float(max(1, math.ceil(typical_s)))
