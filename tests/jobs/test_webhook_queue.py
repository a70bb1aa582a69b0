"""The line of notices: a database, a worker's process, a receiver."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from dbos import DBOSClient

from latentsync.jobs.database import open_database
from latentsync.jobs.models import Delivery, Job, NewJob, Webhook
from latentsync.jobs.queue import WEBHOOKS, JobQueue
from latentsync.jobs.store import JobStore
from latentsync.jobs.webhooks import find_delivery, record_delivery
from latentsync.settings import Settings
from tests.jobs.receiver import SECRET, Receiver, verified
from tests.jobs.records import record
from tests.server.live import AUTH, process, small_body, wait_until
from tests.server.queues import queue_server

pytestmark = pytest.mark.processes


class Office:
    """What a server has: the record, and the line into which it puts jobs."""

    def __init__(self, settings: Settings) -> None:
        engine = open_database(settings.jobs_database)
        self._entrance = JobQueue(engine)
        self.store = JobStore(engine, announce=self._entrance.webhooks.announce)
        self._client = DBOSClient(system_database_engine=engine)

    def submit(self, job_id: str, url: str) -> Job:
        new = NewJob(job_id, "o", {}, "f", webhook=Webhook(url))
        (job,) = record(self.store, new, alongside=self._entrance.put)
        return job

    def maintain(self, keep_s: float = 1000.0, lost_s: float = 1000.0) -> None:
        self._entrance.webhooks.maintain(keep_s, lost_s)

    def notices(self) -> list[str]:
        """Return the states of all attempts that the line knows."""
        return [one.status for one in self._client.list_workflows(queue_name=WEBHOOKS)]

    def delivery(self, job_id: str) -> Delivery | None:
        job = self.store.get(job_id)
        assert job is not None
        return find_delivery(self.store.engine, job)

    def has_ended(self, job_id: str) -> bool:
        job = self.store.get(job_id)
        return job is not None and job.status.is_final

    def close(self) -> None:
        self._client.destroy()
        self._entrance.close()
        self.store.engine.dispose()


@pytest.fixture
def office(signing: Settings) -> Iterator[Office]:
    office = Office(signing)
    yield office
    office.close()


def worker(settings: Settings, name: str = "w", **environment: str) -> AbstractContextManager[Any]:
    own = {
        "LATENTSYNC_DATA_DIR": str(settings.data_dir),
        "LATENTSYNC_WEBHOOK_SECRET": SECRET,
        "LATENTSYNC_WEBHOOK_RETRY_DELAYS_S": "0.3,0.3,0.3",
        "LATENTSYNC_ALLOW_PRIVATE_ADDRESSES": "1",
    }
    return process("-m", "tests.jobs.webhook_worker", name, **{**own, **environment})


def test_a_notice_is_sent_until_the_receiver_takes_it_and_then_forgotten(
    receiver: Receiver, signing: Settings, office: Office
) -> None:
    receiver.statuses = [503, 500]
    office.submit("a", receiver.url("hook"))
    with worker(signing):
        wait_until(lambda: office.notices() == ["SUCCESS"] * 3)
    first, second, third = receiver.received
    assert first.body == second.body == third.body
    assert len({call.headers["webhook-id"] for call in receiver.received}) == 1
    assert verified(third)["type"] == "prediction.succeeded"
    assert third.at - first.at >= 0.6
    assert office.delivery("a") == Delivery("delivered", 3)
    kinds = [(event.kind, event.data.get("attempts")) for event in office.store.events("a")]
    assert kinds[-3:] == [("webhook", 1), ("webhook", 2), ("webhook", 3)]
    office.maintain(keep_s=1000.0)
    assert len(office.notices()) == 3
    office.maintain(keep_s=0.0)
    assert office.notices() == []


def test_a_notice_that_nobody_takes_has_failed_in_the_end(
    receiver: Receiver, signing: Settings, office: Office
) -> None:
    receiver.statuses = [503] * 4
    office.submit("a", receiver.url("hook"))
    assert office.delivery("a") == Delivery("pending", 0)
    with worker(signing):
        wait_until(lambda: office.notices() == ["SUCCESS"] * 4)
    assert office.delivery("a") == Delivery("failed", 4, "the receiver answered 503")


def test_who_wanted_not_to_hear_of_an_end_waits_for_nothing(office: Office) -> None:
    for job_id, events in (("a", ("succeeded",)), ("b", ("canceled",))):
        new = NewJob(job_id, "o", {}, "f", webhook=Webhook("https://e.example/", events))
        record(office.store, new)
        assert office.delivery(job_id) == Delivery("pending", 0)
        office.store.cancel(job_id)
    assert office.delivery("a") is None
    assert office.delivery("b") == Delivery("pending", 0)


def test_nothing_is_recorded_of_a_job_that_is_forgotten(office: Office) -> None:
    (job,) = record(office.store, NewJob("a", "o", {}, "f"))
    record_delivery(office.store.engine, job.number + 1, Delivery("delivered", 1))
    assert [event.kind for event in office.store.events("a")] == ["status"]


def test_silent_receivers_delay_neither_jobs_nor_other_receivers(
    receiver: Receiver, signing: Settings, office: Office
) -> None:
    for number in range(20):
        office.submit(f"silent-{number}", receiver.url(f"silent/{number}"))
    office.submit("last", receiver.url("hook", "localhost"))
    with worker(signing, LATENTSYNC_WEBHOOK_TIMEOUT_S="120") as child:
        assert child.stdout.readline() == "open\n"
        wait_until(lambda: office.has_ended("last"))
        wait_until(lambda: any(call.path == "/hook" for call in receiver.received))
    assert len([call for call in receiver.received if "silent" in call.path]) <= 2


def die_while_sending(receiver: Receiver, signing: Settings, office: Office) -> None:
    """Kill a worker in the middle of telling a receiver, who listens from then on."""
    office.submit("a", receiver.url("silent"))
    with worker(signing, LATENTSYNC_WEBHOOK_TIMEOUT_S="120") as child:
        assert receiver.arrived.wait(60)
        child.kill()
    receiver.speaking.set()


def test_a_notice_survives_the_death_of_the_worker_that_sends_it(
    receiver: Receiver, signing: Settings, office: Office
) -> None:
    die_while_sending(receiver, signing, office)
    with worker(signing):
        wait_until(lambda: len(receiver.received) == 2)
    first, second = receiver.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body


def test_a_notice_whose_worker_never_returns_is_handed_to_another(
    receiver: Receiver, signing: Settings, office: Office
) -> None:
    die_while_sending(receiver, signing, office)
    with worker(signing, name="other"):
        office.maintain(lost_s=0.0)
        wait_until(lambda: len(receiver.received) == 2)
    first, second = receiver.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]


def test_a_job_canceled_before_any_worker_came_is_told_when_one_comes(
    receiver: Receiver, signing: Settings, office: Office
) -> None:
    office.submit("a", receiver.url("hook"))
    office.store.cancel("a")
    with worker(signing):
        wait_until(lambda: len(receiver.received) == 1)
    assert verified(receiver.received[0])["type"] == "prediction.canceled"


def test_what_is_told_is_what_the_api_shows(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTSYNC_WEBHOOK_SECRET", SECRET)
    with queue_server(tmp_path, worker=True) as server:
        asked = {"webhook": {"url": receiver.url("hook"), "events": ["succeeded"]}, "seed": 0}
        body = small_body(tmp_path, **asked)
        job = httpx.post(f"{server.url}/v1/predictions", json=body, headers=AUTH).json()
        url = f"{server.url}/v1/predictions/{job['id']}"

        def shown() -> Any:
            return httpx.get(url, headers=AUTH).json()

        wait_until(lambda: shown()["webhook"]["status"] != "pending")
        now = shown()
        events = httpx.get(f"{url}/events", headers=AUTH).text
    assert job["webhook"] == {"status": "pending", "attempts": 0, "reason": None}
    assert now.pop("webhook") == {"status": "delivered", "attempts": 1, "reason": None}
    assert now["status"] == "succeeded"
    told = verified(receiver.received[0])["data"]
    assert told.pop("webhook") == job["webhook"]
    assert told == now
    assert "event: webhook" in events
