"""Both clients behind one face, so that one test holds for both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from latentsync import AsyncClient, Client
from latentsync.client import Patience

QUICK = Patience(retries=3, first_pause_s=0.01, longest_pause_s=0.05, poll_every_s=0.05)
KINDS = ("blocking", "asynchronous")


class Awaited:
    """An AsyncClient whose calls are run to their end."""

    def __init__(self, runner: asyncio.Runner, client: AsyncClient) -> None:
        self._runner, self._client = runner, client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self._client, name)
        return lambda *args, **options: self._runner.run(call(*args, **options))

    def events(self, *args: Any) -> Iterator[Any]:
        """Yield events as they come, each awaited by itself."""
        source: Any = self._client.events(*args)
        try:
            while (event := self._runner.run(_next(source))) is not None:
                yield event
        finally:
            self._runner.run(source.aclose())


async def _next(source: Any) -> Any:
    return await anext(source, None)


@contextmanager
def client_of(kind: str, url: str, token: str, patience: Patience = QUICK) -> Iterator[Any]:
    """Yield one of the two clients."""
    if kind == "blocking":
        with Client(url, token, patience=patience) as client:
            yield client
        return
    with asyncio.Runner() as runner:
        client = AsyncClient(url, token, patience=patience)
        try:
            yield Awaited(runner, client)
        finally:
            runner.run(client.close())
