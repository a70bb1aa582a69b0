"""Blocking and asyncio transports, and the server's address and token.

The client's calls are coroutines over a :class:`Transport`. The blocking transport never suspends,
so :func:`finish` can run them without an event loop.
"""

import asyncio
import ipaddress
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import httpx

from latentsync.errors import InvalidField, shorten

T = TypeVar("T")


class Transport(Protocol):
    """Builds and sends requests."""

    @property
    def http(self) -> httpx.Client | httpx.AsyncClient:
        """The httpx client, which builds requests."""

    async def send(self, request: httpx.Request) -> httpx.Response:
        """Return a response with an unread body."""

    async def read(self, response: httpx.Response) -> None:
        """Read the whole body."""

    def parts(self, response: httpx.Response) -> AsyncIterator[bytes]:
        """Yield the body in chunks as it arrives."""

    def lines(self, response: httpx.Response) -> AsyncIterator[str]:
        """Yield the body's lines as they arrive."""

    async def release(self, response: httpx.Response) -> None:
        """Close a response, even if its body is unread."""

    async def pause(self, seconds: float) -> None:
        """Sleep."""

    async def close(self) -> None:
        """Close the connections."""


class BlockingTransport:
    """Blocks the thread. Takes the arguments of :class:`httpx.Client`."""

    def __init__(self, **options: Any) -> None:
        self.http = httpx.Client(**options)

    async def send(self, request: httpx.Request) -> httpx.Response:
        return self.http.send(request, stream=True)

    async def read(self, response: httpx.Response) -> None:
        response.read()

    async def parts(self, response: httpx.Response) -> AsyncIterator[bytes]:
        for part in response.iter_bytes():
            yield part

    async def lines(self, response: httpx.Response) -> AsyncIterator[str]:
        for line in response.iter_lines():
            yield line

    async def release(self, response: httpx.Response) -> None:
        response.close()

    async def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    async def close(self) -> None:
        self.http.close()


class AsyncTransport:
    """Runs on asyncio. Takes the arguments of :class:`httpx.AsyncClient`."""

    def __init__(self, **options: Any) -> None:
        self.http = httpx.AsyncClient(**options)

    async def send(self, request: httpx.Request) -> httpx.Response:
        return await self.http.send(request, stream=True)

    async def read(self, response: httpx.Response) -> None:
        await response.aread()

    def parts(self, response: httpx.Response) -> AsyncIterator[bytes]:
        return response.aiter_bytes()

    def lines(self, response: httpx.Response) -> AsyncIterator[str]:
        return response.aiter_lines()

    async def release(self, response: httpx.Response) -> None:
        await response.aclose()

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        await self.http.aclose()


def finish(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends, and return its value."""
    try:
        work.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    work.close()
    raise RuntimeError("The coroutine waits for an event loop.")


def iter_sync(source: AsyncGenerator[T, None]) -> Iterator[T]:
    """Iterate over an asynchronous generator that never suspends, and close it at the end."""
    try:
        while (item := finish(_next(source))) is not None:
            yield item
    finally:
        finish(_close(source))


async def _next(source: AsyncGenerator[T, None]) -> T | None:
    return await anext(source, None)


async def _close(source: AsyncGenerator[Any, None]) -> None:
    await source.aclose()


CONNECT_TIMEOUT_S = 10.0
_IDLE_CONNECTIONS_MAX = 20
_PREDICT = "/predict"


@dataclass(frozen=True)
class Address:
    """A server's address.

    Attributes:
        base: URL without ``/predict`` and without a trailing slash.
    """

    base: str

    @property
    def predict(self) -> str:
        """URL of ``/predict``."""
        return self.base + _PREDICT

    @property
    def predictions(self) -> str:
        """URL of the native API's predictions."""
        return f"{self.base}/v1/predictions"

    def own_url(self, reported: str | None, default: str) -> str:
        """Return a URL that may be requested with the token.

        Args:
            reported: a URL or path in a response of the server.
            default: returned if there is none, or if it is not below this address: the token must
                not be sent to other hosts, and a server behind a proxy may report a name or path
                by which it cannot be reached from here.
        """
        if reported is None:
            return default
        if reported.startswith("/") and not reported.startswith("//"):
            return self.base + reported
        try:
            url = httpx.URL(reported)
        except httpx.InvalidURL:
            return default
        own = httpx.URL(self.base)
        is_below = url.path.startswith(own.path.rstrip("/") + "/")
        return reported if is_below and _origin(url) == _origin(own) else default

    @property
    def is_this_machine(self) -> bool:
        """Whether it is a loopback address, which no proxy can reach."""
        host = httpx.URL(self.base).host
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


def parse_address(url: str) -> Address:
    """Parse a URL with or without a trailing ``/predict``; raises InvalidField."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InvalidField(f"url is {shorten(url)}: {error}.", field="url") from None
    is_port_valid = parsed.port is None or 0 < parsed.port < 65536
    if parsed.scheme not in ("http", "https") or not parsed.host or not is_port_valid:
        raise InvalidField(f"url is {shorten(url)}. Allowed: an http or https URL.", field="url")
    if parsed.userinfo:
        raise InvalidField(
            "url must not contain a user name or password. Use the token.", field="url"
        )
    path = parsed.path.rstrip("/").removesuffix(_PREDICT)
    return Address(str(parsed.copy_with(path=path or "/", query=None, fragment=None)).rstrip("/"))


def http_options(address: Address, token: str | None, timeout_s: float) -> dict[str, Any]:
    """Return the arguments of the httpx client; raises InvalidField for a malformed token."""
    return {
        "headers": _authorization(token),
        "timeout": httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
        # Every waiting call holds a connection, so their number is not limited.
        "limits": httpx.Limits(
            max_connections=None, max_keepalive_connections=_IDLE_CONNECTIONS_MAX
        ),
        "trust_env": not address.is_this_machine,  # proxies cannot reach loopback
    }


def _origin(url: httpx.URL) -> tuple[str, str, int | None, bytes]:
    """Return the origin of a URL (RFC 6454), and its user info."""
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    return url.scheme, url.host, port, url.userinfo


def _authorization(token: str | None) -> dict[bytes, bytes]:
    stripped = (token or "").strip()  # a token from a file often ends with a newline
    if not stripped.isprintable():
        raise InvalidField(
            "token contains a line break or another control character.", field="token"
        )
    return {b"Authorization": b"Bearer " + stripped.encode()} if stripped else {}
