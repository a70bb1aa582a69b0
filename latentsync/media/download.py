"""Downloading one media file from an address that a stranger chose.

Every hop of a redirect is checked before anything is sent to it; behind this check httpx-secure
pins each connection to an address it has checked itself, so a name that changes its address
between the two gains nothing. Environment proxies are not used: they would connect for us.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Callable
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import BinaryIO

import httpx
from httpx_secure import SSRFProtectionError, httpx_ssrf_protection

from latentsync.errors import (
    FetchTimeout,
    ForbiddenAddress,
    InvalidField,
    LatentSyncError,
    TooManyBytes,
    Unreachable,
    shorten,
)
from latentsync.monitor import RunMonitor
from latentsync.schema import UrlSource
from latentsync.settings import Settings

_MAX_REDIRECTS = 5
_ASK_EVERY_S = 0.1  # how often the run is asked whether it must stop
_INFLATE_BYTES = 1024 * 1024  # a compressed answer is unpacked in steps of this size
_PUBLIC_IPV6 = IPv6Network("2000::/3")  # all that IANA has opened to the Internet
_NAT64 = IPv6Network("64:ff9b::/96")
_PROTOCOLS = IPv4Network("192.0.0.0/24")  # set aside by RFC 6890; clouds answer in it
_HEADERS = {"User-Agent": "latentsync", "Accept-Encoding": "identity"}


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
        client = httpx.AsyncClient(
            trust_env=False,
            follow_redirects=False,
            headers=_HEADERS,
            timeout=self._settings.fetch_timeout_s,
            verify=_trusted_roots(),
        )
        if not self._settings.allow_private_addresses:
            client = httpx_ssrf_protection(
                client, custom_validator=lambda _host, address, _port: is_public(address)
            )
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
            raise self._unreachable(_reason(error)) from error
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
            url = httpx.URL(text)
        except httpx.InvalidURL as error:
            raise refuse(_reason(error)) from None
        if url.scheme not in ("http", "https"):
            raise refuse("only http and https are allowed")
        if not url.host:
            raise refuse("it names no host")
        if url.port is not None and not 0 < url.port < 65_536:
            raise refuse("its port is not between 1 and 65535")
        if url.userinfo:
            raise refuse("a user name or password in it is not allowed")
        return url

    async def _check_host(self, url: httpx.URL) -> None:
        """Refuse a host that has any address which is not public, before connecting to it."""
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                url.host, port, type=socket.SOCK_STREAM
            )
        except (OSError, UnicodeError):
            raise self._unreachable(f"the host {shorten(url.host)} is not known") from None
        if self._settings.allow_private_addresses:
            return
        if not all(is_public(ip_address(str(entry[4][0]).split("%")[0])) for entry in found):
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


@cache
def _trusted_roots() -> ssl.SSLContext:
    """Load the certificates once per process; it takes longer than many a download."""
    return httpx.create_ssl_context(trust_env=False)


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Tell whether an address belongs to the public Internet, looking into wrapped ones too."""
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast and address not in _PROTOCOLS
    wrapped = _wrapped_address(address)
    if wrapped is not None:
        return is_public(wrapped)
    return address.is_global and address in _PUBLIC_IPV6


def _wrapped_address(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that traffic to ``address`` ends at, if it is a wrapped one."""
    if address in _NAT64:
        return IPv4Address(address.packed[-4:])
    if address.teredo is not None:
        return address.teredo[1]
    return address.ipv4_mapped or address.sixtofour


def _reason(error: Exception) -> str:
    """Return an error's own words without its final stop; the type where it has none."""
    words = str(error).strip().rstrip(".") or type(error).__name__
    return words[:1].lower() + words[1:]
