"""How a client meets faults: what it tries again, and how long it pauses."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from latentsync.errors import FetchTimeout, LatentSyncError, ServerError, Unreachable

logger = logging.getLogger(__name__)

_PASSING_STATUSES = (502, 503, 504)
_LONGEST_ASKED_PAUSE_S = 60.0  # a server that asks for more is not waited for


@dataclass(frozen=True)
class Patience:
    """How often and how long a client waits for what may still come.

    Attributes:
        retries: how often a call is repeated in a row when the connection breaks, or the server
            answers 502, 503 or 504.
        first_pause_s: before the first repetition; each further pause is twice as long.
        longest_pause_s: bound of the pauses.
        silence_s: longest silence of a stream of events; the server breaks it every 15 s.
        poll_every_s: how often a job is asked for where events do not come through.
    """

    retries: int = 5
    first_pause_s: float = 0.5
    longest_pause_s: float = 8.0
    silence_s: float = 45.0
    poll_every_s: float = 1.0

    def pauses(self) -> Iterator[float]:
        """Yield the pauses in seconds, each a little shortened by chance: clients spread out."""
        for number in range(self.retries):
            pause_s = min(self.longest_pause_s, self.first_pause_s * 2**number)
            yield pause_s * random.uniform(0.75, 1.0)


class Faults:
    """Counts the faults in a row of one call, and pauses after each.

    Args:
        patience: how many and how long.
        pause: waits so many seconds.
    """

    def __init__(self, patience: Patience, pause: Callable[[float], Awaitable[None]]) -> None:
        self._patience = patience
        self._pause = pause
        self._pauses = patience.pauses()

    def forget(self) -> None:
        """Begin to count anew, because something came through."""
        self._pauses = self._patience.pauses()

    async def pause_after(self, fault: LatentSyncError) -> None:
        """Wait before the next try; raises the fault if it will not pass, or is one too many."""
        pause_s = next(self._pauses, None) if _may_pass(fault) else None
        if pause_s is None:
            raise fault
        pause_s = max(pause_s, fault.retry_after_s or 0.0)
        logger.warning("%s Trying again in %.1f s.", fault.message, pause_s)
        await self._pause(pause_s)


def _may_pass(fault: LatentSyncError) -> bool:
    if (fault.retry_after_s or 0.0) > _LONGEST_ASKED_PAUSE_S:
        return False
    if isinstance(fault, ServerError):
        return fault.server_status in _PASSING_STATUSES
    return isinstance(fault, Unreachable | FetchTimeout)
