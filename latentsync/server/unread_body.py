"""An answer that comes before the end of the request's body closes the connection.

Otherwise the server would go on receiving, and throwing away, whatever a refused caller sends: for
ever, if it likes. The connection is not cut at once, because a caller who is still sending might
then lose the answer.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LINGER_S = 2.0


class UnreadBodyClose:
    """ASGI middleware, the outermost one: it must see everything that is received and sent."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on; watch its body, if it has one."""
        if scope["type"] == "http" and _has_body(scope):
            exchange = _Exchange(receive, send)
            receive, send = exchange.receive, exchange.send
        await self._app(scope, receive, send)


class _Exchange:
    """One request with a body, and its answer."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._is_read = False
        self._closes = False

    async def receive(self) -> Message:
        """Receive for the application, noting the body's end."""
        message = await self._receive()
        self._is_read = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Send the application's answer; before its end, let the caller finish for a moment."""
        if message["type"] == "http.response.start":
            self._closes = not self._is_read
            if self._closes:
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await self._send(message)
        elif not self._closes or message.get("more_body", False):
            await self._send(message)
        else:
            await self._send({**message, "more_body": True})
            await self._linger()
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _linger(self) -> None:
        try:
            async with asyncio.timeout(_LINGER_S):
                while not self._is_read:
                    await self.receive()
        except TimeoutError:
            return


def _has_body(scope: Scope) -> bool:
    headers = dict(scope["headers"])
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
