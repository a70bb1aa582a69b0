"""Downloading one media file from an address that a stranger chose.

Every hop of a redirect passes :mod:`latentsync.media.guard` before anything is sent to it.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable
from typing import BinaryIO

import httpx
from httpx_secure import SSRFProtectionError

from latentsync.errors import (
    FetchTimeout,
    ForbiddenAddress,
    InvalidField,
    LatentSyncError,
    TooManyBytes,
    Unreachable,
    shorten,
)
from latentsync.media.guard import (
    leads_to_public,
    open_guarded_client,
    parse_address,
    reason_of,
)
from latentsync.monitor import RunMonitor
from latentsync.request import UrlSource
from latentsync.settings import Settings

_MAX_REDIRECTS = 5
_ASK_EVERY_S = 0.1  # how often the run is asked whether it must stop
_INFLATE_BYTES = 1024 * 1024  # a compressed answer is unpacked in steps of this size


def download(source: UrlSource, file: BinaryIO, settings: Settings, monitor: RunMonitor) -> None:
    """Stream the answer of ``source.url`` into ``file``. Must not run inside an event loop.

    Raises:
        InvalidField: no http(s) address, or one with a user name in it.
        ForbiddenAddress: the address, or one it redirects to, is not public.
        Unreachable: no connection, no success, or an answer that breaks off.
        FetchTimeout: not finished within ``settings.fetch_timeout_s``, all hops together.
        TooManyBytes: more than ``settings.max_media_bytes``, announced or sent.
        Canceled, DeadlineExceeded
    """
    asyncio.run(_supervise(source, file, settings, monitor))


async def _supervise(
    source: UrlSource, file: BinaryIO, settings: Settings, monitor: RunMonitor
) -> None:
    """Let the download run until it ends, the time is up, or the run must stop."""
    task = asyncio.create_task(_Download(source, settings).run(file))
    deadline = asyncio.get_running_loop().time() + settings.fetch_timeout_s
    try:
        while not task.done():
            monitor.check()
            remaining_s = deadline - asyncio.get_running_loop().time()
            if remaining_s <= 0:
                raise FetchTimeout(
                    f"{source.name} did not arrive within {settings.fetch_timeout_s:g} s.",
                    field=source.name,
                )
            await asyncio.wait({task}, timeout=min(_ASK_EVERY_S, remaining_s))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await task


class _Download:
    """One download with its limits; messages name the field it is for."""

    def __init__(self, source: UrlSource, settings: Settings) -> None:
        self._name = source.name
        self._url = source.url
        self._settings = settings

    async def run(self, file: BinaryIO) -> None:
        """Follow redirects to the file and write it."""
        client = open_guarded_client(self._settings, timeout_s=self._settings.fetch_timeout_s)
        async with client:
            url = self._parse(self._url)
            for _ in range(_MAX_REDIRECTS + 1):
                next_url = await self._hop(client, url, file)
                if next_url is None:
                    return
                url = next_url
        raise self._unreachable(f"more than {_MAX_REDIRECTS} redirects")

    async def _hop(
        self, client: httpx.AsyncClient, url: httpx.URL, file: BinaryIO
    ) -> httpx.URL | None:
        """Ask one address; return the one it redirects to, or None once the file is written."""
        await self._check_host(url)
        try:
            async with client.stream("GET", url) as answer:
                if answer.next_request is not None:
                    return self._parse(str(answer.next_request.url), redirected=True)
                if not answer.is_success:
                    raise self._unreachable(f"the answer was {answer.status_code}")
                await self._save(answer, file)
        except SSRFProtectionError:
            raise self._forbidden(url) from None
        except httpx.TimeoutException:
            raise self._unreachable("no answer in time") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(reason_of(error)) from error
        return None

    async def _save(self, answer: httpx.Response, file: BinaryIO) -> None:
        limit = self._settings.max_media_bytes
        announced = answer.headers.get("Content-Length", "")
        if announced.isascii() and announced.isdigit() and int(announced) > limit:
            raise self._too_many(f"{announced} bytes")
        size_bytes = 0
        async for chunk in self._plain(answer):
            size_bytes += len(chunk)
            if size_bytes > limit:
                raise self._too_many("more bytes")
            file.write(chunk)

    async def _plain(self, answer: httpx.Response) -> AsyncIterator[bytes]:
        """Yield the body; gzip, which some senders use though not asked to, in bounded steps."""
        encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding in ("", "identity"):
            async for chunk in answer.aiter_raw():
                yield chunk
            return
        if encoding not in ("gzip", "x-gzip", "deflate"):
            raise self._unreachable(f"the answer is packed as {shorten(encoding)}")
        inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
        async for chunk in answer.aiter_raw():
            try:
                while chunk:
                    yield inflater.decompress(chunk, _INFLATE_BYTES)
                    chunk = inflater.unconsumed_tail
            except zlib.error as error:
                raise self._unreachable(f"the answer cannot be unpacked ({error})") from None

    def _parse(self, text: str, redirected: bool = False) -> httpx.URL:
        """Check the form of an address; one that came by a redirect is the sender's fault."""
        refuse: Callable[[str], LatentSyncError] = self._bad_redirect if redirected else self._bad
        try:
            return parse_address(text)
        except ValueError as error:
            raise refuse(str(error)) from None

    async def _check_host(self, url: httpx.URL) -> None:
        """Refuse a host that has any address which is not public, before connecting to it."""
        try:
            allowed = await leads_to_public(url, self._settings)
        except (OSError, UnicodeError):
            raise self._unreachable(f"the host {shorten(url.host)} is not known") from None
        if not allowed:
            raise self._forbidden(url)

    def _bad(self, reason: str) -> InvalidField:
        return InvalidField(f"{self._name} is {shorten(self._url)}: {reason}.", field=self._name)

    def _bad_redirect(self, reason: str) -> Unreachable:
        return self._unreachable(f"it redirects to an address that is not valid: {reason}")

    def _unreachable(self, reason: str) -> Unreachable:
        return Unreachable(
            f"{self._name} could not be fetched from {shorten(self._url)}: {reason}.",
            field=self._name,
        )

    def _forbidden(self, url: httpx.URL) -> ForbiddenAddress:
        return ForbiddenAddress(
            f"{self._name} leads to {shorten(url.host)}, which is not a public address.",
            field=self._name,
        )

    def _too_many(self, sent: str) -> TooManyBytes:
        return TooManyBytes(
            f"{self._name} sends {sent} (allowed: {self._settings.max_media_bytes} bytes).",
            field=self._name,
        )
