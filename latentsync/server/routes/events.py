"""Server-sent events of a prediction."""

import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from latentsync.errors import InvalidField, shorten
from latentsync.jobs.models import Job, JobEvent
from latentsync.jobs.notifier import JobNotifier, wait_for
from latentsync.jobs.schemas import as_iso_time
from latentsync.jobs.service import JobService

_POLL_POSITION_EVERY_S = 0.5  # the queue position changes without an event of the job
_READ_AT_LEAST_EVERY_S = 5.0  # a notification can be missed, see JobNotifier
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_NUMBER_MAX = 2**62


def parse_last_event_id(text: str | None, newest: Callable[[], int]) -> int:
    """Return the event number after which to continue.

    Args:
        text: the header, if any.
        newest: returns the number of the newest event, which is the maximum: with a larger number,
            from another database, the stream would miss all events, even the last one.

    Raises:
        InvalidField: the header is not a number.
    """
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()) or int(text[:20]) > _NUMBER_MAX:
        raise InvalidField(
            f"Last-Event-ID is {shorten(text)}. Allowed: the id of an event.", field="Last-Event-ID"
        )
    return min(int(text), newest())


class EventStream(StreamingResponse):
    """Streams the events of a job after number ``after``, until the job has ended.

    ``status``, ``progress`` and ``log`` have an id to continue from; ``position`` is a new queue
    position and has none. A comment is sent as heartbeat after a silence, so that both sides detect
    dead connections.
    """

    media_type = "text/event-stream"

    def __init__(
        self, jobs: JobService, notifier: JobNotifier, job: Job, *, after: int, heartbeat_s: float
    ) -> None:
        self._jobs = jobs
        self._notifier = notifier
        self._job = job
        self._after = after
        self._heartbeat_s = heartbeat_s
        self._position: int | None = None  # last position sent
        self._sent_at = time.monotonic()  # time of the last message
        super().__init__(self._messages(), headers=_HEADERS)

    async def _messages(self) -> AsyncIterator[str]:
        with self._notifier.subscribe(self._job.id) as changed:
            while True:
                events, position, is_final = await run_in_threadpool(self._read)
                for event in events:
                    self._after, self._sent_at = event.number, time.monotonic()
                    data = event.data | {"at": as_iso_time(event.at)}
                    yield _message(event.kind, data, event.number)
                if events:
                    continue  # read until there are no more
                if is_final or self._notifier.is_closed:
                    return
                read_at, was_notified = time.monotonic(), False
                while not was_notified and time.monotonic() - read_at < _READ_AT_LEAST_EVERY_S:
                    if (message := self._without_event(position)) is not None:
                        self._sent_at = time.monotonic()
                        yield message
                    was_notified = await wait_for(
                        changed, min(self._heartbeat_s, _POLL_POSITION_EVERY_S)
                    )
                    position = self._notifier.position(self._job)

    def _without_event(self, position: int | None) -> str | None:
        """Return a new queue position or a heartbeat, if one is due."""
        # The notifier's position may be older than the one read with the job: never go back.
        if position is not None and (self._position is None or position < self._position):
            self._position = position
            return _message("position", {"queue_position": position})
        if time.monotonic() - self._sent_at >= self._heartbeat_s:
            return ": still here\n\n"
        return None

    def _read(self) -> tuple[list[JobEvent], int | None, bool]:
        """Return the new events, the queue position, and whether the job has ended.

        The job is read first: if it has ended, the following query includes its last event.
        """
        found = self._jobs.store.look(self._job.id)
        events = self._jobs.store.events(self._job.id, self._after)
        if found is None:  # deleted meanwhile
            return events, None, True
        job, position = found
        return events, position, job.status.is_final


def _message(kind: str, data: dict[str, Any], number: int | None = None) -> str:
    head = f"event: {kind}\n" if number is None else f"id: {number}\nevent: {kind}\n"
    return f"{head}data: {json.dumps(data)}\n\n"
