"""Webhooks: messages, signing and sending as Standard Webhooks describes, and delivery state.

A message is written when its job ends and stays the same at every attempt: receivers drop
duplicates by ``webhook-id`` and verify ``webhook-signature``. Each attempt is stored as an event of
the job.
"""

import asyncio
import json
import logging
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from ipaddress import ip_address
from socket import gaierror

import httpx
import sqlalchemy as sa
import standardwebhooks
from httpx_secure import SSRFProtectionError
from sqlalchemy.exc import SQLAlchemyError

from latentsync.errors import ForbiddenAddress, InvalidField, shorten
from latentsync.jobs.database import events, jobs
from latentsync.jobs.models import Delivery, Job, Webhook
from latentsync.jobs.schemas import to_response
from latentsync.media.ssrf import (
    is_public,
    leads_to_public,
    open_guarded_client,
    parse_address,
    reason_of,
)
from latentsync.public_errors import log_database_error
from latentsync.settings import Settings

logger = logging.getLogger(__name__)

Record = Callable[[int, Delivery], None]

_FIELD = "webhook"
_JITTER = (
    0.1  # fraction of a delay, so that messages which failed together are not retried together
)


@dataclass(frozen=True)
class WebhookMessage:
    """Message to one receiver that a job has ended.

    Attributes:
        job_number: number of the job.
        id: the same at every attempt.
        url: the receiver's address.
        body: JSON, ``{"type": "prediction.succeeded", "timestamp": …, "data": the prediction}``.
    """

    job_number: int
    id: str
    url: str
    body: str


def check_webhook(webhook: Webhook, settings: Settings) -> None:
    """Refuse a webhook that can never be called, as far as its address alone shows.

    Raises:
        InvalidField: not a valid http(s) address, or this server has no secret to sign with.
        ForbiddenAddress: the address is an IP address or local name that is not public.
    """
    if settings.webhook_secret is None:
        raise InvalidField(
            "webhook cannot be used: this server has no LATENTSYNC_WEBHOOK_SECRET to sign with.",
            field=_FIELD,
        )
    try:
        host = parse_address(webhook.url).host
    except ValueError as error:
        message = f"webhook is {shorten(webhook.url)}: {error}."
        raise InvalidField(message, field=_FIELD) from None
    if not settings.allow_private_addresses and _is_private(host):
        raise ForbiddenAddress(
            f"webhook leads to {shorten(host)}, which is not a public address.", field=_FIELD
        )


def _is_private(host: str) -> bool:
    """Return whether a host is known without a DNS lookup not to be public."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return not is_public(ip_address(host.split("%")[0]))
    except ValueError:
        return False


def message_of(job: Job, public_url: str | None) -> WebhookMessage | None:
    """Return the message for a job that has ended; None if no webhook is to be called.

    Args:
        job: with its outcome and times.
        public_url: address of the server; by default the one to which the job was submitted.
    """
    webhook = job.webhook
    if webhook is None or job.status not in webhook.events or job.finished_at is None:
        return None
    base_url = public_url or webhook.base_url or ""
    prediction = to_response(job, queue_position=None, base_url=base_url, delivery=Delivery())
    body = {
        "type": f"prediction.{job.status}",
        "timestamp": datetime.fromtimestamp(job.finished_at, UTC).isoformat(),
        "data": prediction.model_dump(mode="json"),
    }
    message_id = message_id_of(job.number, job.id) + job.status
    return WebhookMessage(job.number, message_id, webhook.url, json.dumps(body))


def message_id_of(job_number: int, job_id: str) -> str:
    """Return the prefix of the ids of a job's messages."""
    # The number distinguishes jobs with the same id: it may be used again after a job is deleted.
    return f"msg_{job_number}_{job_id}_"


class WebhookSender:
    """Sends messages, one attempt at a time.

    Args:
        settings: the secret, the time limit, the retry delays, the address guard.
        record: called with the job's number and the state after each attempt.
        is_erased: returns whether the job of a number is being erased; nothing of it is sent then.
    """

    def __init__(
        self,
        settings: Settings,
        record: Record,
        is_erased: Callable[[int], bool] = lambda _number: False,
    ) -> None:
        self._settings = settings
        self._record = record
        self._is_erased = is_erased
        secret = settings.webhook_secret
        self._signer = (
            None if secret is None else standardwebhooks.Webhook(secret.get_secret_value())
        )

    def send(self, message: WebhookMessage, attempt: int) -> float | None:
        """Send a message once. Must not run inside an event loop.

        Args:
            message: what to send.
            attempt: counts from 0.

        Returns:
            Seconds until the next attempt; None if it was delivered or has failed for good.
        """
        if self._is_known_erased(message):
            return None
        reason = self._try(message)
        delivery = self._judge(reason, attempt)
        try:
            self._record(message.job_number, delivery)
        except SQLAlchemyError:  # the request was sent; only its state is missing
            logger.exception("webhook %s: its state could not be saved", message.id)
        if delivery.status == "delivered":
            return None
        logger.warning("webhook %s: attempt %d: %s", message.id, attempt + 1, delivery.reason)
        if delivery.status == "failed":
            logger.error("webhook %s: giving up after %d attempts", message.id, attempt + 1)
            return None
        if self._is_known_erased(message):  # meanwhile; the next attempt would contain the message
            return None
        delay_s = self._settings.webhook_retry_delays_s[attempt]
        return delay_s * random.uniform(1.0, 1.0 + _JITTER)

    def _is_known_erased(self, message: WebhookMessage) -> bool:
        """Return whether the job is erased; False while the database is unreachable.

        Maintenance removes the messages of an erased job in any case.
        """
        try:
            return self._is_erased(message.job_number)
        except SQLAlchemyError as error:
            if log_database_error(error) is None:
                raise
            return False

    def _try(self, message: WebhookMessage) -> Exception | None:
        """Send a message once; returns why it was not delivered."""
        try:
            asyncio.run(self._post(message))
        except (_Undeliverable, _NotDelivered) as error:
            return error
        except (TimeoutError, httpx.TimeoutException):
            limit_s = self._settings.webhook_timeout_s
            return _NotDelivered(f"the receiver did not answer within {limit_s:g} s")
        except (httpx.HTTPError, gaierror, UnicodeError) as error:  # of the network
            return _NotDelivered(reason_of(error))
        except Exception:  # a defect must not lose the message before its last attempt
            logger.exception("webhook %s: unexpected error", message.id)
            return _NotDelivered("unexpected error while sending")
        return None

    def _judge(self, reason: Exception | None, attempt: int) -> Delivery:
        if reason is None:
            return Delivery("delivered", attempt + 1)
        is_last = attempt >= len(self._settings.webhook_retry_delays_s)
        is_over = is_last or isinstance(reason, _Undeliverable)
        return Delivery("failed" if is_over else "pending", attempt + 1, str(reason))

    async def _post(self, message: WebhookMessage) -> None:
        """Send the message and check the status of the response; its body is not read."""
        async with asyncio.timeout(self._settings.webhook_timeout_s):
            url = parse_address(message.url)
            if not await leads_to_public(url, self._settings):
                raise _Undeliverable("the receiver's address is not public")
            client = open_guarded_client(self._settings, timeout_s=self._settings.webhook_timeout_s)
            headers = self._headers(message)
            try:
                async with (
                    client,
                    client.stream("POST", url, content=message.body, headers=headers) as answer,
                ):
                    _check(answer)
            except SSRFProtectionError:
                raise _Undeliverable("the receiver's address is not public") from None

    def _headers(self, message: WebhookMessage) -> dict[str, str]:
        if self._signer is None:
            raise _NotDelivered("this worker has no LATENTSYNC_WEBHOOK_SECRET")
        now = datetime.now(UTC)
        return {
            "content-type": "application/json",
            "webhook-id": message.id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._signer.sign(message.id, now, message.body),
        }


class _NotDelivered(Exception):
    """This attempt failed; another may succeed."""


class _Undeliverable(Exception):
    """No attempt can succeed."""


def _check(answer: httpx.Response) -> None:
    if answer.status_code == HTTPStatus.GONE:
        raise _Undeliverable("the receiver accepts no more webhooks (410)")
    if not answer.is_success:
        raise _NotDelivered(f"the receiver answered {answer.status_code}")


_KIND = "webhook"


def record_delivery(engine: sa.Engine, job_number: int, delivery: Delivery) -> None:
    """Save the delivery state after an attempt; nothing if the job has been deleted.

    Args:
        engine: of the jobs database.
        job_number: of the job; its id may belong to another job by now.
        delivery: state after the attempt.
    """
    chosen = sa.select(jobs.c.id).where(jobs.c.number == job_number)
    with engine.begin() as connection:
        job_id = connection.execute(chosen).scalar_one_or_none()
        if job_id is not None:
            event = {"job_id": job_id, "at": time.time(), "kind": _KIND, "data": asdict(delivery)}
            connection.execute(events.insert().values(event))


def find_delivery(engine: sa.Engine, job: Job) -> Delivery | None:
    """Return the delivery state of a job's webhook; None if it is not to be called."""
    if job.webhook is None:
        return None
    if not job.status.is_final:
        return Delivery()
    if job.status not in job.webhook.events:
        return None
    chosen = (
        sa.select(events.c.data)
        .where(events.c.job_id == job.id, events.c.kind == _KIND)
        .order_by(events.c.number.desc())
        .limit(1)
    )
    with engine.connect() as connection:
        found = connection.execute(chosen).scalar_one_or_none()
    return Delivery() if found is None else Delivery(**found)
