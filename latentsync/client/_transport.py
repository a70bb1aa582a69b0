"""Blocking and asyncio transports; addresses and authorization of servers.

The client is written once, as coroutines over a :class:`Transport`. A blocking transport never
suspends, so :func:`finish` can run those coroutines without an event loop.
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
    """Sends requests that it has built."""

    @property
    def http(self) -> httpx.Client | httpx.AsyncClient:
        """Builds requests, with the headers and limits of the client."""

    async def send(self, request: httpx.Request) -> httpx.Response:
        """Return a response whose body has not been read."""

    async def read(self, response: httpx.Response) -> None:
        """Read the whole body."""

    def parts(self, response: httpx.Response) -> AsyncIterator[bytes]:
        """Yield the body as it comes."""

    def lines(self, response: httpx.Response) -> AsyncIterator[str]:
        """Yield the body's lines as they come."""

    async def release(self, response: httpx.Response) -> None:
        """Close a response, whether or not its body was read."""

    async def pause(self, seconds: float) -> None:
        """Wait."""

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
    """Yield what an asynchronous generator that never suspends yields; close it at the end."""
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
_KEPT_OPEN = 20  # idle connections
_PREDICT = "/predict"


@dataclass(frozen=True)
class Address:
    """A server's address.

    Attributes:
        base: without ``/predict`` and without a slash at its end.
    """

    base: str

    @property
    def predict(self) -> str:
        """URL of contract A."""
        return self.base + _PREDICT

    @property
    def predictions(self) -> str:
        """URL of the native API for jobs."""
        return f"{self.base}/v1/predictions"

    def own_url(self, given: str | None, otherwise: str) -> str:
        """Return the address for a request with the token, given what the server sent.

        Args:
            given: an absolute address, or a path on the server.
            otherwise: used without one, or if it is not below this address: the token must not go
                to another server, and a server behind a proxy may not know the name or prefix by
                which it is reached.
        """
        if given is None:
            return otherwise
        if given.startswith("/") and not given.startswith("//"):
            return self.base + given
        try:
            url = httpx.URL(given)
        except httpx.InvalidURL:
            return otherwise
        own = httpx.URL(self.base)
        is_below = url.path.startswith(own.path.rstrip("/") + "/")
        return given if is_below and _origin(url) == _origin(own) else otherwise

    @property
    def is_this_machine(self) -> bool:
        """Whether it is a loopback address, for which no proxy is used."""
        host = httpx.URL(self.base).host
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


def parse_address(url: str) -> Address:
    """Read an address with or without ``/predict`` at its end; raises InvalidField."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InvalidField(f"url is {shorten(url)}: {error}.", field="url") from None
    port_is_one = parsed.port is None or 0 < parsed.port < 65536
    if parsed.scheme not in ("http", "https") or not parsed.host or not port_is_one:
        raise InvalidField(
            f"url is {shorten(url)}. Allowed: an http or https address.", field="url"
        )
    if parsed.userinfo:
        raise InvalidField("url must not contain a name or password. Pass the token.", field="url")
    path = parsed.path.rstrip("/").removesuffix(_PREDICT)
    return Address(str(parsed.copy_with(path=path or "/", query=None, fragment=None)).rstrip("/"))


def http_options(address: Address, token: str | None, timeout_s: float) -> dict[str, Any]:
    """Return the httpx options for a server; raises InvalidField for an invalid token."""
    return {
        "headers": _authorization(token),
        "timeout": httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
        # Every waiting call holds a connection, and any number may wait.
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=_KEPT_OPEN),
        "trust_env": not address.is_this_machine,  # no proxy for loopback
    }


def _origin(url: httpx.URL) -> tuple[str, str, int | None, bytes]:
    """Return the origin (RFC 6454) with any user name, for comparison."""
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    return url.scheme, url.host, port, url.userinfo


def _authorization(token: str | None) -> dict[bytes, bytes]:
    stripped = (token or "").strip()  # a token read from a file often ends with a line break
    if not stripped.isprintable():
        raise InvalidField("token contains a line break or control character.", field="token")
    return {b"Authorization": b"Bearer " + stripped.encode()} if stripped else {}
