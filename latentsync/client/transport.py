"""How requests are sent and waited for: blocking, or letting other tasks work meanwhile.

What clients do is written once, as coroutines over a :class:`Transport`. A blocking transport never
suspends, so :func:`finish` can run those coroutines without an event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from typing import Any, Protocol, TypeVar

import httpx

T = TypeVar("T")


class Transport(Protocol):
    """Sends requests that it has built."""

    @property
    def http(self) -> httpx.Client | httpx.AsyncClient:
        """Builds requests, with the headers and limits of the client."""

    async def send(self, request: httpx.Request) -> httpx.Response:
        """Return an answer whose body has not been read."""

    async def read(self, response: httpx.Response) -> None:
        """Read the whole body."""

    def parts(self, response: httpx.Response) -> AsyncIterator[bytes]:
        """Yield the body as it comes."""

    def lines(self, response: httpx.Response) -> AsyncIterator[str]:
        """Yield the body's lines as they come."""

    async def let_go(self, response: httpx.Response) -> None:
        """Let go of an answer, wherever its body is."""

    async def pause(self, seconds: float) -> None:
        """Wait."""

    async def close(self) -> None:
        """Close the connections."""


class BlockingTransport:
    """Holds up the thread. Takes the arguments of :class:`httpx.Client`."""

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

    async def let_go(self, response: httpx.Response) -> None:
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

    async def let_go(self, response: httpx.Response) -> None:
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


def iterate(source: AsyncGenerator[T, None]) -> Iterator[T]:
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
