"""Which workers live, and how full their devices are.

One worker of a name per record and machine: a second one would take the first one's jobs.
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

_FORGET_S = 86_400.0  # after which a dead worker's name is nobody's any more
_POLL_NAME_EVERY_S = 0.5  # while waiting for a sign of life from another holder of the name


class NameLost(Exception):
    """This worker was silent for so long that another one has its name now."""


class WorkerRegistry:
    """A worker's view of all workers; for one thread.

    Whether a worker lives is not told by comparing clocks of different machines: it lives as long
    as what it writes changes before the eyes of the one who looks.

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
        self._heartbeat_at = clock()
        self._holder = ""
        self._seen: dict[str, tuple[float, float]] = {}  # name: what it wrote, when that changed
        self._told: EngineSurvey | None = None  # which engines this worker can run, as recorded

    def join(
        self,
        holder: str,
        wait: Callable[[float], bool],
        engines: EngineSurvey | None = None,
    ) -> bool:
        """Take this worker's name, which is a dead one's after a long silence of its holder.

        Args:
            holder: who takes it. The one before, if it is the same, is known to be dead.
            wait: waits so many seconds, or until this worker shall stop, and returns whether it
                shall.
            engines: which ones this worker can run; recorded with the name.

        Returns:
            Whether it was taken: not if this worker shall stop.

        Raises:
            InternalError: another worker of this name lives.
        """
        self._holder = holder
        before = self._written()
        if before is not None and before[0] != holder:
            logger.info("the name %s is another machine's; is it alive?", self._name)
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
        """Show that this worker lives, and look who else does; call it every few seconds.

        Args:
            memory: of its device; None without a GPU.
            engines: which ones it can run now; None leaves what was recorded.

        Raises:
            NameLost: another worker has taken the name, believing this one dead.
        """
        now, written = self._clock(), time.time()
        if now - self._heartbeat_at > SILENCE_S / 2:
            self._seen.clear()  # this worker was held up: it cannot tell who was silent meanwhile
        self._heartbeat_at = now
        with self._engine.begin() as connection:
            own = {"seen_at": written, **_columns(memory)}
            mine = hosts.update().where(*self._is_mine()).values(own)
            if not connection.execute(mine).rowcount:
                raise NameLost
            self._record_engines(connection, engines)
            rows = connection.execute(sa.select(hosts.c.name, hosts.c.seen_at)).all()
        self._told = engines or self._told
        before = self._seen
        self._seen = {
            name: before[name] if name in before and before[name][0] == seen_at else (seen_at, now)
            for name, seen_at in rows
        }
        self._forget(written)

    def leave(self) -> None:
        """Tell that this worker is gone: others need not wait to take its jobs."""
        with self._engine.begin() as connection:
            connection.execute(hosts.delete().where(*self._is_mine()))

    def living(self) -> set[str]:
        """Return the names of the workers that are not silent."""
        since = self._clock() - SILENCE_S
        return {name for name, (_, changed_at) in self._seen.items() if changed_at >= since}

    def _forget(self, now: float) -> None:
        """Remove who is silent and wrote a day ago; no two clocks are that far apart."""
        living = self.living()
        for name, (seen_at, _) in self._seen.items():
            if name not in living and seen_at < now - _FORGET_S:
                silent = hosts.c.name == name, hosts.c.seen_at == seen_at
                with self._engine.begin() as connection:
                    connection.execute(hosts.delete().where(*silent))

    def _written(self) -> tuple[str, float] | None:
        """Return who holds this worker's name, and what that one wrote last."""
        chosen = sa.select(hosts.c.holder, hosts.c.seen_at).where(hosts.c.name == self._name)
        with self._engine.connect() as connection:
            row = connection.execute(chosen).first()
        return None if row is None else (row.holder, row.seen_at)

    def _take(self, before: tuple[str, float] | None, engines: EngineSurvey | None) -> None:
        """Write this worker over what was written before; of several that try, one may."""
        self._told = None  # it goes with the row
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
        self._told = engines

    def _record_engines(self, connection: sa.Connection, engines: EngineSurvey | None) -> None:
        """Write which engines this worker can run, unless that is what was written."""
        if engines is None or engines == self._told:
            return
        connection.execute(host_engines.delete().where(host_engines.c.name == self._name))
        own = {"name": self._name, "survey": engines.to_json()}
        connection.execute(host_engines.insert().values(own))

    def _is_mine(self) -> tuple[sa.ColumnElement[bool], ...]:
        return hosts.c.name == self._name, hosts.c.holder == self._holder

    def _taken(self) -> InternalError:
        return InternalError(
            f"A worker named {self._name!r} works on another machine. Give each its own "
            "LATENTSYNC_WORKER_NAME."
        )


def _columns(memory: DeviceMemory | None) -> dict[str, int | None]:
    if memory is None:
        return {"memory_used_bytes": None, "memory_total_bytes": None}
    return {"memory_used_bytes": memory.used_bytes, "memory_total_bytes": memory.total_bytes}


_PATIENCE_S = 10.0  # for the end of a worker that was told to stop
_POLL_WORKERS_EVERY_S = 0.05
_HOLDER_BYTES = 32


@dataclass(frozen=True)
class HeldName:
    """A name that this process holds.

    Attributes:
        descriptor: of the lock file; closing it lets the name go.
        holder: a random word that stays in the lock file. Who finds it elsewhere as that of an
            earlier holder knows that this one is dead: it held the same lock.
    """

    descriptor: int
    holder: str


def lock_path(settings: Settings, name: str) -> Path:
    """Return the lock file of a worker's name, which is for one record of jobs.

    It lies beside an SQLite file. Postgres has no folder here, so its address is in the file's
    name, and the roster in the database keeps apart whoever does not meet at this file.
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
        path: of the lock file, from :func:`lock_path`; its folder is made if missing.
        name: of the worker.
        patience_s: how long to wait for another one's end.
        wait: waits so many seconds, or until this worker shall stop, and returns whether it shall;
            by default it never shall.

    Returns:
        The name, or None if this worker shall stop.

    Raises:
        InternalError: another worker of this record has the name.
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
    """Return the word in the lock file, written by whoever held it first."""
    known = os.pread(descriptor, _HOLDER_BYTES, 0)
    if len(known) == _HOLDER_BYTES:
        return known.decode("ascii")
    word = uuid.uuid4().hex
    os.pwrite(descriptor, word.encode(), 0)
    return word
