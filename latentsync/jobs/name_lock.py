"""One worker of a name per machine: a second one would take the first one's jobs from it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from latentsync.errors import InternalError

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


def hold_name(folder: Path, name: str, patience_s: float = _PATIENCE_S) -> HeldName:
    """Hold a worker's name until the process ends, however it ends.

    Args:
        folder: where workers of this machine meet; made if missing.
        name: of the worker.
        patience_s: how long to wait for another one's end.

    Raises:
        InternalError: another worker of this machine has the name.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"worker-{hashlib.sha256(name.encode()).hexdigest()[:16]}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    until = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < until:
                time.sleep(_LOOK_EVERY_S)
                continue
            os.close(descriptor)
            raise InternalError(
                f"A worker named {name!r} runs here already. Give each its own "
                "LATENTSYNC_WORKER_NAME."
            ) from None
        return HeldName(descriptor, _holder(descriptor))


def _holder(descriptor: int) -> str:
    """Return the word in the lock file, written by whoever held it first."""
    known = os.pread(descriptor, _HOLDER_BYTES, 0)
    if len(known) == _HOLDER_BYTES:
        return known.decode("ascii")
    word = uuid.uuid4().hex
    os.pwrite(descriptor, word.encode(), 0)
    return word
