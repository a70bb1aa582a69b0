"""Resumable, atomic download of a finished video."""

import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import httpx

from latentsync.client._http import HttpSession, unexpected
from latentsync.errors import InvalidField, LatentSyncError, ServerError

OnBytes = Callable[[int, int | None], None]  # bytes received, and in total if known

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})")
_NAME_CHARACTERS_MAX = 100
_SERVER_ERROR = 500  # from here on the status says nothing about the file


@dataclass(frozen=True)
class _RemoteFile:
    """The file as the server describes it.

    Attributes:
        etag: identifies the content; empty if the server sends none.
        size_bytes: total size; None if unknown.
    """

    etag: str
    size_bytes: int | None


async def download(session: HttpSession, url: str, target: Path, on_bytes: OnBytes | None) -> Path:
    """Download a file, resuming an earlier, interrupted call.

    Args:
        session: sends the requests.
        url: of the file.
        target: path to write; missing folders are created.
        on_bytes: called with the bytes received so far and in total.

    Raises:
        InvalidField: the target is a folder, or another download to it is in progress.
        ServerError, Unreachable, FetchTimeout: as :meth:`HttpSession.ask`.
        OSError: the file cannot be written.
    """
    if target.is_dir():
        raise InvalidField(
            f"path {str(target)!r} is a folder. Give the name of a file.", field="path"
        )
    remote = await _head(session, url)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _part_file(target, url + remote.etag) as file:
        await _fetch(session, url, remote, file, on_bytes or _ignore_progress)
    return target


async def _head(session: HttpSession, url: str) -> _RemoteFile:
    """Request one byte, to learn ETag and size."""
    faults = session.faults()
    while True:
        try:
            async with session.open(_request(session, url, Range="bytes=0-0")) as response:
                return _RemoteFile(response.headers.get("etag", ""), _whole_size(response))
        except LatentSyncError as fault:
            await faults.pause_after(fault)


async def _fetch(
    session: HttpSession, url: str, remote: _RemoteFile, file: BinaryIO, on_bytes: OnBytes
) -> None:
    faults = session.faults()
    if not remote.etag:  # the part may belong to another file
        file.truncate(0)
    while True:
        received_bytes = file.seek(0, os.SEEK_END)
        if remote.size_bytes is not None and received_bytes >= remote.size_bytes:
            return
        try:
            await _fetch_rest(session, url, remote, file, on_bytes)
            return
        except LatentSyncError as fault:
            if file.tell() > received_bytes:
                faults.reset()
            await faults.pause_after(fault)


async def _fetch_rest(
    session: HttpSession, url: str, remote: _RemoteFile, file: BinaryIO, on_bytes: OnBytes
) -> None:
    received_bytes = file.tell()
    headers = (
        {"Range": f"bytes={received_bytes}-", "If-Range": remote.etag} if received_bytes else {}
    )
    async with session.open(_request(session, url, **headers)) as response:
        if response.status_code == httpx.codes.PARTIAL_CONTENT:
            _require_start(response, received_bytes)
        else:  # the whole file: it has changed, or the server does not support ranges
            file.seek(0)
            file.truncate()
        async for part in session.transport.parts(response):
            file.write(part)
            on_bytes(file.tell(), remote.size_bytes)
        if remote.size_bytes not in (None, file.tell()):
            raise unexpected(response, "the whole video")


def _request(session: HttpSession, url: str, **headers: str) -> httpx.Request:
    # Ranges of a compressed body could not be joined.
    return session.build("GET", url, headers={"Accept-Encoding": "identity", **headers})


def _require_start(response: httpx.Response, start: int) -> None:
    sent = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
    if sent is None or int(sent[1]) != start:
        raise unexpected(response, "the rest of the video")


def _whole_size(response: httpx.Response) -> int | None:
    sent = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
    if sent is not None:
        return int(sent[2])
    length = response.headers.get("content-length", "")
    return int(length) if length.isdigit() else None


@contextmanager
def _part_file(target: Path, content: str) -> Iterator[BinaryIO]:
    """Open the hidden part file of a download and rename it to the target at the end.

    It is kept if the connection, the server or the caller fails, so that it can be resumed, and
    deleted if the server refuses the request.

    Args:
        target: final path.
        content: identifies the content, so that parts of different files are not mixed.
    """
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    path = target.parent / f".{target.name[:_NAME_CHARACTERS_MAX]}.{digest}.part"
    with path.open("ab") as file:
        if not _try_lock(file) or not _is_still_at(path, file):
            raise InvalidField(
                f"path {str(target)!r}: another download to it is in progress.", field="path"
            )
        try:
            yield file
            file.flush()
            path.replace(target)
        except ServerError as error:
            if error.server_status < _SERVER_ERROR:
                path.unlink()
            raise


def _try_lock(file: BinaryIO) -> bool:
    """Lock the file until it is closed; False if another process holds the lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still_at(path: Path, file: BinaryIO) -> bool:
    """Return False if another download has finished between opening and locking."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _ignore_progress(_here_bytes: int, _whole_bytes: int | None) -> None:
    pass
