"""The beginning of a file: outlives cut connections and dead processes, knows its own hash."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from latentsync.weights.places import beside

_BLOCK_BYTES = 4 * 1024 * 1024


class Partial:
    """Grows beside its target and takes the target's place once it is whole.

    A note says where the bytes came from: only the same content is ever continued.

    Args:
        target: path of the whole file.
        go_on: called while bytes of an earlier run are hashed; may raise.
    """

    def __init__(self, target: Path, go_on: Callable[[], None]) -> None:
        self.path = beside(target, ".part")
        self.size_bytes = 0
        self.origin: str | None = None  # what content this is the beginning of
        self.etag: str | None = None  # of the answer that it came in
        self._target = target
        self._note = beside(target, ".part.json")
        self._go_on = go_on
        self._digest = hashlib.sha256()

    def __enter__(self) -> Partial:
        self._file = self.path.open("ab", buffering=0)
        try:
            self._recall()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        if self.size_bytes == 0:
            self.discard()

    @property
    def sha256(self) -> str:
        """The hash, in hex, of the bytes so far."""
        return self._digest.hexdigest()

    def restart(self, origin: str, etag: str | None = None) -> None:
        """Forget all bytes and note what is to come."""
        if self.size_bytes:
            self._file.truncate(0)
        self.size_bytes, self._digest = 0, hashlib.sha256()
        self.origin, self.etag = origin, etag
        self._note.write_text(json.dumps({"origin": origin, "etag": etag}), "utf-8")

    def write(self, data: bytes) -> None:
        """Append all of ``data``; raises OSError, keeping what there was room for."""
        rest = memoryview(data)
        while rest:
            count = self._file.write(rest) or 0
            self._digest.update(rest[:count])
            self.size_bytes += count
            rest = rest[count:]

    def finish(self) -> None:
        """Take the target's place, safely on disk."""
        os.fsync(self._file.fileno())
        os.replace(self.path, self._target)
        self._note.unlink(missing_ok=True)
        _sync_folder(self._target.parent)

    def discard(self) -> None:
        """Remove every trace."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def _recall(self) -> None:
        """Take up what an earlier run left, if its note says what it is."""
        self.size_bytes = os.fstat(self._file.fileno()).st_size
        try:
            note = json.loads(self._note.read_text("utf-8"))
            self.origin, self.etag = note["origin"], note["etag"]
        except (OSError, ValueError, KeyError, TypeError):
            return  # restart() follows, for no origin is None
        with self.path.open("rb", buffering=0) as opened:
            while block := opened.read(_BLOCK_BYTES):
                self._digest.update(block)
                self._go_on()


def _sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a loss of power, where the filesystem can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(descriptor)
