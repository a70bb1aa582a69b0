"""What happens to a prediction, as server-sent events."""

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

_LOOK_EVERY_S = 0.5  # at the place in the line, which changes without an event of one's own
_READ_AT_LEAST_EVERY_S = 5.0  # subscribers can be overtaken, see JobNews.changed
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_NUMBER_MAX = 2**62


def parse_last_event_id(text: str | None, newest: Callable[[], int]) -> int:
    """Return the number after which to go on.

    Args:
        text: the header, if there is one.
        newest: tells the number of the newest event. Nobody goes on after a later one: a caller
            whose number is from elsewhere would hear nothing of what happens, not even the end.

    Raises:
        InvalidField: it is no number.
    """
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()) or int(text[:20]) > _NUMBER_MAX:
        raise InvalidField(
            f"Last-Event-ID is {shorten(text)}. Allowed: the id of an event.", field="Last-Event-ID"
        )
    return min(int(text), newest())


class EventStream(StreamingResponse):
    """Sends a job's events from after ``after`` on, and ends after the one that ends the job.

    ``status``, ``progress`` and ``log`` carry an id to go on from; ``position`` tells a new place
    in the line. A comment is sent when nothing else was for a while, so that dead connections are
    found out on both sides.
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
        self._position: int | None = None  # the last that was sent
        self._sent_at = time.monotonic()  # when anything was
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
                    continue  # until there are no more
                if is_final or self._notifier.is_closed:
                    return
                read_at, has_rung = time.monotonic(), False
                while not has_rung and time.monotonic() - read_at < _READ_AT_LEAST_EVERY_S:
                    if (message := self._without_event(position)) is not None:
                        self._sent_at = time.monotonic()
                        yield message
                    has_rung = await wait_for(changed, min(self._heartbeat_s, _LOOK_EVERY_S))
                    position = self._notifier.position(self._job)

    def _without_event(self, position: int | None) -> str | None:
        """Return what is to be said though nothing has happened to the job."""
        # What the news know may be older than what was read of the job: nobody falls back in line.
        if position is not None and (self._position is None or position < self._position):
            self._position = position
            return _message("position", {"queue_position": position})
        if time.monotonic() - self._sent_at >= self._heartbeat_s:
            return ": still here\n\n"
        return None

    def _read(self) -> tuple[list[JobEvent], int | None, bool]:
        """Return the new events, the place in the line, and whether the job has ended.

        The job is read first: if it has ended by then, its last event is among those read next.
        """
        found = self._jobs.store.look(self._job.id)
        events = self._jobs.store.events(self._job.id, self._after)
        if found is None:  # forgotten meanwhile
            return events, None, True
        job, position = found
        return events, position, job.status.is_final


def _message(kind: str, data: dict[str, Any], number: int | None = None) -> str:
    head = f"event: {kind}\n" if number is None else f"id: {number}\nevent: {kind}\n"
    return f"{head}data: {json.dumps(data)}\n\n"
