"""The line before a device: one prediction runs, a bounded number waits in order.

A place is taken before the request's body is read, so that a full line refuses at once and the
number of bodies held in memory is bounded too. The order is that of the turns asked for.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from latentsync.errors import Canceled, EngineUnavailable, LineFull

T = TypeVar("T")

_FIRST_GUESS_S = 30.0  # how long a run takes, before any run has told
_RECENT_RUNS = 8


class Line:
    """First come, first served, for one device.

    Args:
        max_waiting: predictions that may wait behind the running one.
    """

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._places = 0
        self._turn = asyncio.Lock()  # wakes its waiters in order
        # One thread: even a run that nobody waits for any more keeps the device to itself.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="device")
        self._canceled: threading.Event | None = None  # of the run that has the turn
        self._stopping = False
        self._recent_s: deque[float] = deque(maxlen=_RECENT_RUNS)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place in the line for the block.

        Raises:
            LineFull: none is left.
            EngineUnavailable: the server is shutting down.
        """
        self._check_open()
        if self._places > self._max_waiting:
            waiting = self._places - 1
            raise LineFull(
                f"One prediction is running and {waiting} wait, which is all that may.",
                retry_after_s=self._expected_s(),
            )
        self._places += 1
        try:
            yield
        finally:
            self._places -= 1

    def prepare(self, work: Callable[[], T]) -> Future[T]:
        """Start work that every later run has to wait for, such as building the engine."""
        return self._thread.submit(work)

    async def run(self, work: Callable[[threading.Event], T]) -> T:
        """Wait for this caller's turn, then run ``work`` in the device's thread.

        Args:
            work: gets an event that is set when it must stop. A cancelled caller that still waits
                just leaves the line; one that runs sets the event and lets the work end first.

        Raises:
            EngineUnavailable: the server is shutting down.
        """
        async with self._turn:
            self._check_open()
            canceled = self._canceled = threading.Event()
            started = time.monotonic()
            running = asyncio.get_running_loop().run_in_executor(self._thread, work, canceled)
            try:
                return await asyncio.shield(running)
            except asyncio.CancelledError:
                canceled.set()
                await asyncio.wait([running])
                raise
            except Canceled:
                self._check_open()
                raise
            finally:
                self._recent_s.append(time.monotonic() - started)

    def stop(self) -> None:
        """Stop the running work and turn away everybody in line, without waiting."""
        self._stopping = True
        if self._canceled is not None:
            self._canceled.set()

    def close(self) -> None:
        """Stop, and wait until the running work has ended and cleaned up after itself."""
        self.stop()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _check_open(self) -> None:
        if self._stopping:
            raise EngineUnavailable("The server is shutting down.", retry_after_s=_FIRST_GUESS_S)

    def _expected_s(self) -> float:
        """Return the seconds after which a place should be free: one run, as they went lately."""
        typical_s = statistics.median(self._recent_s) if self._recent_s else _FIRST_GUESS_S
        return float(max(1, math.ceil(typical_s)))
