"""Bodies that arrive at once: so many and so large, the next is told to come back.

A place is taken before a body is read and held until its media are stored, because a JSON body is
in memory that long. Nobody may take all places: a caller who sends slowly, which ends with the time
limit of a body, leaves half of them to the others.

Places for synchronous calls: so many wait at once, the next is told when to come back.

A place is taken before the request's body is read, so that a full line refuses at once and the
number of bodies held in memory is bounded too.
"""

import math
import statistics
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import Request

from latentsync.errors import EngineUnavailable, LineFull
from latentsync.server.request_body import declared_bytes, is_json
from latentsync.settings import Settings

_RETRY_AFTER_S = 5.0
_SMALL_BYTES = 64 * 1024  # up to here a body needs no place: one may ask while others send media
_STREAMED_BYTES = 2 * 1024 * 1024  # of a body on its way to the disk, in memory


class UploadSlots:
    """Counts the bodies that arrive, for one event loop.

    Args:
        settings: how many, and how many bytes of them may be held in memory.
    """

    def __init__(self, settings: Settings) -> None:
        self._max_body_bytes = settings.max_body_bytes
        self._max_bodies = settings.max_arriving_bodies
        self._max_bytes = settings.max_arriving_bytes
        self._bodies = Counter[str]()
        self._bytes = Counter[str]()

    @contextmanager
    def place(self, request: Request, owner: str, *, is_streamed: bool = False) -> Iterator[None]:
        """Hold a place for a request's body.

        Args:
            request: with its body still to come.
            owner: who sends it.
            is_streamed: it goes to the disk whatever it is declared as.

        Raises:
            LineFull: too much arrives already, in all or from this owner.
        """
        in_memory = not is_streamed and is_json(request.headers.get("content-type"))
        size_bytes = self._expected_bytes(request, in_memory)
        is_large = size_bytes > _SMALL_BYTES
        self._require_room(owner, size_bytes, is_large)
        self._count(owner, size_bytes, int(is_large))
        try:
            yield
        finally:
            self._count(owner, -size_bytes, -int(is_large))

    def _expected_bytes(self, request: Request, in_memory: bool) -> int:
        """Return how much memory a body may take, before any of it is here."""
        at_most = self._max_body_bytes if in_memory else _STREAMED_BYTES
        return min(declared_bytes(request.scope) or at_most, at_most)

    def _require_room(self, owner: str, size_bytes: int, is_large: bool) -> None:
        for counted, bodies, held_bytes, part in (
            ("", self._bodies.total(), self._bytes.total(), 1),
            (" from this key", self._bodies[owner], self._bytes[owner], 2),
        ):
            too_many = is_large and bodies >= max(1, self._max_bodies // part)
            # One alone is let in whatever its size, which has a limit of its own.
            too_large = held_bytes > 0 and held_bytes + size_bytes > self._max_bytes // part
            if too_many or too_large:
                raise LineFull(
                    f"{bodies} large request bodies ({held_bytes} bytes) are arriving{counted} "
                    "already, which is the limit.",
                    retry_after_s=_RETRY_AFTER_S,
                )

    def _count(self, owner: str, size_bytes: int, bodies: int) -> None:
        for counts, more in ((self._bytes, size_bytes), (self._bodies, bodies)):
            counts[owner] += more
            if not counts[owner]:
                del counts[owner]  # of callers that once were nothing is kept


_FIRST_GUESS_S = 30.0  # how long a run takes, before any run has told
_RECENT_RUNS = 8


class WaitingSlots:
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
                f"One prediction is running and {waiting} are waiting, which is the limit.",
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
