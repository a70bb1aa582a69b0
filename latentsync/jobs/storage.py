"""The file store for media of jobs, uploads and results: a local folder, or an object store.

Keys are paths with forward slashes inside the store. A file appears whole or not at all.
"""

import errno
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import IO, Any, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from latentsync.errors import DiskFull, StorageUnavailable, install_command, shorten
from latentsync.workspace import is_disk_full, nearest_folder, translate_disk_full, why_unwritable

logger = logging.getLogger(__name__)

RESULTS, INPUTS, UPLOADS = "results", "inputs", "uploads"  # folders in the storage
_RECEIVING = ".receiving"  # folder of files that are still being received
_PART = ".part"  # suffix of a local file that is still being written
_COPY_BYTES = 1024 * 1024
_READ_BYTES = 1024 * 1024  # fetched at once when a part of a file is read
_PATTERN = set("*?[]")  # fsspec takes a key with one of these for a pattern
_RETRY_AFTER_S = 5.0
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV}
_UNWRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM}  # of a folder of this machine
_TRY_AGAIN_S = 1.0

# The defaults of s3fs keep up to 500 MB of a file in memory, and block a thread for four minutes if
# the server does not respond; with these it is half a minute, 2 x 2 x 8 s.
_S3 = "s3"
_S3_COPYING = {"chunksize": 8 * 1024 * 1024, "max_concurrency": 2}
_S3_OPENING = {
    "config_kwargs": {
        "connect_timeout": 3,
        "read_timeout": 8,
        "retries": {"mode": "standard", "total_max_attempts": 2},
    }
}
_S3_RETRIES = 2


class Storage:
    """A file store behind fsspec.

    All methods but ``answers`` raise StorageUnavailable if an object store does not respond or
    refuses access, or a folder cannot be written to.

    Args:
        url: path of a folder, or a URL that fsspec knows, such as ``s3://bucket/folder``.

    Raises:
        StorageUnavailable: the kind of URL is unknown, or its package is not installed.
    """

    def __init__(self, url: str) -> None:
        self._files, root = _open_store(url)
        self._root = str(root).rstrip("/")
        self._is_local = isinstance(self._files, LocalFileSystem)
        self._copying = _S3_COPYING if _kind(url) == _S3 else {}
        if self._is_local:
            Path(self._root).mkdir(mode=0o700, parents=True, exist_ok=True)

    def put(self, path: Path, key: str, *, move: bool = False) -> None:
        """Store the file at ``path``.

        Args:
            path: the file.
            key: its key in the store.
            move: the file is not needed afterwards; on the same disk it is renamed, not copied.

        Raises:
            DiskFull: there is no room.
        """
        target = self._path(key)
        with translate_disk_full():
            if self._is_local:
                with self._answering():
                    _store_durably(path, Path(target), move=move)
                return
            with self._answering(missing_is_failure=True):
                self._files.put_file(str(path), target, **self._copying)

    def copy(self, key: str, copied_key: str) -> None:
        """Store a file under a second key; a local one is linked, since files never change.

        Raises:
            FileNotFoundError: there is no such file.
        """
        source, target = self._path(key), self._path(copied_key)
        with translate_disk_full(), self._answering():
            if self._is_local:
                _link_durably(Path(source), Path(target))
            else:
                self._files.cp_file(source, target)

    def receiving_dir(self, work_dir: Path) -> Path:
        """Return where to receive files that will be stored: on the store's disk, to be moved.

        Args:
            work_dir: the usual folder; used if it is on that disk, or if the store is remote.
        """
        if not self._is_local or _disk_of(work_dir) == _disk_of(Path(self._root)):
            return work_dir
        return Path(self._root) / _RECEIVING

    def put_with_retry(self, path: Path, key: str, *, patience_s: float, canceled: Event) -> None:
        """Store a copy of a file, and retry while the store is unavailable.

        Args:
            path: of the file.
            key: its key in the store.
            patience_s: how long to retry, in seconds.
            canceled: stops the retries.
        """
        until = time.monotonic() + patience_s
        while True:
            try:
                return self.put(path, key)
            except StorageUnavailable:
                if time.monotonic() > until or canceled.wait(_TRY_AGAIN_S):
                    raise

    def answers(self) -> bool:
        """Return whether the store can be used."""
        if self._is_local:
            return why_unwritable(Path(self._root)) is None
        try:
            self.size_below("any")
        except StorageUnavailable:
            return False
        return True

    @contextmanager
    def as_local_file(self, key: str, folder: Path) -> Iterator[Path]:
        """Yield a path of the file on this machine: its own, or that of a copy in ``folder``.

        Raises:
            FileNotFoundError: there is no such file.
        """
        if self._is_local:
            path = Path(self._path(key))
            path.stat()
            yield path
            return
        path = folder / Path(key).name
        with translate_disk_full(), self._answering():
            self._files.get_file(self._path(key), str(path), **self._copying)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def open(self, key: str) -> IO[bytes]:
        """Open a file for reading at any place of it; raises FileNotFoundError."""
        with self._answering():
            opened = self._files.open(self._path(key), "rb", block_size=_READ_BYTES)
        return cast(IO[bytes], opened)

    def size_bytes(self, key: str) -> int:
        """Return the file's size; raises FileNotFoundError."""
        path = self._path(key)
        with self._answering():
            return int(self._files.size(path))

    def exists(self, key: str) -> bool:
        """Return whether there is such a file."""
        path = self._path(key)
        with self._answering():
            try:  # isfile returns False if the store is unavailable
                return bool(self._files.info(path)["type"] == "file")
            except (FileNotFoundError, NotADirectoryError):
                return False

    def remove(self, key: str) -> None:
        """Remove a file, or everything below a folder; one that is not there is no error."""
        path = self._path(key)
        # Another worker may remove it at the same time.
        with self._answering(), suppress(FileNotFoundError):
            self._files.rm(path, recursive=True)

    def discard(self, key: str) -> None:
        """Remove an unneeded file; if the store is unavailable, a later cleanup removes it."""
        with suppress(StorageUnavailable):
            self.remove(key)

    def below(self, key: str) -> dict[str, float]:
        """Return the names directly below a folder, each with the time of its latest change."""
        path = self._path(key)
        newest: dict[str, float] = {}
        with self._answering(missing_is_failure=True):
            for found, entry in self._files.find(path, detail=True).items():
                name = found[len(path) :].lstrip("/").split("/", 1)[0]
                newest[name] = max(newest.get(name, 0.0), self._changed_at(found, entry))
        if self._is_local:
            # A linked or moved file keeps its age; the folder is as young as its newest entry.
            for name in newest:
                with suppress(FileNotFoundError):
                    newest[name] = max(newest[name], Path(path, name).stat().st_mtime)
        return newest

    def size_below(self, key: str, *, name: str | None = None) -> int:
        """Return how many bytes all files below a folder take.

        Args:
            key: of the folder.
            name: count only files of this name, at whatever depth.
        """
        # One listing: a file may be removed before a second call.
        path = self._path(key)
        with self._answering(missing_is_failure=True):
            found = self._files.find(path, detail=True)
        return sum(
            int(entry.get("size") or 0)
            for file, entry in found.items()
            if name is None or file.rsplit("/", 1)[-1] == name
        )

    def free_bytes(self) -> int | None:
        """Return the free bytes on the disk; None for an object store."""
        return shutil.disk_usage(self._root).free if self._is_local else None

    @property
    def folder(self) -> Path | None:
        """The folder of the store if it is on this machine, else None."""
        return Path(self._root) if self._is_local else None

    def _changed_at(self, path: str, entry: dict[str, Any]) -> float:
        """Return the time of the last change in seconds since 1970."""
        # Local files have the first key, those of S3 the second; other stores need a call.
        changed = entry.get("mtime") or entry.get("LastModified") or self._files.modified(path)
        return float(changed.timestamp() if hasattr(changed, "timestamp") else changed)

    def _path(self, key: str) -> str:
        parts = key.split("/")
        if not all(parts) or any(part in (".", "..") or "\\" in part for part in parts):
            raise FileNotFoundError(key)
        if _PATTERN.intersection(key):
            raise FileNotFoundError(key)
        return f"{self._root}/{key}"

    @contextmanager
    def _answering(self, *, missing_is_failure: bool = False) -> Iterator[None]:
        """Turn errors of the client of an object store into StorageUnavailable.

        Every client has its own exceptions, so all that are not known to mean something else count
        as errors of the store. The cause is logged; the message has neither URLs nor names.

        Args:
            missing_is_failure: FileNotFoundError means that the bucket is missing.
        """
        try:
            yield
        except Exception as error:
            if self._is_local and getattr(error, "errno", None) in _UNWRITABLE:
                logger.warning("the folder of files cannot be written to: %s", error)
                raise StorageUnavailable(
                    "The store of files cannot be written to.", retry_after_s=_RETRY_AFTER_S
                ) from error
            is_missing = isinstance(error, FileNotFoundError) and not missing_is_failure
            # "Disk full" is about the local copy.
            if self._is_local or is_missing or is_disk_full(error):
                raise
            cause = f"{type(error).__name__}: {error}"
            logger.warning("the store of files failed: %s", shorten(cause, 300))
            if _status_of(error) == DiskFull.status:
                raise DiskFull("There is no room left in the store of files.") from error
            does = "refuses this server" if _is_refusal(error) else "does not answer"
            raise StorageUnavailable(
                f"The store of files {does}.", retry_after_s=_RETRY_AFTER_S
            ) from error


def _open_store(url: str) -> tuple[Any, str]:
    """Return fsspec's file system for an address, and the path inside it."""
    # Listings are never kept: other processes write to the store, too.
    options: dict[str, Any] = {"use_listings_cache": False}
    is_s3 = _kind(url) == _S3
    try:
        files, root = fsspec.core.url_to_fs(url, **options, **(_S3_OPENING if is_s3 else {}))
    except (ImportError, ValueError) as error:
        raise StorageUnavailable(
            f"LATENTSYNC_STORAGE_URL begins with {_kind(url)}://, which is of no use here: "
            f"{shorten(str(error), 200)}. For s3://: {install_command('s3')}."
        ) from error
    if is_s3:
        if not root:
            raise StorageUnavailable("LATENTSYNC_STORAGE_URL is 's3://': it names no bucket.")
        files.retries = _S3_RETRIES
    return files, root


def _kind(url: str) -> str:
    return url.split("://", 1)[0] if "://" in url else ""


def _status_of(error: Exception) -> int | None:
    """Return the HTTP status of S3's response, if the error has one."""
    response = getattr(error.__cause__, "response", None) or {}
    status: int | None = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status


def _is_refusal(error: Exception) -> bool:
    return isinstance(error, PermissionError | FileNotFoundError)


def _store_durably(source: Path, target: Path, *, move: bool) -> None:
    """Copy or move a file so that it survives a power failure right after."""
    with _durable_parents(target):
        if move and _disk_of(source) == _disk_of(target.parent):
            _sync(source)
            source.replace(target)
            return
        part = target.with_name(target.name + _PART)
        try:
            with source.open("rb") as read, part.open("wb") as written:
                shutil.copyfileobj(read, written, _COPY_BYTES)
                written.flush()
                os.fsync(written.fileno())
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)


def _link_durably(source: Path, target: Path) -> None:
    """Hard-link a stored file; copies it if the disk has no hard links."""
    try:
        with _durable_parents(target):
            target.hardlink_to(source)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        _store_durably(source, target, move=False)


@contextmanager
def _durable_parents(target: Path) -> Iterator[None]:
    """Create the folders above ``target``; afterwards sync their new entries to the disk."""
    missing = [folder for folder in target.parents if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    yield
    for folder in (target.parent, *(made.parent for made in missing)):
        _sync(folder)


def _disk_of(path: Path) -> int:
    return nearest_folder(path).stat().st_dev


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
