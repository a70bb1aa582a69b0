"""Where media of waiting jobs and finished videos are kept: a local folder, or S3 and its like.

Keys are paths with forward slashes inside the store. A file appears whole or not at all.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from latentsync.workspace import translate_disk_full

_PART = ".part"  # ends the name of a local file that is still being written


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
            self._files.makedirs(self._files._parent(target), exist_ok=True)
            try:
                shutil.copyfile(path, target + _PART)
                Path(target + _PART).replace(target)
            finally:
                Path(target + _PART).unlink(missing_ok=True)

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
        if self._files.exists(path):
            self._files.rm(path, recursive=True)

    def below(self, key: str) -> dict[str, float]:
        """Return the names directly below a folder and when each was last changed."""
        path = self._path(key)
        if not self._files.isdir(path):
            return {}
        found: list[dict[str, Any]] = self._files.ls(path, detail=True)
        return {entry["name"].rsplit("/", 1)[-1]: _changed_at(entry) for entry in found}

    def free_bytes(self) -> int | None:
        """Return the room left on the disk; None where there is no telling."""
        return shutil.disk_usage(self._root).free if self._is_local else None

    def _path(self, key: str) -> str:
        parts = key.split("/")
        if not all(parts) or any(part in (".", "..") or "\\" in part for part in parts):
            raise FileNotFoundError(key)
        return f"{self._root}/{key}"


def _changed_at(entry: dict[str, Any]) -> float:
    changed = entry.get("mtime", entry.get("LastModified", 0.0))
    return float(changed.timestamp() if hasattr(changed, "timestamp") else changed)
