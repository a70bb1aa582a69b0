"""Private working folders, removed with their request, and file locks.

Layout inside the root, one pair per process and one folder per request:

    <root>/p-4711-x8d2k1.lock      held with flock for the whole life of the process
    <root>/p-4711-x8d2k1/r-…/      one request; removed when its block ends

A process that can take a lock knows that its owner is dead, and may remove what it left behind. The
operating system releases a lock when its process ends, however it ends, so no process id is ever
trusted. :func:`take_lock` is the one file lock of the package.
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

from latentsync.errors import CodecFailed, DiskFull, FolderUnusable

logger = logging.getLogger(__name__)

_FULL = {errno.ENOSPC, errno.EDQUOT}
_RETRY_AFTER_S = 30.0

_guard = threading.Lock()
_homes: dict[Path, _ProcessHome] = {}


class _ProcessHome:
    """The folder of this process inside one root, with its lock held once it is open.

    Its paths are known before they exist, so that it can be closed at any moment.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock: int | None = None
        self._draw_name()

    def open(self) -> None:
        """Create the folder and its lock; raises OSError."""
        _make_root(self._root)
        while (lock := take_lock(self.lock_path)) is None:
            self._draw_name()
        self._lock = lock
        self.folder.mkdir(mode=0o700)

    def close(self) -> None:
        """Remove the folder, then release the lock.

        The lock file of a folder that could not be removed stays: the next sweep finds both.
        """
        _remove(self.folder)
        if not os.path.lexists(self.folder):
            try:
                self.lock_path.unlink(missing_ok=True)
            except OSError as error:
                _log_leftover(None, str(self.lock_path), error)
        self.forget()

    def _draw_name(self) -> None:
        name = f"p-{os.getpid()}-{secrets.token_hex(4)}"
        self.folder, self.lock_path = self._root / name, self._root / f"{name}.lock"

    def forget(self) -> None:
        """Close the lock file; after a fork the child must not keep its parent's lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


@contextmanager
def working_folder(root: Path) -> Iterator[Path]:
    """Yield a new folder inside ``root`` that only this user may enter; remove it at the end.

    Args:
        root: folder of all processes' working folders; created if missing.

    Raises:
        DiskFull: no space for the folder, or ENOSPC in the block.
        FolderUnusable: the root cannot be created or written to, or belongs to another user; also
            if the block failed for such a reason.
    """
    with translate_disk_full():
        folder = _new_folder(root)
        try:
            yield folder
        except (OSError, CodecFailed) as error:
            if not is_disk_full(error) and (reason := _why_closed(folder)) is not None:
                raise _unusable(root, reason) from error
            raise
        finally:
            _remove(folder)


def take_lock(path: Path, *, create: bool = True, mode: int = 0o600) -> int | None:
    """Open and lock a file without waiting, exclusively among processes and threads.

    Args:
        path: of the file; its content is left alone.
        create: create a missing file; otherwise there is nothing to lock.
        mode: permissions of a new file, less the umask.

    Returns:
        The file's descriptor, open for reading and writing, which holds the lock until it is
        closed; None if another holder has it, or removed or replaced the file meanwhile.

    Raises:
        OSError: the file cannot be opened, or its filesystem has no locks.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), mode)
    except FileNotFoundError:
        if create:
            raise
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def why_unusable(root: Path) -> str | None:
    """Return why this process cannot work in ``root`` now; None if it can."""
    try:
        _make_root(root)
    except OSError as error:
        return error.strerror or type(error).__name__
    return why_unwritable(root)


def nearest_folder(path: Path) -> Path:
    """Return the path, or the nearest folder above it that exists."""
    while not path.exists():
        path = path.parent
    return path


def why_unwritable(folder: Path) -> str | None:
    """Return why this process cannot write to a folder, creating it if missing; None if it can."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        return error.strerror or type(error).__name__
    return _why_closed(folder)


def remove_own_folders() -> None:
    """Remove all working folders of this process, which is about to exit."""
    while _homes:
        _homes.popitem()[1].close()


def sweep(root: Path) -> int:
    """Remove the folders of dead processes in ``root``; call it once when a process starts.

    Returns:
        How many dead processes were cleaned up. Folders of live processes are never touched.
    """
    swept = 0
    for lock_path in sorted(root.glob("p-*.lock")):
        try:
            swept += _sweep_up(lock_path)
        except OSError as error:  # not writable now; the next sweep tries again
            _log_leftover(None, str(lock_path), error)
    return swept


def _sweep_up(lock_path: Path) -> bool:
    """Remove the folder of a lock if its owner is dead; return whether it was."""
    lock = take_lock(lock_path, create=False)
    if lock is None:
        return False
    try:
        folder = lock_path.with_suffix("")
        _remove(folder)
        if os.path.lexists(folder):  # the next sweep tries again
            return False
        lock_path.unlink(missing_ok=True)
    finally:
        os.close(lock)
    return True


@contextmanager
def translate_disk_full() -> Iterator[None]:
    """Turn "no space left" of the operating system or of FFmpeg into DiskFull."""
    try:
        yield
    except Exception as error:
        if is_disk_full(error):
            raise DiskFull(
                "There is no space left on the disk for the working files or the result."
            ) from error
        raise


def is_disk_full(error: BaseException) -> bool:
    """Tell whether an error of the operating system or of FFmpeg means "no space left"."""
    return getattr(error, "errno", None) in _FULL


def _make_root(root: Path) -> None:
    """Create the root; refuse another user's, who could have created it in a shared folder."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if root.stat().st_uid != os.getuid():
        raise PermissionError(errno.EPERM, "it belongs to another user")


def _new_folder(root: Path) -> Path:
    """Create a folder inside the home of this process, which is created first if missing."""
    try:
        with _guard:
            return Path(tempfile.mkdtemp(prefix="r-", dir=_home_in(root).folder))
    except OSError as error:
        if is_disk_full(error):
            raise
        raise _unusable(root, error.strerror or type(error).__name__) from error


def _why_closed(folder: Path) -> str | None:
    """Return why a folder is not writable now; None if it is."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or type(error).__name__


def _unusable(root: Path, reason: str) -> FolderUnusable:
    logger.warning("the working folder %s cannot be used: %s", root, reason)
    return FolderUnusable(
        f"The working folder cannot be used ({reason}). LATENTSYNC_WORK_DIR names another one.",
        retry_after_s=_RETRY_AFTER_S,
    )


def _home_in(root: Path) -> _ProcessHome:
    """Return the home of this process, created if missing."""
    home = _homes.get(root)
    if home is not None:
        if home.folder.is_dir():
            return home
        home.close()  # it was removed from outside
    home = _homes[root] = _ProcessHome(root)
    try:
        home.open()
    except OSError:
        _homes.pop(root).close()
        raise
    return home


def _remove(folder: Path) -> None:
    if sys.version_info >= (3, 12):
        shutil.rmtree(folder, onexc=_log_leftover)
    else:
        shutil.rmtree(folder, onerror=lambda _, path, failure: _log_leftover(_, path, failure[1]))


def _log_leftover(_function: object, path: str, failure: BaseException) -> None:
    if os.path.lexists(path):
        logger.warning("Could not remove %s: %s", path, failure)


def _forget_all() -> None:
    while _homes:
        _homes.popitem()[1].forget()


atexit.register(remove_own_folders)
os.register_at_fork(after_in_child=_forget_all)
