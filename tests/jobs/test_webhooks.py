from __future__ import annotations

import dataclasses
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
import standardwebhooks
from dbos import DBOSClient
from sqlalchemy.exc import OperationalError

from latentsync.errors import ForbiddenAddress, InvalidField, LatentSyncError
from latentsync.jobs.database import open_database
from latentsync.jobs.deliveries import find_delivery, record_delivery
from latentsync.jobs.job import Delivery, Job, JobError, JobStatus, NewJob, Webhook
from latentsync.jobs.line import LineEntrance
from latentsync.jobs.store import JobStore
from latentsync.jobs.webhook_line import WEBHOOKS
from latentsync.jobs.webhooks import Notice, WebhookSender, check_webhook, notice_of
from latentsync.settings import Settings
from tests.jobs.receiver import Received, Receiver, running_receiver
from tests.jobs.records import record
from tests.server.live import AUTH, process, small_body, wait_until
from tests.server.queues import queue_server

pytestmark = pytest.mark.processes

SECRET = "whsec_c2VjcmV0LW9mLXRoZS10ZXN0cy0wMTIzNDU2"
Start = Callable[[], subprocess.Popen[str]]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as server:
        yield server


@pytest.fixture
def signing(tmp_path: Path) -> Settings:
    """Settings of a worker that may call the receiver of these tests."""
    return Settings(
        data_dir=tmp_path / "data",
        webhook_secret=SECRET,
        webhook_timeout_s=20.0,
        webhook_retry_delays_s=(10.0, 100.0),
        allow_private_addresses=True,
    )


def a_job(url: str = "https://receiver.example/hook", **changes: Any) -> Job:
    job = Job(
        number=7,
        id="7f4c",
        owner="o",
        status=JobStatus.SUCCEEDED,
        request={"video": {"url": "https://secret.example/"}},
        fingerprint="f",
        created_at=1_700_000_000.0,
        started_at=1_700_000_001.0,
        finished_at=1_700_000_002.5,
        fraction=1.0,
        attempts=1,
        result_key="results/7f4c/abc.mp4",
        details={"seed": 1247},
        webhook=Webhook(url),
    )
    return dataclasses.replace(job, **changes)


def a_notice(url: str) -> Notice:
    return Notice(7, "msg_1", url, "{}")


def sender(settings: Settings, told: list[Delivery] | None = None) -> WebhookSender:
    """Return a sender that tells how each attempt went."""
    kept = [] if told is None else told
    return WebhookSender(settings, lambda _number, delivery: kept.append(delivery))


def verified(call: Received) -> dict[str, Any]:
    """Return what a call says, after the check that receivers are told to make."""
    content = standardwebhooks.Webhook(SECRET).verify(call.body, call.headers)
    assert isinstance(content, dict)
    return content


# What is said, and to whom.


def test_a_notice_holds_the_prediction_as_the_api_shows_it() -> None:
    notice = notice_of(a_job(), "https://api.example/lips/")
    assert notice is not None
    body = json.loads(notice.body)
    assert body["type"] == "prediction.succeeded"
    assert body["timestamp"] == "2023-11-14T22:13:22.500000+00:00"
    data = body["data"]
    assert (data["id"], data["status"], data["details"]) == ("7f4c", "succeeded", {"seed": 1247})
    assert data["output_url"] == "https://api.example/lips/v1/predictions/7f4c/output"
    assert "secret.example" not in notice.body
    assert "results/" not in notice.body


def test_without_a_public_address_the_result_is_named_by_its_path() -> None:
    notice = notice_of(a_job(), None)
    assert notice is not None
    assert json.loads(notice.body)["data"]["output_url"] == "/v1/predictions/7f4c/output"


def test_a_failure_is_told_with_its_reason() -> None:
    job = a_job(
        status=JobStatus.FAILED,
        error=JobError("NO_FACE", "video_url shows no face.", 422, "video_url"),
    )
    notice = notice_of(job, None)
    assert notice is not None
    error = json.loads(notice.body)["data"]["error"]
    assert error == {
        "code": "NO_FACE",
        "message": "video_url shows no face.",
        "field": "video_url",
    }


def test_only_the_events_asked_for_are_told() -> None:
    failures = Webhook("https://receiver.example/", events=("failed",))
    assert notice_of(a_job(webhook=failures), None) is None
    assert notice_of(a_job(webhook=failures, status=JobStatus.FAILED), None) is not None
    assert notice_of(a_job(webhook=None), None) is None


@pytest.mark.parametrize(
    ("url", "error", "words"),
    [
        ("ftp://receiver.example/", InvalidField, "only http and https"),
        ("https://me:secret@receiver.example/", InvalidField, "user name or password"),
        ("https:///path", InvalidField, "names no host"),
        ("http://127.0.0.1/", ForbiddenAddress, "not a public address"),
        ("http://169.254.169.254/latest", ForbiddenAddress, "not a public address"),
        ("http://[::1]/", ForbiddenAddress, "not a public address"),
        ("http://localhost:8000/", ForbiddenAddress, "not a public address"),
    ],
)
def test_a_webhook_that_could_never_be_called_is_refused(
    url: str, error: type[LatentSyncError], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        check_webhook(Webhook(url), Settings(webhook_secret=SECRET))
    assert caught.value.field == "webhook"


def test_a_webhook_is_refused_where_nothing_can_be_signed() -> None:
    with pytest.raises(InvalidField, match="LATENTSYNC_WEBHOOK_SECRET"):
        check_webhook(Webhook("https://receiver.example/"), Settings())


@pytest.mark.parametrize("secret", [SECRET.removeprefix("whsec_"), "whsec_c2hvcnQ=", "whsec_§"])
def test_a_weak_or_malformed_secret_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="whsec_ and 24 to 64 bytes"):
        Settings(webhook_secret=secret)


# One attempt.


def test_a_notice_is_signed_as_standard_webhooks_says(
    receiver: Receiver, signing: Settings
) -> None:
    notice = notice_of(a_job(receiver.url("hook")), None)
    assert notice is not None
    assert sender(signing).send(notice, 0) is None
    (call,) = receiver.received
    assert verified(call)["data"]["id"] == "7f4c"
    assert call.headers["webhook-id"] == notice.id
    assert abs(int(call.headers["webhook-timestamp"]) - time.time()) < 60
    assert call.headers["content-type"] == "application/json"


@pytest.mark.parametrize("status", [301, 307, 400, 404, 429, 500, 503])
def test_any_answer_but_a_success_is_tried_again_later(
    receiver: Receiver, signing: Settings, status: int
) -> None:
    sending, notice = sender(signing), a_notice(receiver.url("hook"))
    receiver.statuses = [status] * 3
    first, second = sending.send(notice, 0), sending.send(notice, 1)
    assert first is not None
    assert second is not None
    assert 10 <= first <= 11
    assert 100 <= second <= 110
    assert sending.send(notice, 2) is None  # the last one
    assert [call.path for call in receiver.received] == ["/hook"] * 3  # no redirect was followed


def test_a_receiver_that_is_gone_for_good_is_left_alone(
    receiver: Receiver, signing: Settings
) -> None:
    receiver.statuses = [410]
    assert sender(signing).send(a_notice(receiver.url("hook")), 0) is None


def test_every_attempt_is_told_with_the_reason_of_its_failure(
    receiver: Receiver, signing: Settings
) -> None:
    told: list[Delivery] = []
    sending, notice = sender(signing, told), a_notice(receiver.url("hook"))
    receiver.statuses = [500, 503, 404, 410]
    for attempt in (0, 1, 2, 0, 0):
        sending.send(notice, attempt)
    hasty = signing.model_copy(update={"webhook_timeout_s": 1.0})
    sender(hasty, told).send(a_notice(receiver.url("silent")), 0)
    assert told == [
        Delivery("pending", 1, "the receiver answered 500"),
        Delivery("pending", 2, "the receiver answered 503"),
        Delivery("failed", 3, "the receiver answered 404"),
        Delivery("failed", 1, "the receiver wants no more notices (410)"),
        Delivery("delivered", 1),
        Delivery("pending", 1, "the receiver did not answer within 1 s"),
    ]


def test_a_notice_is_sent_even_if_its_state_cannot_be_recorded(
    receiver: Receiver, signing: Settings
) -> None:
    def fail(_number: int, _delivery: Delivery) -> None:
        raise OperationalError("INSERT", {}, Exception("database is locked"))

    receiver.statuses = [500]
    sending, notice = WebhookSender(signing, fail), a_notice(receiver.url("hook"))
    assert sending.send(notice, 0) is not None
    assert sending.send(notice, 1) is None
    assert len(receiver.received) == 2


def test_a_receiver_that_does_not_listen_is_tried_again(signing: Settings) -> None:
    with running_receiver() as closed:
        url = closed.url("hook")
    assert sender(signing).send(a_notice(url), 0) is not None


@pytest.mark.parametrize("path", ["silent", "endless"])
def test_no_receiver_holds_a_worker_longer_than_the_time_limit(
    receiver: Receiver, signing: Settings, path: str
) -> None:
    hasty = signing.model_copy(update={"webhook_timeout_s": 3.0})
    started = time.monotonic()
    wait_s = sender(hasty).send(a_notice(receiver.url(path)), 0)
    assert time.monotonic() - started < 25  # the receiver would hold it for 30
    assert (wait_s is None) == (path == "endless")  # its status has come, its body is not read


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_private_addresses_are_never_called(
    receiver: Receiver, signing: Settings, host: str
) -> None:
    strict = signing.model_copy(update={"allow_private_addresses": False})
    assert sender(strict).send(a_notice(receiver.url("hook", host)), 0) is None
    assert receiver.received == []


def test_the_connection_to_a_receiver_is_guarded_too(
    receiver: Receiver, signing: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name may change its address after the check."""

    async def looks_public(*_: object) -> bool:
        return True

    monkeypatch.setattr("latentsync.jobs.webhooks.leads_to_public", looks_public)
    strict = signing.model_copy(update={"allow_private_addresses": False})
    url = receiver.url("hook", "localhost")
    assert sender(strict).send(a_notice(url), 0) is None
    assert receiver.received == []


# The line of notices: a database, a worker's process, a receiver.


class Office:
    """What a server has: the record, and the line into which it puts jobs."""

    def __init__(self, settings: Settings) -> None:
        engine = open_database(settings.jobs_database)
        self._entrance = LineEntrance(engine)
        self.store = JobStore(engine, announce=self._entrance.webhooks.announce)
        self._client = DBOSClient(system_database_engine=engine)

    def submit(self, job_id: str, url: str) -> Job:
        new = NewJob(job_id, "o", {}, "f", webhook=Webhook(url))
        (job,) = record(self.store, new, alongside=self._entrance.put)
        return job

    def keep_house(self, keep_s: float = 1000.0, lost_s: float = 1000.0) -> None:
        self._entrance.webhooks.keep_house(keep_s, lost_s)

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
    office.keep_house(keep_s=1000.0)
    assert len(office.notices()) == 3
    office.keep_house(keep_s=0.0)
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
    with worker(signing, LATENTSYNC_WEBHOOK_TIMEOUT_S="30") as child:
        assert child.stdout.readline() == "open\n"
        wait_until(lambda: office.has_ended("last"))
        wait_until(lambda: any(call.path == "/hook" for call in receiver.received))
    assert len([call for call in receiver.received if "silent" in call.path]) <= 2


def test_a_notice_survives_the_death_of_the_worker_that_sends_it(
    receiver: Receiver, signing: Settings, office: Office
) -> None:
    office.submit("a", receiver.url("silent"))
    with worker(signing, LATENTSYNC_WEBHOOK_TIMEOUT_S="30") as child:
        assert receiver.arrived.wait(60)
        child.kill()
    receiver.speaking.set()
    with worker(signing):
        wait_until(lambda: len(receiver.received) == 2)
    first, second = receiver.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body


def test_a_notice_whose_worker_never_returns_is_handed_to_another(
    receiver: Receiver, signing: Settings, office: Office
) -> None:
    office.submit("a", receiver.url("silent"))
    with worker(signing, LATENTSYNC_WEBHOOK_TIMEOUT_S="30") as child:
        assert receiver.arrived.wait(60)
        child.kill()
    receiver.speaking.set()
    with worker(signing, name="other"):
        office.keep_house(lost_s=0.0)
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
