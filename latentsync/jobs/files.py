"""Where media of waiting jobs and finished videos are kept: a local folder, or S3 and its like.

Keys are paths with forward slashes inside the store. A file appears whole or not at all.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from latentsync.workspace import translate_disk_full

_PART = ".part"  # ends the name of a local file that is still being written
_COPY_BYTES = 1024 * 1024


class FileStore:
    """A folder of files behind fsspec.

    Args:
        url: a folder's path, or an address that fsspec knows, such as ``s3://bucket/folder``.
    """

    def __init__(self, url: str) -> None:
        self._files, root = fsspec.core.url_to_fs(url)
        self._root = str(root).rstrip("/")
        self._is_local = isinstance(self._files, LocalFileSystem)
        if self._is_local:
            Path(self._root).mkdir(mode=0o700, parents=True, exist_ok=True)

    def put(self, path: Path, key: str) -> None:
        """Store a copy of the file at ``path``.

        Raises:
            DiskFull: there is no room.
        """
        target = self._path(key)
        with translate_disk_full():
            if not self._is_local:
                self._files.put_file(str(path), target)
                return
            _copy_durably(path, Path(target))

    @contextmanager
    def as_local_file(self, key: str, folder: Path) -> Iterator[Path]:
        """Lend the file as one on this machine: itself, or a copy in ``folder``.

        Raises:
            FileNotFoundError: there is no such file.
        """
        if self._is_local:
            path = Path(self._path(key))
            path.stat()
            yield path
            return
        path = folder / Path(key).name
        with translate_disk_full():
            self._files.get_file(self._path(key), str(path))
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def open(self, key: str) -> IO[bytes]:
        """Open a file for reading at any place of it; raises FileNotFoundError."""
        return cast(IO[bytes], self._files.open(self._path(key), "rb"))

    def size_bytes(self, key: str) -> int:
        """Return the file's size; raises FileNotFoundError."""
        return int(self._files.size(self._path(key)))

    def exists(self, key: str) -> bool:
        """Tell whether there is such a file."""
        return bool(self._files.isfile(self._path(key)))

    def remove(self, key: str) -> None:
        """Remove a file, or everything below a folder; one that is not there is no error."""
        path = self._path(key)
        with suppress(FileNotFoundError):  # another worker may be as far
            self._files.rm(path, recursive=True)

    def below(self, key: str) -> dict[str, float]:
        """Return the names directly below a folder and when anything in each was last changed."""
        path = self._path(key)
        newest: dict[str, float] = {}
        for found, entry in self._files.find(path, detail=True).items():
            name = found[len(path) :].lstrip("/").split("/", 1)[0]
            newest[name] = max(newest.get(name, 0.0), self._changed_at(found, entry))
        return newest

    def size_below(self, key: str, *, name: str | None = None) -> int:
        """Return how many bytes all files below a folder take.

        Args:
            key: of the folder.
            name: count only files of this name, at whatever depth.
        """
        # One listing: a file may be gone before a second question about it.
        found = self._files.find(self._path(key), detail=True)
        return sum(
            int(entry.get("size") or 0)
            for path, entry in found.items()
            if name is None or path.rsplit("/", 1)[-1] == name
        )

    def free_bytes(self) -> int | None:
        """Return the room left on the disk; None where there is no telling."""
        return shutil.disk_usage(self._root).free if self._is_local else None

    def _changed_at(self, path: str, entry: dict[str, Any]) -> float:
        """Return seconds since 1970; object stores date files, but not folders."""
        changed = entry["mtime"] if "mtime" in entry else self._files.modified(path)
        return float(changed.timestamp() if hasattr(changed, "timestamp") else changed)

    def _path(self, key: str) -> str:
        parts = key.split("/")
        if not all(parts) or any(part in (".", "..") or "\\" in part for part in parts):
            raise FileNotFoundError(key)
        return f"{self._root}/{key}"


def _copy_durably(source: Path, target: Path) -> None:
    """Copy so that the file is there, whole, even if the power fails right after."""
    missing = [folder for folder in target.parents if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + _PART)
    try:
        with source.open("rb") as read, part.open("wb") as written:
            shutil.copyfileobj(read, written, _COPY_BYTES)
            written.flush()
            os.fsync(written.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    for folder in (target.parent, *(made.parent for made in missing)):
        _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
