"""Client of the server's event stream."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import httpx

from latentsync.client._http import HttpSession, unexpected
from latentsync.client.models import JobEvent
from latentsync.errors import LatentSyncError, Unreachable

_CONTENT_TYPE = "text/event-stream"


async def follow(
    session: HttpSession, url: str, after: int, timeout: httpx.Timeout
) -> AsyncGenerator[JobEvent | None, None]:
    """Yield the events of a job until it has ended, reconnecting after a broken stream.

    None stands for a heartbeat.

    Args:
        session: sends the requests.
        url: of the stream.
        after: number of the last known event.
        timeout: of the stream.

    Raises:
        ServerError, Unreachable, FetchTimeout: as :meth:`HttpSession.ask`.
    """
    faults = session.faults()
    while True:
        request = session.build("GET", url, headers=_headers(after), timeout=timeout)
        is_silent = True
        try:
            async with session.open(request) as response:
                if response.status_code == httpx.codes.NO_CONTENT:
                    return
                _require_events(response)
                async with aclosing(read_events(session.transport.lines(response))) as events:
                    async for event in events:
                        faults.reset()
                        is_silent = False
                        if event is not None and event.number is not None:
                            after = event.number
                        yield event
                        if event is not None and event.ends_job:
                            return
                if is_silent:
                    raise Unreachable("The event stream ended without events.", field="url")
        except LatentSyncError as fault:
            await faults.pause_after(fault)
        else:  # the server is stopping, or a proxy has closed the stream
            await session.transport.pause(session.patience.first_pause_s)


def _headers(after: int) -> dict[str, str]:
    headers = {"Accept": _CONTENT_TYPE, "Accept-Encoding": "identity", "Cache-Control": "no-store"}
    return headers | {"Last-Event-ID": str(after)} if after else headers


def _require_events(response: httpx.Response) -> None:
    if response.headers.get("content-type", "").partition(";")[0].strip() != _CONTENT_TYPE:
        raise unexpected(response, "events")


async def read_events(lines: AsyncIterator[str]) -> AsyncGenerator[JobEvent | None, None]:
    """Yield the events of a stream (HTML standard, 9.2.6), and None for each comment.

    Events whose data are not a JSON object count as comments.
    """
    fields: dict[str, str] = {}
    async for line in lines:
        if not line:
            if fields:
                yield _event(fields)
            fields = {}
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not name:
            yield None
        elif name == "data" and "data" in fields:
            fields["data"] += "\n" + value
        else:
            fields[name] = value


def _event(fields: dict[str, str]) -> JobEvent | None:
    try:
        data = json.loads(fields.get("data", ""))
    except ValueError:
        return None
    if not isinstance(data, dict):
        return None
    number = fields.get("id", "")
    return JobEvent(
        fields.get("event", "message"),
        data,
        int(number) if number.isascii() and number.isdigit() else None,
    )
