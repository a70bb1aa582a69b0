"""What is told to whom, signed how, and what one attempt to tell it makes of the answer."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from latentsync.errors import ForbiddenAddress, InvalidField, LatentSyncError
from latentsync.jobs.models import Delivery, Job, JobError, JobStatus, Webhook
from latentsync.jobs.webhooks import WebhookMessage, WebhookSender, check_webhook, message_of
from latentsync.settings import Settings
from tests.jobs.receiver import SECRET, Receiver, running_receiver, verified

pytestmark = pytest.mark.processes


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


def a_notice(url: str) -> WebhookMessage:
    return WebhookMessage(7, "msg_1", url, "{}")


def sender(settings: Settings, told: list[Delivery] | None = None) -> WebhookSender:
    """Return a sender that tells how each attempt went."""
    kept = [] if told is None else told
    return WebhookSender(settings, lambda _number, delivery: kept.append(delivery))


# What is said, and to whom.


def test_a_notice_holds_the_prediction_as_the_api_shows_it() -> None:
    notice = message_of(a_job(), "https://api.example/lips/")
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
    notice = message_of(a_job(), None)
    assert notice is not None
    assert json.loads(notice.body)["data"]["output_url"] == "/v1/predictions/7f4c/output"


def test_by_default_the_result_is_at_the_address_at_which_the_job_was_handed_in() -> None:
    webhook = Webhook("https://receiver.example/", base_url="http://10.0.0.7:8000/lips")
    for public_url, beginning in (
        (None, "http://10.0.0.7:8000/lips"),
        ("https://a.example", "https://a.example"),
    ):
        notice = message_of(a_job(webhook=webhook), public_url)
        assert notice is not None
        told = json.loads(notice.body)["data"]["output_url"]
        assert told == f"{beginning}/v1/predictions/7f4c/output"


def test_a_failure_is_reported_with_its_reason() -> None:
    job = a_job(
        status=JobStatus.FAILED,
        error=JobError("NO_FACE", "video_url shows no face.", 422, "video_url"),
    )
    notice = message_of(job, None)
    assert notice is not None
    error = json.loads(notice.body)["data"]["error"]
    assert error == {
        "code": "NO_FACE",
        "message": "video_url shows no face.",
        "field": "video_url",
    }


def test_only_the_events_asked_for_are_told() -> None:
    failures = Webhook("https://receiver.example/", events=("failed",))
    assert message_of(a_job(webhook=failures), None) is None
    assert message_of(a_job(webhook=failures, status=JobStatus.FAILED), None) is not None
    assert message_of(a_job(webhook=None), None) is None


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


def test_nothing_is_sent_or_tried_again_of_a_job_that_is_erased(
    receiver: Receiver, signing: Settings
) -> None:
    notice, told = a_notice(receiver.url("hook")), list[Delivery]()
    gone = WebhookSender(signing, lambda _number, one: told.append(one), lambda _number: True)
    assert gone.send(notice, 0) is None
    assert (receiver.received, told) == ([], [])
    receiver.statuses = [503]
    answers = iter([False, True])  # it is erased while the receiver is asked
    late = WebhookSender(signing, lambda _number, one: told.append(one), lambda _: next(answers))
    assert late.send(notice, 0) is None
    assert len(receiver.received) == 1


def test_a_notice_is_signed_as_standard_webhooks_says(
    receiver: Receiver, signing: Settings
) -> None:
    notice = message_of(a_job(receiver.url("hook")), None)
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
        Delivery("failed", 1, "the receiver accepts no more webhooks (410)"),
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


def test_a_record_that_is_away_ends_no_attempts(receiver: Receiver, signing: Settings) -> None:
    def ask(_number: int) -> bool:
        raise OperationalError("SELECT", {}, Exception("the connection was closed"))

    receiver.statuses = [503]
    sending = WebhookSender(signing, lambda _number, _delivery: None, ask)
    assert sending.send(a_notice(receiver.url("hook")), 0) is not None
    assert len(receiver.received) == 1


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
