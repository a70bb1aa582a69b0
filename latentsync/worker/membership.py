"""Registered workers: heartbeats, the state of their devices, and the lock on a worker's name.

A name belongs to one worker at a time: a second worker of the same name would take its jobs.
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

_FORGET_S = 86_400.0  # after which the row of a dead worker is deleted
_POLL_NAME_EVERY_S = 0.5  # while waiting for a heartbeat of another holder of the name


class NameLost(Exception):
    """This worker sent no heartbeat for so long that another one took its name."""


class WorkerRegistry:
    """A worker's view of all workers; for one thread.

    Clocks of different machines are not compared: a worker is alive as long as an observer sees
    its heartbeat change.

    Args:
        engine: of the jobs database.
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
        self._seen: dict[str, tuple[float, float]] = {}  # name: heartbeat, when it changed
        self._saved: EngineSurvey | None = None  # engines of this worker, as stored

    def join(
        self,
        holder: str,
        wait: Callable[[float], bool],
        engines: EngineSurvey | None = None,
    ) -> bool:
        """Register under this worker's name, once an earlier holder of it is known to be dead.

        Args:
            holder: identifies this worker; an earlier holder with the same word is dead.
            wait: waits so many seconds or until this worker is stopped; returns whether it is.
            engines: which ones this worker can run; stored with the name.

        Returns:
            Whether it is registered: False if this worker is stopped.

        Raises:
            InternalError: another worker of this name is alive.
        """
        self._holder = holder
        before = self._stored()
        if before is not None and before[0] != holder:
            logger.info(
                "the name %s belongs to another machine; waiting for its heartbeat", self._name
            )
            until = self._clock() + SILENCE_S
            while (stored := self._stored()) is not None and self._clock() < until:
                if stored != before:
                    raise self._conflict()
                if wait(_POLL_NAME_EVERY_S):
                    return False
        self._take(before, engines)
        return True

    def heartbeat(
        self, memory: DeviceMemory | None = None, engines: EngineSurvey | None = None
    ) -> None:
        """Write a heartbeat and refresh the list of live workers; call it every few seconds.

        Args:
            memory: of the device; None without a GPU.
            engines: which ones this worker can run now; None keeps the stored ones.

        Raises:
            NameLost: another worker has taken the name because this one seemed dead.
        """
        now, sent_at = self._clock(), time.time()
        if now - self._heartbeat_at > SILENCE_S / 2:
            self._seen.clear()  # this worker was suspended and has missed the heartbeats of others
        self._heartbeat_at = now
        with self._engine.begin() as connection:
            own = {"seen_at": sent_at, **_columns(memory)}
            mine = hosts.update().where(*self._is_mine()).values(own)
            if not connection.execute(mine).rowcount:
                raise NameLost
            self._record_engines(connection, engines)
            rows = connection.execute(sa.select(hosts.c.name, hosts.c.seen_at)).all()
        self._saved = engines or self._saved
        before = self._seen
        self._seen = {
            name: before[name] if name in before and before[name][0] == seen_at else (seen_at, now)
            for name, seen_at in rows
        }
        self._delete_dead(sent_at)

    def leave(self) -> None:
        """Unregister this worker, so that its jobs are recovered without delay."""
        with self._engine.begin() as connection:
            connection.execute(hosts.delete().where(*self._is_mine()))

    def living(self) -> set[str]:
        """Return the names of the live workers."""
        since = self._clock() - SILENCE_S
        return {name for name, (_, changed_at) in self._seen.items() if changed_at >= since}

    def _delete_dead(self, now: float) -> None:
        """Delete rows of dead workers older than a day, more than clocks can differ."""
        living = self.living()
        for name, (seen_at, _) in self._seen.items():
            if name not in living and seen_at < now - _FORGET_S:
                dead = hosts.c.name == name, hosts.c.seen_at == seen_at
                with self._engine.begin() as connection:
                    connection.execute(hosts.delete().where(*dead))

    def _stored(self) -> tuple[str, float] | None:
        """Return the holder of this worker's name and its last heartbeat."""
        chosen = sa.select(hosts.c.holder, hosts.c.seen_at).where(hosts.c.name == self._name)
        with self._engine.connect() as connection:
            row = connection.execute(chosen).first()
        return None if row is None else (row.holder, row.seen_at)

    def _take(self, before: tuple[str, float] | None, engines: EngineSurvey | None) -> None:
        """Replace the row read before; if several workers try, one succeeds."""
        self._saved = None  # deleted together with the row
        try:
            with self._engine.begin() as connection:
                if before is not None:
                    was = (hosts.c.holder == before[0], hosts.c.seen_at == before[1])
                    connection.execute(hosts.delete().where(hosts.c.name == self._name, *was))
                own = {"name": self._name, "holder": self._holder, "seen_at": time.time()}
                connection.execute(hosts.insert().values(own))
                self._record_engines(connection, engines)
        except IntegrityError:
            raise self._conflict() from None
        self._saved = engines

    def _record_engines(self, connection: sa.Connection, engines: EngineSurvey | None) -> None:
        """Save which engines this worker can run if that has changed."""
        if engines is None or engines == self._saved:
            return
        connection.execute(host_engines.delete().where(host_engines.c.name == self._name))
        own = {"name": self._name, "survey": engines.to_json()}
        connection.execute(host_engines.insert().values(own))

    def _is_mine(self) -> tuple[sa.ColumnElement[bool], ...]:
        return hosts.c.name == self._name, hosts.c.holder == self._holder

    def _conflict(self) -> InternalError:
        return InternalError(
            f"A worker named {self._name!r} runs on another machine. Give each its own "
            "LATENTSYNC_WORKER_NAME."
        )


def _columns(memory: DeviceMemory | None) -> dict[str, int | None]:
    if memory is None:
        return {"memory_used_bytes": None, "memory_total_bytes": None}
    return {"memory_used_bytes": memory.used_bytes, "memory_total_bytes": memory.total_bytes}


_TIMEOUT_S = 10.0  # for a worker that was asked to stop
_POLL_WORKERS_EVERY_S = 0.05
_HOLDER_BYTES = 32


@dataclass(frozen=True)
class HeldName:
    """A name that this process holds.

    Attributes:
        descriptor: of the lock file; closing it releases the name.
        holder: a random word that stays in the lock file. An earlier holder with the same word is
            dead, because it held the same lock.
    """

    descriptor: int
    holder: str


def lock_path(settings: Settings, name: str) -> Path:
    """Return the lock file of a worker's name for one jobs database.

    It lies next to an SQLite file. For Postgres it lies in the work folder and has the hash of the
    address in its name; workers on other machines are kept apart by the registry in the database.
    """
    address = sa.make_url(settings.jobs_database)
    if address.get_backend_name() == "sqlite" and address.database:
        database = Path(os.path.realpath(address.database))
        return database.with_name(f"{database.name}-worker-{_short_hash(name)}.lock")
    server = (address.host, address.port, address.database, address.query.get("host"))
    return settings.work_dir / f"worker-{_short_hash(f'{server} {name}')}.lock"


def hold_name(
    path: Path,
    name: str,
    patience_s: float = _TIMEOUT_S,
    wait: Callable[[float], bool] | None = None,
) -> HeldName | None:
    """Lock a worker's name until the process ends, however it ends.

    Args:
        path: of the lock file, from :func:`lock_path`; its folder is created if missing.
        name: of the worker.
        patience_s: how long to wait for another worker to end.
        wait: waits so many seconds or until this worker is stopped; returns whether it is. By
            default it never is.

    Returns:
        The name, or None if this worker is stopped.

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
    """Return the word in the lock file, which its first holder wrote."""
    known = os.pread(descriptor, _HOLDER_BYTES, 0)
    if len(known) == _HOLDER_BYTES:
        return known.decode("ascii")
    word = uuid.uuid4().hex
    os.pwrite(descriptor, word.encode(), 0)
    return word
