"""The line before a device in this process: one prediction runs, a bounded number waits in order.

The order is that of the turns asked for.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TypeVar

from latentsync.errors import Canceled
from latentsync.server.places import Places

T = TypeVar("T")


class Line:
    """First come, first served, for one device.

    Args:
        max_waiting: predictions that may wait behind the running one.
    """

    def __init__(self, max_waiting: int) -> None:
        self._places = Places(max_waiting)
        self._turn = asyncio.Lock()  # wakes its waiters in order
        # One thread: even a run that nobody waits for any more keeps the device to itself.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="device")
        self._canceled: threading.Event | None = None  # of the run that has the turn

    def place(self) -> AbstractContextManager[None]:
        """Hold a place in the line for the block; raises what :meth:`Places.place` raises."""
        return self._places.place()

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
            self._places.check_open()
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
                self._places.check_open()
                raise
            finally:
                self._places.note_run(time.monotonic() - started)

    def stop(self) -> None:
        """Stop the running work and turn away everybody in line, without waiting."""
        self._places.close()
        if self._canceled is not None:
            self._canceled.set()

    def close(self) -> None:
        """Stop, and wait until the running work has ended and cleaned up after itself."""
        self.stop()
        self._thread.shutdown(wait=True, cancel_futures=True)
