"""Whether there is room for more media."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock

from latentsync.errors import DiskFull
from latentsync.jobs.files import FileStore
from latentsync.jobs.retention import stored_bytes
from latentsync.jobs.store import JobStore
from latentsync.settings import Settings

_COUNT_EVERY_S = 1.0


class Room:
    """Keeps the disk from filling up, and the store from growing beyond its limit.

    To count what is stored takes the longer the more there is, so it is done once in a while;
    what was let in since then is added to it.

    Args:
        store: the record of jobs.
        files: where media are stored.
        settings: the limits.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        store: JobStore,
        files: FileStore,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._files = files
        self._settings = settings
        self._clock = clock
        self._turn = Lock()
        self._counted_at = float("-inf")
        self._stored_bytes = 0

    def take(self, size_bytes: int) -> None:
        """Take room for a file that is stored next; raises DiskFull."""
        free_bytes = self._files.free_bytes()
        if free_bytes is not None and free_bytes - size_bytes < self._settings.min_free_bytes:
            raise DiskFull("The server's disk is nearly full; it takes no new media.")
        with self._turn:
            self._count()
            if self._stored_bytes + size_bytes > self._settings.max_stored_bytes:
                raise DiskFull("The server keeps as many bytes as it may; it takes no new media.")
            self._stored_bytes += size_bytes

    def _count(self) -> None:
        now = self._clock()
        if now - self._counted_at >= _COUNT_EVERY_S:
            self._stored_bytes = stored_bytes(self._store, self._files)
            self._counted_at = now
