"""A finished video brought to a file: taken up where it broke off, whole or not at all."""

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

OnBytes = Callable[[int, int | None], None]  # how many are here, of how many if that is known

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})")
_NAME_CHARACTERS_MAX = 100
_SERVERS_FAULT = 500  # statuses from here on say nothing about what was asked for


@dataclass(frozen=True)
class _Offer:
    """What the server has.

    Attributes:
        etag: names the content; empty if the server has no name for it.
        size_bytes: of the whole; None if the server does not say.
    """

    etag: str
    size_bytes: int | None


async def download(exchange: HttpSession, url: str, target: Path, on_bytes: OnBytes | None) -> Path:
    """Bring a file here; an earlier, broken-off call is continued.

    Args:
        exchange: how requests are sent.
        url: of the file.
        target: where it goes; missing folders are created.
        on_bytes: told how much is here.

    Raises:
        InvalidField: the target is a folder, or another process is downloading to it.
        ServerError, Unreachable, FetchTimeout: as :meth:`HttpSession.ask`.
        OSError: the file cannot be written.
    """
    if target.is_dir():
        raise InvalidField(
            f"path {str(target)!r} is a folder. Give the name of a file.", field="path"
        )
    offer = await _look(exchange, url)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _part_file(target, url + offer.etag) as file:
        await _bring(exchange, url, offer, file, on_bytes or _tell_nobody)
    return target


async def _look(exchange: HttpSession, url: str) -> _Offer:
    """Ask for one byte, to learn what the whole is; more is not read."""
    faults = exchange.faults()
    while True:
        try:
            async with exchange.open(_request(exchange, url, Range="bytes=0-0")) as answer:
                return _Offer(answer.headers.get("etag", ""), _whole_size(answer))
        except LatentSyncError as fault:
            await faults.pause_after(fault)


async def _bring(
    exchange: HttpSession, url: str, offer: _Offer, file: BinaryIO, on_bytes: OnBytes
) -> None:
    faults = exchange.faults()
    if not offer.etag:  # what is here may be of another file
        file.truncate(0)
    while True:
        have_bytes = file.seek(0, os.SEEK_END)
        if offer.size_bytes is not None and have_bytes >= offer.size_bytes:
            return
        try:
            await _bring_rest(exchange, url, offer, file, on_bytes)
            return
        except LatentSyncError as fault:
            if file.tell() > have_bytes:
                faults.forget()
            await faults.pause_after(fault)


async def _bring_rest(
    exchange: HttpSession, url: str, offer: _Offer, file: BinaryIO, on_bytes: OnBytes
) -> None:
    have_bytes = file.tell()
    headers = {"Range": f"bytes={have_bytes}-", "If-Range": offer.etag} if have_bytes else {}
    async with exchange.open(_request(exchange, url, **headers)) as answer:
        if answer.status_code == httpx.codes.PARTIAL_CONTENT:
            _require_start(answer, have_bytes)
        else:  # the whole, because it is another one now or the server knows no ranges
            file.seek(0)
            file.truncate()
        async for part in exchange.transport.parts(answer):
            file.write(part)
            on_bytes(file.tell(), offer.size_bytes)
        if offer.size_bytes not in (None, file.tell()):
            raise unexpected(answer, "the whole video")


def _request(exchange: HttpSession, url: str, **headers: str) -> httpx.Request:
    # Parts of a compressed body could not be put together.
    return exchange.build("GET", url, headers={"Accept-Encoding": "identity", **headers})


def _require_start(answer: httpx.Response, start: int) -> None:
    sent = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
    if sent is None or int(sent[1]) != start:
        raise unexpected(answer, "the rest of the video")


def _whole_size(answer: httpx.Response) -> int | None:
    sent = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
    if sent is not None:
        return int(sent[2])
    length = answer.headers.get("content-length", "")
    return int(length) if length.isdigit() else None


@contextmanager
def _part_file(target: Path, content: str) -> Iterator[BinaryIO]:
    """Lend the file in which a download grows; it takes the target's place at the end.

    It stays where it is when the connection, the server or the caller fails, to be continued, and
    goes when there is nothing to continue.

    Args:
        target: the file's place.
        content: names what is downloaded; parts of other contents are not mixed up.
    """
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    path = target.parent / f".{target.name[:_NAME_CHARACTERS_MAX]}.{digest}.part"
    with path.open("ab") as file:
        if not _is_locked(file) or not _is_still_at(path, file):
            raise InvalidField(
                f"path {str(target)!r}: another download to it is in progress.", field="path"
            )
        try:
            yield file
            file.flush()
            path.replace(target)
        except ServerError as refusal:
            if refusal.server_status < _SERVERS_FAULT:
                path.unlink()
            raise


def _is_locked(file: BinaryIO) -> bool:
    """Try to keep others away; the lock ends with the open file, however that ends."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still_at(path: Path, file: BinaryIO) -> bool:
    """Tell whether no other download has finished between opening and locking."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _tell_nobody(_here_bytes: int, _whole_bytes: int | None) -> None:
    pass
