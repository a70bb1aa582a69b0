"""Which workers live."""

from __future__ import annotations

import time
from collections.abc import Callable

import sqlalchemy as sa

from latentsync.jobs.database import hosts

SILENCE_S = 20.0  # after which a worker counts as dead and others take its jobs


class Roster:
    """A worker's view of all workers; for one thread.

    Clocks of different machines are never compared: a worker lives as long as what it writes
    changes before the eyes of the one who looks.

    Args:
        engine: the database of jobs.
        name: of this worker.
        clock: seconds that never go back.
    """

    def __init__(
        self, engine: sa.Engine, name: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._name = name
        self._clock = clock
        self._greeted_at = clock()
        self._seen: dict[str, tuple[float, float]] = {}  # name: what it wrote, when that changed

    def greet(self) -> None:
        """Show that this worker lives, and look who else does; call it every few seconds."""
        now, written = self._clock(), time.time()
        if now - self._greeted_at > SILENCE_S / 2:
            self._seen.clear()  # this worker was held up: it cannot tell who was silent meanwhile
        self._greeted_at = now
        with self._engine.begin() as connection:
            known = hosts.update().where(hosts.c.name == self._name).values(seen_at=written)
            if not connection.execute(known).rowcount:
                connection.execute(hosts.insert().values(name=self._name, seen_at=written))
            rows = connection.execute(sa.select(hosts.c.name, hosts.c.seen_at)).all()
        before = self._seen
        self._seen = {
            name: before[name] if name in before and before[name][0] == seen_at else (seen_at, now)
            for name, seen_at in rows
        }

    def leave(self) -> None:
        """Tell that this worker is gone: others need not wait to take its jobs."""
        with self._engine.begin() as connection:
            connection.execute(hosts.delete().where(hosts.c.name == self._name))

    def living(self) -> set[str]:
        """Return the names of the workers that are not silent."""
        since = self._clock() - SILENCE_S
        return {name for name, (_, changed_at) in self._seen.items() if changed_at >= since}
