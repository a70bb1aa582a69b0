"""One worker of a name per record and machine: a second one would take the first one's jobs."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import sqlalchemy as sa

from latentsync.errors import InternalError
from latentsync.settings import Settings

_PATIENCE_S = 10.0  # for the end of a worker that was told to stop
_LOOK_EVERY_S = 0.05
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
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    until = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < until:
                if not (wait or Event().wait)(_LOOK_EVERY_S):
                    continue
                os.close(descriptor)
                return None
            os.close(descriptor)
            raise InternalError(
                f"A worker named {name!r} runs here already. Give each its own "
                "LATENTSYNC_WORKER_NAME."
            ) from None
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
