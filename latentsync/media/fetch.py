"""Fetches the media of a request: downloads, inline base64, or local files.

Only origin, size and time are checked here; the content is checked by the probe. The address of a
download is untrusted: each redirect passes :mod:`latentsync.media.ssrf` before a request is sent.
"""

import asyncio
import binascii
import os
import re
import stat
import tempfile
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import httpx
from httpx_secure import SSRFProtectionError

from latentsync import errors
from latentsync.media import ssrf
from latentsync.monitor import RunMonitor
from latentsync.schema.run import InlineSource, MediaSource, PathSource, UrlSource
from latentsync.settings import Settings
from latentsync.workspace import translate_disk_full

_MAX_REDIRECTS = 5
_ASK_EVERY_S = 0.1  # between two checks whether the run must stop
_INFLATE_BYTES = 1024 * 1024  # chunk size of decompressed responses


def download(source: UrlSource, file: BinaryIO, settings: Settings, monitor: RunMonitor) -> None:
    """Download ``source.url`` into ``file``. Must not run inside an event loop.

    Raises:
        InvalidField: not an http(s) URL, or one with a user name in it.
        ForbiddenAddress: the URL, or one it redirects to, has a private address.
        Unreachable: no connection, no success, or a response that breaks off.
        FetchTimeout: not finished within ``settings.fetch_timeout_s``, redirects included.
        TooManyBytes: more than ``settings.max_media_bytes``, declared or sent.
        Canceled, DeadlineExceeded
    """
    asyncio.run(_supervise(source, file, settings, monitor))


async def _supervise(
    source: UrlSource, file: BinaryIO, settings: Settings, monitor: RunMonitor
) -> None:
    """Run the download until it ends, times out or is canceled."""
    task = asyncio.create_task(_Download(source, settings).run(file))
    deadline = asyncio.get_running_loop().time() + settings.fetch_timeout_s
    try:
        while not task.done():
            monitor.check()
            remaining_s = deadline - asyncio.get_running_loop().time()
            if remaining_s <= 0:
                raise errors.FetchTimeout(
                    f"{source.name} did not arrive within {settings.fetch_timeout_s:g} s.",
                    field=source.name,
                )
            await asyncio.wait({task}, timeout=min(_ASK_EVERY_S, remaining_s))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await task


class _Download:
    """One download with its limits; messages name the request field."""

    def __init__(self, source: UrlSource, settings: Settings) -> None:
        self._name = source.name
        self._url = source.url
        self._settings = settings

    async def run(self, file: BinaryIO) -> None:
        """Follow redirects and write the file."""
        client = ssrf.open_guarded_client(self._settings, timeout_s=self._settings.fetch_timeout_s)
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
        """Request one address; return that of a redirect, or None once the file is written."""
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
            raise self._unreachable(ssrf.reason_of(error)) from error
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
        """Yield the body; gzip, which some servers send unasked, is decompressed in chunks."""
        encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding in ("", "identity"):
            async for chunk in answer.aiter_raw():
                yield chunk
            return
        if encoding not in ("gzip", "x-gzip", "deflate"):
            raise self._unreachable(f"the answer is packed as {errors.shorten(encoding)}")
        inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
        async for chunk in answer.aiter_raw():
            try:
                while chunk:
                    yield inflater.decompress(chunk, _INFLATE_BYTES)
                    chunk = inflater.unconsumed_tail
            except zlib.error as error:
                raise self._unreachable(f"the answer cannot be unpacked ({error})") from None

    def _parse(self, text: str, redirected: bool = False) -> httpx.URL:
        """Parse an address; an invalid redirect is an error of the server."""
        refuse: Callable[[str], errors.LatentSyncError] = (
            self._bad_redirect if redirected else self._bad
        )
        try:
            return ssrf.parse_address(text)
        except ValueError as error:
            raise refuse(str(error)) from None

    async def _check_host(self, url: httpx.URL) -> None:
        """Refuse a host with any address that is not public, before connecting to it."""
        try:
            allowed = await ssrf.leads_to_public(url, self._settings)
        except (OSError, UnicodeError):
            raise self._unreachable(f"the host {errors.shorten(url.host)} is not known") from None
        if not allowed:
            raise self._forbidden(url)

    def _bad(self, reason: str) -> errors.InvalidField:
        return errors.InvalidField(
            f"{self._name} is {errors.shorten(self._url)}: {reason}.", field=self._name
        )

    def _bad_redirect(self, reason: str) -> errors.Unreachable:
        return self._unreachable(f"it redirects to an address that is not valid: {reason}")

    def _unreachable(self, reason: str) -> errors.Unreachable:
        return errors.Unreachable(
            f"{self._name} could not be fetched from {errors.shorten(self._url)}: {reason}.",
            field=self._name,
        )

    def _forbidden(self, url: httpx.URL) -> errors.ForbiddenAddress:
        return errors.ForbiddenAddress(
            f"{self._name} leads to {errors.shorten(url.host)}, which is not a public address.",
            field=self._name,
        )

    def _too_many(self, sent: str) -> errors.TooManyBytes:
        return errors.TooManyBytes(
            f"{self._name} sends {sent} (allowed: {self._settings.max_media_bytes} bytes).",
            field=self._name,
        )


_SLICE_CHARACTERS = 4 * 1024 * 1024
_WHITESPACE = str.maketrans("", "", " \t\r\n")
_DATA_URI = re.compile(r"\s*data:(?P<kind>[^,]{0,1000}),", re.IGNORECASE)
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/=]")


def fetch_media(source: MediaSource, folder: Path, settings: Settings, monitor: RunMonitor) -> Path:
    """Return a file with the media of ``source``; new files are written to ``folder``.

    Base64 must use the standard alphabet (``+`` and ``/``) with its padding; whitespace in it
    is ignored.

    Args:
        source: the media.
        folder: the request's private working folder.
        settings: limits and permissions.
        monitor: checked several times a second.

    Raises:
        InvalidField, InvalidBase64: the source is not well formed.
        ForbiddenAddress, ForbiddenPath: the source may not be used.
        Unreachable, FetchTimeout, TooManyBytes: the download failed.
        EmptyMedia: it has no bytes.
        UnreadableMedia: the path is not a regular file.
        DiskFull, Canceled, DeadlineExceeded
    """
    if isinstance(source, PathSource):
        return _existing_file(source, settings)
    with translate_disk_full(), _new_file(folder, source.name) as (path, file):
        if isinstance(source, UrlSource):
            download(source, file, settings, monitor)
        else:
            _decode_inline(source, file, settings, monitor)
        if file.tell() == 0:
            raise errors.EmptyMedia(f"{source.name} is empty.", field=source.name)
    return path


@contextmanager
def _new_file(folder: Path, name: str) -> Iterator[tuple[Path, BinaryIO]]:
    descriptor, path = tempfile.mkstemp(prefix=f"{name}-", dir=folder)
    with os.fdopen(descriptor, "wb") as file:
        yield Path(path), file


def _decode_inline(
    source: InlineSource, file: BinaryIO, settings: Settings, monitor: RunMonitor
) -> None:
    """Decode in slices, so that there is no second copy of a large body in memory."""
    text, start = source.base64, _payload_start(source)
    blanks = sum(text.count(blank, start) for blank in " \t\r\n")
    size_bytes = (len(text) - start - blanks) * 3 // 4
    if size_bytes > settings.max_media_bytes + 2:  # up to two characters are padding
        raise errors.TooManyBytes(
            f"{source.name} holds about {size_bytes} bytes (allowed: {settings.max_media_bytes}).",
            field=source.name,
        )
    padding = text.find("=", start)
    if padding >= 0 and text[padding:].strip(" \t\r\n="):
        raise errors.InvalidBase64(
            f"{source.name} is not base64: there is text after its padding.", field=source.name
        )
    rest = ""
    for position in range(start, len(text), _SLICE_CHARACTERS):
        monitor.check()
        rest += text[position : position + _SLICE_CHARACTERS].translate(_WHITESPACE)
        whole = len(rest) - len(rest) % 4
        file.write(_decode_slice(rest[:whole], source.name))
        rest = rest[whole:]
    if rest:
        raise errors.InvalidBase64(
            f"{source.name} is not base64: its length is not a multiple of 4 "
            "(the padding may be missing).",
            field=source.name,
        )


def _payload_start(source: InlineSource) -> int:
    """Return the start of the base64 text, after a ``data:`` prefix if there is one."""
    prefix = _DATA_URI.match(source.base64)
    if prefix is None:
        return 0
    if not prefix["kind"].lower().endswith(";base64"):
        raise errors.InvalidBase64(
            f"{source.name} is a data URI of {errors.shorten(prefix['kind'])}; "
            "it must say ;base64.",
            field=source.name,
        )
    return prefix.end()


def _decode_slice(text: str, name: str) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        wrong = _NOT_BASE64.search(text)
        reason = f"it holds {wrong[0]!r}" if wrong else str(error).lower()
        raise errors.InvalidBase64(f"{name} is not base64: {reason}.", field=name) from None


def _existing_file(source: PathSource, settings: Settings) -> Path:
    """Return the path of a file inside an allowed root, after resolving symbolic links."""
    given, name = errors.shorten(str(source.path)), source.name
    try:
        path = source.path.resolve()
        roots = [root.resolve() for root in settings.allowed_roots]
    except (OSError, RuntimeError, ValueError):
        raise errors.ForbiddenPath(
            f"{name} is {given}, which is no valid path.", field=name
        ) from None
    if not any(path.is_relative_to(root) for root in roots):
        raise errors.ForbiddenPath(f"{name} is {given}, outside the allowed folders.", field=name)
    try:
        status = path.stat()
    except OSError:
        raise errors.UnreadableMedia(
            f"{name} is {given}: there is no such file.", field=name
        ) from None
    if not stat.S_ISREG(status.st_mode):
        raise errors.UnreadableMedia(
            f"{name} is {given}, which is not an ordinary file.", field=name
        )
    if not os.access(path, os.R_OK):
        raise errors.UnreadableMedia(f"{name} is {given}, which may not be read.", field=name)
    if status.st_size > settings.max_media_bytes:
        raise errors.TooManyBytes(
            f"{name} has {status.st_size} bytes (allowed: {settings.max_media_bytes}).", field=name
        )
    if status.st_size == 0:
        raise errors.EmptyMedia(f"{name} is an empty file.", field=name)
    return path
