"""Private working folders that never outlive their request, not even after kill -9.

Layout inside the root, one pair per process and one folder per request:

    <root>/p-4711-x8d2k1.lock      held with flock for the whole life of the process
    <root>/p-4711-x8d2k1/r-…/      one request; removed when its block ends

Whoever can take a lock knows that its owner is dead and may remove what it left behind. Locks end
with the process that holds them, however it ends, so no process id is ever trusted.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import logging
import os
import secrets
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from latentsync.errors import DiskFull, InternalError

logger = logging.getLogger(__name__)

_FULL = {errno.ENOSPC, errno.EDQUOT}

_guard = threading.Lock()
_homes: dict[Path, _ProcessHome] = {}


class _ProcessHome:
    """The folder of this process inside one root, with its lock held."""

    def __init__(self, root: Path) -> None:
        _make_root(root)
        while True:
            name = f"p-{os.getpid()}-{secrets.token_hex(4)}"
            self.folder, self.lock_path = root / name, root / f"{name}.lock"
            self._lock = _take_lock(self.lock_path)
            if self._lock is not None:
                break
        self.folder.mkdir(mode=0o700)

    def close(self) -> None:
        """Remove the folder and let go of the lock, in this order."""
        _remove(self.folder)
        self.lock_path.unlink(missing_ok=True)
        self.forget()

    def forget(self) -> None:
        """Close the lock file; after a fork the child must not keep its parent's lock alive."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


@contextmanager
def working_folder(root: Path) -> Iterator[Path]:
    """Lend a new folder inside ``root`` that only this user may enter; remove it at the end.

    Args:
        root: where the working folders of all processes live; made if missing.

    Raises:
        DiskFull: no room for the folder, or ENOSPC out of the block.
        InternalError: the root cannot be made or belongs to another user.
    """
    with translate_disk_full():
        with _guard:
            home = _homes.get(root)
            if home is None or not home.folder.is_dir():
                home = _homes[root] = _ProcessHome(root)
            folder = Path(tempfile.mkdtemp(prefix="r-", dir=home.folder))
        try:
            yield folder
        finally:
            _remove(folder)


def sweep(root: Path) -> int:
    """Remove what dead processes left in ``root``; call it once when a process starts.

    Returns:
        How many dead processes were swept up. Folders of living processes are never touched.
    """
    swept = 0
    for lock_path in sorted(root.glob("p-*.lock")):
        lock = _take_lock(lock_path)
        if lock is None:
            continue
        try:
            _remove(lock_path.with_suffix(""))
            lock_path.unlink(missing_ok=True)
            swept += 1
        finally:
            os.close(lock)
    return swept


@contextmanager
def translate_disk_full() -> Iterator[None]:
    """Turn "no space left" of the operating system or of FFmpeg into DiskFull."""
    try:
        yield
    except Exception as error:
        if is_disk_full(error):
            raise DiskFull(
                "There is no room left on the disk for the working files or the result."
            ) from error
        raise


def is_disk_full(error: BaseException) -> bool:
    """Tell whether an error of the operating system or of FFmpeg means "no space left"."""
    return getattr(error, "errno", None) in _FULL


def _make_root(root: Path) -> None:
    """Make the root; refuse somebody else's, for in a shared folder anybody could make it first."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        usable = root.stat().st_uid == os.getuid() and os.access(root, os.W_OK)
    except OSError as error:
        if is_disk_full(error):
            raise
        usable = False
    if not usable:
        raise InternalError("The working folder is not usable. Set LATENTSYNC_WORK_DIR to another.")


def _take_lock(path: Path) -> int | None:
    """Open and lock ``path``; None if somebody else holds it or removed it meanwhile."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def _remove(folder: Path) -> None:
    if sys.version_info >= (3, 12):
        shutil.rmtree(folder, onexc=_log_leftover)
    else:
        shutil.rmtree(folder, onerror=lambda _, path, failure: _log_leftover(_, path, failure[1]))


def _log_leftover(_function: object, path: str, failure: BaseException) -> None:
    if not isinstance(failure, FileNotFoundError):
        logger.warning("Could not remove %s: %s", path, failure)


def _close_all() -> None:
    while _homes:
        _homes.popitem()[1].close()


def _forget_all() -> None:
    while _homes:
        _homes.popitem()[1].forget()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget_all)
