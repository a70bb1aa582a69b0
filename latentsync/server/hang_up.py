"""A caller who hangs up needs no answer: what is done for it stops."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from latentsync.errors import Canceled

T = TypeVar("T")


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Return the work's result; cancels the work and waits for its end if the caller hangs up.

    Args:
        receive: of the request, whose body has been read.
        work: what is done for the caller; it is cancelled, too, when this call is.

    Raises:
        Canceled: the caller hung up.
    """
    running = asyncio.create_task(work)
    gone = asyncio.create_task(_wait_for_disconnect(receive))
    try:
        await asyncio.wait([running, gone], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            return running.result()
        raise Canceled("The caller hung up.")
    finally:
        running.cancel()
        gone.cancel()
        await asyncio.gather(running, gone, return_exceptions=True)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
