"""Registry of live workers and their device memory; locks on worker names.

A name belongs to one worker per database: a second one would take the first one's jobs.
"""

import hashlib
import logging
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from latentsync.errors import InternalError
from latentsync.jobs.database import host_engines, hosts
from latentsync.jobs.models import SILENCE_S, DeviceMemory
from latentsync.schema.engines import EngineSurvey
from latentsync.settings import Settings
from latentsync.workspace import take_lock

logger = logging.getLogger(__name__)

_FORGET_S = 86_400.0  # after which a dead worker's name is removed
_POLL_NAME_EVERY_S = 0.5  # while waiting for a heartbeat of another holder of the name


class NameLost(Exception):
    """This worker missed so many heartbeats that another one has taken its name."""


class WorkerRegistry:
    """A worker's view of all workers; for one thread.

    Clocks of different machines are never compared: a worker is live as long as the observer sees
    its heartbeat change.

    Args:
        engine: the database of jobs.
        name: of this worker.
        clock: monotonic seconds.
    """

    def __init__(
        self, engine: sa.Engine, name: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._name = name
        self._clock = clock
        self._heartbeat_at = clock()
        self._holder = ""
        self._seen: dict[str, tuple[float, float]] = {}  # name: what it wrote, when that changed
        self._stored: EngineSurvey | None = None  # engines this worker can run, as stored

    def join(
        self,
        holder: str,
        wait: Callable[[float], bool],
        engines: EngineSurvey | None = None,
    ) -> bool:
        """Register this worker's name, once any other holder has missed its heartbeats.

        Args:
            holder: of the name. A previous one with the same word is known to be dead.
            wait: waits for a number of seconds or until this worker is to stop; returns whether it
                is.
            engines: which ones this worker can run; stored with the name.

        Returns:
            Whether it was registered; False if this worker is to stop.

        Raises:
            InternalError: another worker of this name is live.
        """
        self._holder = holder
        before = self._written()
        if before is not None and before[0] != holder:
            logger.info("another machine has the name %s; waiting for its heartbeat", self._name)
            until = self._clock() + SILENCE_S
            while (written := self._written()) is not None and self._clock() < until:
                if written != before:
                    raise self._taken()
                if wait(_POLL_NAME_EVERY_S):
                    return False
        self._take(before, engines)
        return True

    def heartbeat(
        self, memory: DeviceMemory | None = None, engines: EngineSurvey | None = None
    ) -> None:
        """Write a heartbeat and refresh the list of live workers; call it every few seconds.

        Args:
            memory: of its device; None without a GPU.
            engines: which ones it can run now; None leaves them unchanged.

        Raises:
            NameLost: another worker has taken the name.
        """
        now, written = self._clock(), time.time()
        if now - self._heartbeat_at > SILENCE_S / 2:
            self._seen.clear()  # this worker was paused and may have missed heartbeats
        self._heartbeat_at = now
        with self._engine.begin() as connection:
            own = {"seen_at": written, **_columns(memory)}
            mine = hosts.update().where(*self._is_mine()).values(own)
            if not connection.execute(mine).rowcount:
                raise NameLost
            self._record_engines(connection, engines)
            rows = connection.execute(sa.select(hosts.c.name, hosts.c.seen_at)).all()
        self._stored = engines or self._stored
        before = self._seen
        self._seen = {
            name: before[name] if name in before and before[name][0] == seen_at else (seen_at, now)
            for name, seen_at in rows
        }
        self._forget(written)

    def leave(self) -> None:
        """Unregister this worker, so that others can take its jobs at once."""
        with self._engine.begin() as connection:
            connection.execute(hosts.delete().where(*self._is_mine()))

    def living(self) -> set[str]:
        """Return the names of the live workers."""
        since = self._clock() - SILENCE_S
        return {name for name, (_, changed_at) in self._seen.items() if changed_at >= since}

    def _forget(self, now: float) -> None:
        """Remove workers without a heartbeat for a day; no two clocks differ that much."""
        living = self.living()
        for name, (seen_at, _) in self._seen.items():
            if name not in living and seen_at < now - _FORGET_S:
                silent = hosts.c.name == name, hosts.c.seen_at == seen_at
                with self._engine.begin() as connection:
                    connection.execute(hosts.delete().where(*silent))

    def _written(self) -> tuple[str, float] | None:
        """Return the holder of this worker's name and its last heartbeat."""
        chosen = sa.select(hosts.c.holder, hosts.c.seen_at).where(hosts.c.name == self._name)
        with self._engine.connect() as connection:
            row = connection.execute(chosen).first()
        return None if row is None else (row.holder, row.seen_at)

    def _take(self, before: tuple[str, float] | None, engines: EngineSurvey | None) -> None:
        """Replace the previous row; of several workers that try, one succeeds."""
        self._stored = None  # deleted with the row
        try:
            with self._engine.begin() as connection:
                if before is not None:
                    was = (hosts.c.holder == before[0], hosts.c.seen_at == before[1])
                    connection.execute(hosts.delete().where(hosts.c.name == self._name, *was))
                own = {"name": self._name, "holder": self._holder, "seen_at": time.time()}
                connection.execute(hosts.insert().values(own))
                self._record_engines(connection, engines)
        except IntegrityError:
            raise self._taken() from None
        self._stored = engines

    def _record_engines(self, connection: sa.Connection, engines: EngineSurvey | None) -> None:
        """Store which engines this worker can run, unless that is stored already."""
        if engines is None or engines == self._stored:
            return
        connection.execute(host_engines.delete().where(host_engines.c.name == self._name))
        own = {"name": self._name, "survey": engines.to_json()}
        connection.execute(host_engines.insert().values(own))

    def _is_mine(self) -> tuple[sa.ColumnElement[bool], ...]:
        return hosts.c.name == self._name, hosts.c.holder == self._holder

    def _taken(self) -> InternalError:
        return InternalError(
            f"A worker named {self._name!r} runs on another machine. Give each its own "
            "LATENTSYNC_WORKER_NAME."
        )


def _columns(memory: DeviceMemory | None) -> dict[str, int | None]:
    if memory is None:
        return {"memory_used_bytes": None, "memory_total_bytes": None}
    return {"memory_used_bytes": memory.used_bytes, "memory_total_bytes": memory.total_bytes}


_PATIENCE_S = 10.0  # for another worker to stop
_POLL_WORKERS_EVERY_S = 0.05
_HOLDER_BYTES = 32


@dataclass(frozen=True)
class HeldName:
    """A name that this process holds.

    Attributes:
        descriptor: of the lock file; closing it releases the name.
        holder: a random word that stays in the lock file. A registered holder with the same word
            held the same lock, so it is dead.
    """

    descriptor: int
    holder: str


def lock_path(settings: Settings, name: str) -> Path:
    """Return the lock file of a worker's name, which is valid for one database of jobs.

    It is next to an SQLite file. Postgres has no folder here, so its address is part of the file's
    name, and :class:`WorkerRegistry` excludes workers that do not share this file.
    """
    address = sa.make_url(settings.jobs_database)
    if address.get_backend_name() == "sqlite" and address.database:
        record = Path(os.path.realpath(address.database))
        return record.with_name(f"{record.name}-worker-{_short_hash(name)}.lock")
    place = (address.host, address.port, address.database, address.query.get("host"))
    return settings.work_dir / f"worker-{_short_hash(f'{place} {name}')}.lock"


def hold_name(
    path: Path,
    name: str,
    patience_s: float = _PATIENCE_S,
    wait: Callable[[float], bool] | None = None,
) -> HeldName | None:
    """Hold a worker's name until the process ends, however it ends.

    Args:
        path: of the lock file, from :func:`lock_path`; its folder is created if missing.
        name: of the worker.
        patience_s: how long to wait for another holder to end.
        wait: waits for a number of seconds or until this worker is to stop, and returns whether it
            is; by default it never is.

    Returns:
        The name, or None if this worker is to stop.

    Raises:
        InternalError: another worker of this database has the name.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    until = time.monotonic() + patience_s
    while (descriptor := take_lock(path)) is None:
        if time.monotonic() >= until:
            raise InternalError(
                f"A worker named {name!r} runs here already. Give each its own "
                "LATENTSYNC_WORKER_NAME."
            )
        if (wait or Event().wait)(_POLL_WORKERS_EVERY_S):
            return None
    return HeldName(descriptor, _holder(descriptor))


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _holder(descriptor: int) -> str:
    """Return the word in the lock file, written by its first holder."""
    known = os.pread(descriptor, _HOLDER_BYTES, 0)
    if len(known) == _HOLDER_BYTES:
        return known.decode("ascii")
    word = uuid.uuid4().hex
    os.pwrite(descriptor, word.encode(), 0)
    return word
