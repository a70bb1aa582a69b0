"""One lock per file of weights between processes and threads; it ends with its holder.

Where a filesystem has no locks two processes may spoil each other's part; its hash tells, and it is
fetched again.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from latentsync.weights.errand import Errand

logger = logging.getLogger(__name__)

_ASK_EVERY_S = 0.1
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # some volumes of clouds


@contextmanager
def locked(path: Path, errand: Errand) -> Iterator[None]:
    """Hold the lock file at ``path`` for the block, after waiting for whoever has it.

    Raises:
        Stopped: while waiting.
        OSError: the file cannot be made.
    """
    descriptor = _take(path)
    while descriptor is None:
        errand.pause(_ASK_EVERY_S)
        descriptor = _take(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before letting go: whoever waits sees that it is gone
        os.close(descriptor)


def _take(path: Path) -> int | None:
    """Open and lock ``path``; None if somebody holds it or removed it meanwhile."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError as error:
        if error.errno in _NO_LOCKS:
            logger.warning("%s: this filesystem has no locks; start one process at a time", path)
            return descriptor
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
