"""Server-sent events: order, resuming, heartbeats, many listeners at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from latentsync.jobs.notifier import JobNotifier
from latentsync.jobs.service import JobService, Submission
from latentsync.schema.run import RunRequest, UrlSource
from latentsync.server.routes.events import EventStream
from tests.jobs.square_runner import BROKEN, SLOW
from tests.server.live import AUTH, settings_for
from tests.server.routes.conftest import Submit

pytestmark = pytest.mark.processes

Event = dict[str, Any]


def parse(text: str) -> list[Event]:
    """Return the events of a stream; comments are left out."""
    events = []
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if not line.startswith(":")]
        if lines:
            fields = dict(line.split(": ", 1) for line in lines)
            events.append({**fields, "data": json.loads(fields["data"])})
    return events


def follow(client: httpx.Client, job: Event, after: str | None = None) -> list[Event]:
    headers = {} if after is None else {"Last-Event-ID": after}
    answer = client.get(f"/predictions/{job['id']}/events", headers=headers)
    assert answer.headers["content-type"].startswith("text/event-stream")
    return parse(answer.text)


def test_a_stream_has_all_events_until_the_end(client: httpx.Client, submit: Submit) -> None:
    events = follow(client, submit(SLOW + 500))
    statuses = [event["data"]["status"] for event in events if event["event"] == "status"]
    assert statuses == ["queued", "processing", "succeeded"]
    fractions = [event["data"]["fraction"] for event in events if event["event"] == "progress"]
    assert fractions == sorted(fractions)
    assert fractions
    numbers = [int(event["id"]) for event in events if "id" in event]
    assert numbers == sorted(set(numbers))


def test_times_are_written_as_in_the_prediction(client: httpx.Client, submit: Submit) -> None:
    job = submit(wait_s=60)
    events = follow(client, job)
    assert {event["event"] for event in events} >= {"status", "progress", "log"}
    assert all(event["data"]["at"].endswith("Z") for event in events)
    assert events[0]["data"]["at"] == job["created_at"]
    ends = [event["data"] for event in events if event["data"].get("status") == "succeeded"]
    assert [end["at"] for end in ends] == [job["finished_at"]]


def test_a_resumed_stream_has_no_gaps_or_repetitions(client: httpx.Client, submit: Submit) -> None:
    job = submit(wait_s=60)
    events = follow(client, job)
    for number, event in enumerate(events[:-1]):
        assert follow(client, job, event["id"]) == events[number + 1 :]
    # An EventSource stops reconnecting after a 204.
    end = {"Last-Event-ID": events[-1]["id"]}
    assert client.get(f"/predictions/{job['id']}/events", headers=end).status_code == 204


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 40, "٣"])
def test_an_invalid_last_event_id_is_refused(
    client: httpx.Client, submit: Submit, last: str
) -> None:
    path = f"/predictions/{submit(wait_s=60)['id']}/events"
    answer = client.get(path, headers={b"Last-Event-ID": last.encode()})
    assert (answer.status_code, answer.json()["field"]) == (422, "Last-Event-ID")


def test_the_reason_of_a_failure_is_in_the_last_event(client: httpx.Client, submit: Submit) -> None:
    last = follow(client, submit(BROKEN))[-1]
    assert last["data"]["status"] == "failed"
    assert last["data"]["error"]["code"] == "INTERNAL_ERROR"


def test_every_new_queue_position_is_an_event(client: httpx.Client, submit: Submit) -> None:
    first, second, third = submit(SLOW + 60_000), submit(SLOW + 60_000), submit()
    with client.stream("GET", f"/predictions/{third['id']}/events") as answer:
        lines = answer.iter_lines()
        for place, in_the_way in ((1, second), (0, first)):
            wait_for_line(lines, f'"queue_position": {place}')
            client.post(f"/predictions/{in_the_way['id']}/cancel")
        wait_for_line(lines, '"status": "succeeded"')
        assert [line for line in lines if line] == []


def wait_for_line(lines: Iterator[str], part: str) -> None:
    """Read until a line holds something; fails at the end of the stream."""
    assert any(part in line for line in lines), part


def test_a_hundred_listeners_hear_the_same(url: str, client: httpx.Client, submit: Submit) -> None:
    job = submit(SLOW + 2000)

    async def listen(caller: httpx.AsyncClient) -> list[Event]:
        answer = await caller.get(f"{url}/v1/predictions/{job['id']}/events", headers=AUTH)
        return [event for event in parse(answer.text) if "id" in event]

    async def listen_all() -> list[list[Event]]:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(timeout=30, limits=limits) as caller:
            return await asyncio.gather(*(listen(caller) for _ in range(100)))

    heard = asyncio.run(listen_all())
    assert heard[0][-1]["data"]["status"] == "succeeded"
    assert all(one == heard[0] for one in heard)


def test_a_silent_stream_shows_that_it_lives(tmp_path: Path) -> None:
    jobs = JobService(settings_for(tmp_path))
    request = RunRequest(
        UrlSource("http://a.example/v", "video_url"), UrlSource("http://a.example/a", "audio_url")
    )
    [job] = jobs.submit([Submission(request, "f")], "owner")

    async def first(stream: EventStream, number: int) -> list[str]:
        messages: AsyncIterator[Any] = stream.body_iterator
        heard = [str(await anext(messages)) for _ in range(number)]
        await messages.aclose()  # type: ignore[attr-defined]
        return heard

    async def listen() -> list[str]:
        notifier = JobNotifier(jobs.store.engine)
        return await first(EventStream(jobs, notifier, job, after=0, heartbeat_s=0.05), 4)

    status, position, *silence = asyncio.run(listen())
    jobs.close()
    assert "queued" in status
    assert "queue_position" in position
    assert silence == [": still here\n\n"] * 2
