"""One request and its answer: sent, judged, repeated where that helps."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx

from latentsync.client.answer import native_error
from latentsync.client.patience import Faults, Patience
from latentsync.client.transport import Transport
from latentsync.errors import FetchTimeout, LatentSyncError, Unreachable

# Modal ends a request after 150 s with a 303 to the address of its result, and that one likewise.
_MOST_HANDOVERS = 20
_ERRNO = re.compile(r"^\[Errno -?\d+\] ")  # before what the operating system says in words

BuildRequest = Callable[[], httpx.Request]


class Exchange:
    """Sends requests and turns every fault into an error of this package.

    Args:
        transport: how they are sent.
        shown_url: the server's address, for messages.
        patience: how faults are met.
    """

    def __init__(self, transport: Transport, shown_url: str, patience: Patience) -> None:
        self.transport = transport
        self.patience = patience
        self._shown_url = shown_url

    def build(self, method: str, url: str, **options: Any) -> httpx.Request:
        """Return a request; options are those of :meth:`httpx.Client.build_request`."""
        return self.transport.http.build_request(method, url, **options)

    def faults(self) -> Faults:
        """Return a count of faults for one call."""
        return Faults(self.patience, self.transport.pause)

    async def ask(self, build: BuildRequest) -> httpx.Response:
        """Return the whole answer of success; the request must do no harm when repeated.

        Raises:
            ServerError: the server answered with an error.
            Unreachable: no connection, or it broke, again and again.
            FetchTimeout: the server was silent for too long, again and again.
        """
        faults = self.faults()
        while True:
            try:
                async with self.open(build()) as response:
                    await self.transport.read(response)
                    return response
            except LatentSyncError as fault:
                await faults.pause_after(fault)

    async def ask_once(self, request: httpx.Request) -> httpx.Response:
        """Return the whole answer, whatever it says; a platform's handovers are followed."""
        with self._own_errors():
            response = await self._send_and_read(request)
            for _ in range(_MOST_HANDOVERS):
                if response.status_code != httpx.codes.SEE_OTHER or response.next_request is None:
                    break
                # A GET: no other redirect is followed, for the media must not go elsewhere.
                response = await self._send_and_read(response.next_request)
            return response

    @asynccontextmanager
    async def open(self, request: httpx.Request) -> AsyncIterator[httpx.Response]:
        """Yield an answer of success whose body is still to be read; raises as :meth:`ask`."""
        with self._own_errors():
            response = await self.transport.send(request)
            try:
                if not response.is_success:
                    await self.transport.read(response)
                    raise native_error(response)
                yield response
            finally:
                await self.transport.let_go(response)

    async def _send_and_read(self, request: httpx.Request) -> httpx.Response:
        response = await self.transport.send(request)
        try:
            await self.transport.read(response)
        finally:
            await self.transport.let_go(response)
        return response

    @contextmanager
    def _own_errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectTimeout:
            raise Unreachable(f"{self._shown_url} does not answer.", field="url") from None
        except httpx.TimeoutException:
            raise FetchTimeout(f"{self._shown_url} was silent for too long.", field="url") from None
        except httpx.HTTPError as error:
            said = _ERRNO.sub("", str(error)).rstrip(".") or type(error).__name__
            raise Unreachable(
                f"{self._shown_url} cannot be reached: {said}.", field="url"
            ) from error
