"""HTTP calls over one persistent connection, with very little CPU time.

A client on the same cores as the measured server must not slow it down.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any


class Caller:
    """One client with one connection; responses must have a Content-Length.

    Args:
        port: of a server on this machine.
        key: bearer token.
    """

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._head = f"Host: 127.0.0.1:{port}\r\nAuthorization: Bearer {key}\r\n"

    async def __aenter__(self) -> Caller:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(
        self, _type: type | None, _error: BaseException | None, _where: TracebackType | None
    ) -> None:
        self._writer.close()

    async def call(
        self, method: str, path: str, body: bytes = b"", kind: str = "application/json"
    ) -> tuple[int, Any]:
        """Make one call; return the status and the JSON of the response."""
        status, headers = await self._begin(method, path, body, kind)
        answer = await self._reader.readexactly(int(headers["content-length"]))
        return status, json.loads(answer)

    async def listen(self, path: str) -> AsyncIterator[str]:
        """Yield the kinds of a stream's events; the connection ends with it."""
        status, _ = await self._begin("GET", path)
        if status != 200:
            raise RuntimeError(f"{path} answered {status}")
        async for line in self._reader:
            if line.startswith(b"event: "):
                yield line[7:].strip().decode()

    async def _begin(
        self, method: str, path: str, body: bytes = b"", kind: str = ""
    ) -> tuple[int, dict[str, str]]:
        about = f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n" if body else ""
        head = f"{method} {path} HTTP/1.1\r\n{self._head}{about}\r\n"
        self._writer.write(head.encode() + body)
        first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        headers = dict(line.lower().split(": ", 1) for line in lines if line)
        return int(first.split()[1]), headers
