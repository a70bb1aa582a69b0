"""Downloads one file over HTTP into a partial file: resumes, retries, verifies size and hash."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import httpx

from latentsync.errors import WeightsDamaged, WeightsUnreachable
from latentsync.weights.hub import Fault, Origin, fault_of_status
from latentsync.weights.paths import sidecar
from latentsync.weights.progress import DownloadContext

_BLOCK_BYTES = 4 * 1024 * 1024


class Partial:
    """A partial download, which replaces its target once it is complete.

    It survives broken connections and killed processes. A note records where the bytes came from:
    only the same content is resumed.

    Args:
        target: path of the complete file.
        check_canceled: called while bytes of an earlier run are hashed; may raise.
    """

    def __init__(self, target: Path, check_canceled: Callable[[], None]) -> None:
        self.path = sidecar(target, ".part")
        self.size_bytes = 0
        self.origin: str | None = None  # identity of the content
        self.etag: str | None = None  # of the response that it came in
        self._target = target
        self._note = sidecar(target, ".part.json")
        self._check_canceled = check_canceled
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
        """Discard all bytes and note the new origin."""
        if self.size_bytes:
            self._file.truncate(0)
        self.size_bytes, self._digest = 0, hashlib.sha256()
        self.origin, self.etag = origin, etag
        self._note.write_text(json.dumps({"origin": origin, "etag": etag}), "utf-8")

    def write(self, data: bytes) -> None:
        """Append all of ``data``; on OSError, the bytes already written are kept."""
        rest = memoryview(data)
        while rest:
            count = self._file.write(rest) or 0
            self._digest.update(rest[:count])
            self.size_bytes += count
            rest = rest[count:]

    def finish(self) -> None:
        """Replace the target durably."""
        os.fsync(self._file.fileno())
        os.replace(self.path, self._target)
        self._note.unlink(missing_ok=True)
        _sync_folder(self._target.parent)

    def discard(self) -> None:
        """Delete the file and its note."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def _recall(self) -> None:
        """Load the state of an earlier run, if its note is valid."""
        self.size_bytes = os.fstat(self._file.fileno()).st_size
        try:
            note = json.loads(self._note.read_text("utf-8"))
            self.origin, self.etag = note["origin"], note["etag"]
        except (OSError, ValueError, KeyError, TypeError):
            return  # the caller restarts: no origin is None
        with self.path.open("rb", buffering=0) as opened:
            while block := opened.read(_BLOCK_BYTES):
                self._digest.update(block)
                self._check_canceled()


def _sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power loss, if the filesystem supports it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(descriptor)


_TIMEOUT = httpx.Timeout(30.0, connect=10.0)  # seconds; 30 without a byte are a failure
_MISMATCHES = 2  # wrong bytes may be an accident once
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_HEADERS = {"User-Agent": "latentsync", "Accept-Encoding": "identity"}


@dataclass(frozen=True)
class Wanted:
    """The file to download.

    Attributes:
        name: for messages and progress.
        address: its source, safe to show.
        sha256: in hex, or its beginning, or None if only the server knows it.
        sizes: the sizes in bytes it may have; None if only the server knows it.
        about_bytes: for progress until the server states the size.
    """

    name: str
    address: str
    sha256: str | None
    sizes: range | None
    about_bytes: int


def download(
    wanted: Wanted, find: Callable[[], Origin], partial: Partial, context: DownloadContext
) -> None:
    """Complete ``partial``, and verify its size and hash.

    Args:
        wanted: the file to download.
        find: called before each attempt for the address, since addresses expire; may raise
            Fault.
        partial: open; resumed if its content is the same.
        context: retries, stop, progress.

    Raises:
        WeightsUnreachable: after all retries.
        WeightsDamaged: the wrong bytes came twice, or the server offers another file.
        Stopped, OSError
    """
    faults = mismatches = 0
    with httpx.Client(follow_redirects=True, timeout=_TIMEOUT, headers=_HEADERS) as client:
        while True:
            before_bytes = partial.size_bytes
            try:
                return _Attempt(client, wanted, find(), partial, context).run()
            except _Mismatch as error:
                mismatches += 1
                if mismatches == _MISMATCHES:
                    raise WeightsDamaged(
                        f"{wanted.name} arrived damaged from {wanted.address}: {error}."
                    ) from error
            except (Fault, httpx.HTTPError, httpx.InvalidURL) as error:
                fault = error if isinstance(error, Fault) else _fault_of_connection(error)
                faults = 1 if partial.size_bytes > before_bytes else faults + 1
                if not fault.transient or faults >= context.retries.tries:
                    raise _unreachable(wanted, fault) from error
                context.pause(context.retries.pause_s(faults, fault.asked_s))


class _Mismatch(Exception):
    """The download is complete, but it is not the file."""


class _Attempt:
    """One request for the missing bytes."""

    def __init__(
        self,
        client: httpx.Client,
        wanted: Wanted,
        origin: Origin,
        partial: Partial,
        context: DownloadContext,
    ) -> None:
        self._client = client
        self._wanted = wanted
        self._origin = origin
        self._partial = partial
        self._context = context

    def run(self) -> None:
        self._context.check_canceled()
        self._refuse_other_content()
        if self._partial.origin != self._origin.identity:
            self._partial.restart(self._origin.identity)
        if not self._is_whole():
            self._read()
        self._check()

    def _is_whole(self) -> bool:
        """Tell whether an earlier run had all bytes but ended before it used them."""
        return self._partial.size_bytes > 0 and (
            self._partial.size_bytes == self._origin.size_bytes
            or self._partial.sha256 == self._wanted.sha256
        )

    def _read(self) -> None:
        """Request the missing bytes and read them."""
        with self._client.stream("GET", self._origin.url, headers=self._headers()) as answer:
            whole_bytes = self._accept(answer) or self._origin.size_bytes
            self._save(answer, whole_bytes)
        if whole_bytes is not None and self._partial.size_bytes < whole_bytes:
            raise Fault("the response ended early", transient=True)

    def _check(self) -> None:
        """Compare size and hash with the catalog or else with the server's."""
        self._refuse_size(self._partial.size_bytes)
        sha256 = self._wanted.sha256 or self._origin.sha256 or ""
        found = self._partial.sha256
        if not found.startswith(sha256):
            self._partial.restart(self._origin.identity)
            raise _Mismatch(f"its sha256 begins with {found[:12]} instead of {sha256[:12]}")

    def _headers(self) -> dict[str, str]:
        """Request only the rest, and only if the file has not changed."""
        headers = dict(self._origin.headers)
        if self._partial.size_bytes:
            headers["Range"] = f"bytes={self._partial.size_bytes}-"
            if self._partial.etag:
                headers["If-Range"] = self._partial.etag
        return headers

    def _accept(self, answer: httpx.Response) -> int | None:
        """Check the response headers, restart if needed, return the size of the whole file."""
        if answer.status_code == 206:
            match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            if match is None or int(match[1]) != self._partial.size_bytes:
                self._partial.restart(self._origin.identity)
                raise Fault("it sent a range that was not requested", transient=True)
            return None if match[2] == "*" else int(match[2])
        if answer.status_code == 416:
            self._partial.restart(self._origin.identity)
            raise Fault("it has no more bytes to send", transient=True)
        if answer.status_code != 200:
            raise fault_of_status(answer.status_code, answer.headers)
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise Fault("it sends the file compressed", transient=False)
        announced = answer.headers.get("Content-Length", "")
        whole_bytes = int(announced) if announced.isdigit() else None
        if whole_bytes is not None:
            self._refuse_size(whole_bytes)
        self._partial.restart(self._origin.identity, self._strong_etag(answer))
        return whole_bytes

    def _strong_etag(self, answer: httpx.Response) -> str | None:
        """Return the ETag for If-Range; files of a hub need none, since their hash is known."""
        etag = answer.headers.get("ETag")
        weak = etag is None or etag.startswith("W/")
        return None if weak or self._origin.sha256 else etag

    def _save(self, answer: httpx.Response, whole_bytes: int | None) -> None:
        total_bytes = whole_bytes or self._wanted.about_bytes
        for chunk in answer.iter_raw():
            self._partial.write(chunk)
            self._context.report(
                self._wanted.name, "downloading", self._partial.size_bytes, total_bytes
            )
            self._context.check_canceled()

    def _refuse_other_content(self) -> None:
        """Refuse a file whose stated size or hash is wrong, before downloading it."""
        stated = self._origin.sha256
        if stated is not None and not stated.startswith(self._wanted.sha256 or ""):
            raise WeightsDamaged(
                f"{self._wanted.address} is not {self._wanted.name}: its sha256 begins with "
                f"{stated[:12]} instead of {(self._wanted.sha256 or '')[:12]}."
            )
        if self._origin.size_bytes is not None:
            self._refuse_size(self._origin.size_bytes)

    def _refuse_size(self, size_bytes: int) -> None:
        sizes = self._wanted.sizes
        if sizes is not None and size_bytes not in sizes:
            middle = sizes[len(sizes) // 2]
            raise WeightsDamaged(
                f"{self._wanted.address} is not {self._wanted.name}: it has {size_bytes} bytes "
                f"instead of {middle}."
            )


def _fault_of_connection(error: Exception) -> Fault:
    words = str(error).strip().rstrip(".") or type(error).__name__
    passing = isinstance(error, httpx.TransportError)
    passing = passing and not isinstance(error, httpx.UnsupportedProtocol)
    return Fault(f"no connection ({words})", transient=passing)


def _unreachable(wanted: Wanted, fault: Fault) -> WeightsUnreachable:
    return WeightsUnreachable(
        f"{wanted.name} could not be fetched from {wanted.address}: {fault.reason}. Check the "
        "connection, or name a mirror with LATENTSYNC_WEIGHTS_MIRROR or HF_ENDPOINT."
    )
