"""Uploaded files, and how many bytes of them each owner may keep."""

import re
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from latentsync.errors import LineFull
from latentsync.jobs.storage import UPLOADS, Storage

UPLOAD_SCHEME = "upload://"
_NAME = re.compile(r"[0-9a-f]{32}")
_RETRY_AFTER_S = 30.0


class Uploads:
    """Stores uploads under random names, each for its owner only; thread-safe.

    Args:
        files: the file store.
        max_bytes_per_owner: limit of the uploads of one owner, together.
    """

    def __init__(self, files: Storage, max_bytes_per_owner: int) -> None:
        self._files = files
        self._max_bytes = max_bytes_per_owner
        self._counting = Lock()
        self._coming: Counter[str] = Counter()  # bytes that this process is storing

    def store(self, path: Path, owner: str, *, move: bool = False) -> str:
        """Store a file; returns its ``upload://`` URL.

        Args:
            path: the file.
            owner: who may use it.
            move: see :meth:`latentsync.jobs.storage.Storage.put`.

        Raises:
            LineFull: the owner has as many bytes stored as allowed.
            DiskFull: there is no room.
        """
        name = uuid.uuid4().hex
        with self._room(owner, path.stat().st_size):
            self._files.put(path, _key(name, owner), move=move)
        return UPLOAD_SCHEME + name

    def require_room(self, owner: str, size_bytes: int) -> None:
        """Raise LineFull if an upload of this size would be too much for its owner."""
        kept = self._files.size_below(UPLOADS, name=_folder_of(owner)) + self._coming[owner]
        if kept + size_bytes > self._max_bytes:
            raise LineFull(
                f"{kept} bytes of this key's uploads are kept, and {size_bytes} more are too many "
                f"(allowed: {self._max_bytes}).",
                retry_after_s=_RETRY_AFTER_S,
            )

    def find(self, address: str, owner: str) -> str | None:
        """Return the key of an owner's upload in the file store; None if there is none."""
        name = address.removeprefix(UPLOAD_SCHEME)
        if _NAME.fullmatch(name) is None:
            return None
        key = _key(name, owner)
        return key if self._files.exists(key) else None

    def remove(self, name: str, owner: str) -> bool:
        """Remove an owner's upload; False if there is none. Jobs have their own copies."""
        key = self.find(name, owner)
        if key is None:
            return False
        self._files.remove(key.rsplit("/", 1)[0])
        return True

    @contextmanager
    def _room(self, owner: str, size_bytes: int) -> Iterator[None]:
        with self._counting:
            self.require_room(owner, size_bytes)
            self._coming[owner] += size_bytes
        try:
            yield
        finally:
            with self._counting:
                self._coming[owner] -= size_bytes


def _key(name: str, owner: str) -> str:
    return f"{UPLOADS}/{name}/{_folder_of(owner)}"


def _folder_of(owner: str) -> str:
    return owner[:32]
