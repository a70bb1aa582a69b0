"""Downloads a finished video to a file: resumes partial downloads, replaces atomically."""

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
from latentsync.workspace import take_lock

OnBytes = Callable[[int, int | None], None]  # bytes received, total bytes if known

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})")
_NAME_CHARACTERS_MAX = 100
_SERVERS_FAULT = 500  # a status from here on says nothing about the file


@dataclass(frozen=True)
class _Offer:
    """The file that the server offers.

    Attributes:
        etag: identifies the content; empty if the server sends none.
        size_bytes: of the whole file; None if the server does not say.
    """

    etag: str
    size_bytes: int | None


async def download(exchange: HttpSession, url: str, target: Path, on_bytes: OnBytes | None) -> Path:
    """Download a file; an earlier, interrupted call is resumed.

    Args:
        exchange: how requests are sent.
        url: of the file.
        target: path of the file; missing folders are created.
        on_bytes: called with the bytes received.

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
        await _fetch(exchange, url, offer, file, on_bytes or _ignore)
    return target


async def _look(exchange: HttpSession, url: str) -> _Offer:
    """Ask for one byte, to learn size and ETag."""
    retries = exchange.retry_state()
    while True:
        try:
            async with exchange.open(_request(exchange, url, Range="bytes=0-0")) as answer:
                return _Offer(answer.headers.get("etag", ""), _whole_size(answer))
        except LatentSyncError as error:
            await retries.pause_after(error)


async def _fetch(
    exchange: HttpSession, url: str, offer: _Offer, file: BinaryIO, on_bytes: OnBytes
) -> None:
    retries = exchange.retry_state()
    if not offer.etag:  # the partial file may have other content
        file.truncate(0)
    while True:
        have_bytes = file.seek(0, os.SEEK_END)
        if offer.size_bytes is not None and have_bytes >= offer.size_bytes:
            return
        try:
            await _fetch_rest(exchange, url, offer, file, on_bytes)
            return
        except LatentSyncError as error:
            if file.tell() > have_bytes:
                retries.forget()
            await retries.pause_after(error)


async def _fetch_rest(
    exchange: HttpSession, url: str, offer: _Offer, file: BinaryIO, on_bytes: OnBytes
) -> None:
    have_bytes = file.tell()
    headers = {"Range": f"bytes={have_bytes}-", "If-Range": offer.etag} if have_bytes else {}
    async with exchange.open(_request(exchange, url, **headers)) as answer:
        if answer.status_code == httpx.codes.PARTIAL_CONTENT:
            _require_start(answer, have_bytes)
        else:  # the whole file: it has changed, or the server supports no ranges
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
    """Yield the locked file of a partial download; it replaces the target at the end.

    It is kept for the next call when the connection, the server or the caller fails, and deleted
    when the server refuses the request.

    Args:
        target: path of the finished file.
        content: identifies what is downloaded, so that parts of different files are not mixed.
    """
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    path = target.parent / f".{target.name[:_NAME_CHARACTERS_MAX]}.{digest}.part"
    descriptor = take_lock(path, mode=0o666)
    if descriptor is None:  # held, or another download has just finished and moved it
        raise InvalidField(
            f"path {str(target)!r}: another download to it is in progress.", field="path"
        )
    with open(descriptor, "r+b") as file:
        try:
            yield file
            file.flush()
            path.replace(target)
        except ServerError as refusal:
            if refusal.server_status < _SERVERS_FAULT:
                path.unlink()
            raise


def _ignore(_received: int, _total: int | None) -> None:
    pass
