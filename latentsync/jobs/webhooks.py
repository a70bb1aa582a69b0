"""Webhooks: who is told of a job's end, in which words, and how, by the Standard Webhooks rules.

A notice is written when its job ends and stays the same however often it is sent: receivers drop
doubles by ``webhook-id`` and trust a notice by ``webhook-signature``.

How far the word of a job's end is: an event of the job for every attempt to tell it.
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
_JITTER = 0.1  # part of a wait, so that notices which failed together do not come back together


@dataclass(frozen=True)
class WebhookMessage:
    """Word of one job's end for one receiver.

    Attributes:
        job_number: of the job.
        id: the same at every attempt.
        url: the receiver's address.
        body: JSON, ``{"type": "prediction.succeeded", "timestamp": …, "data": the prediction}``.
    """

    job_number: int
    id: str
    url: str
    body: str


def check_webhook(webhook: Webhook, settings: Settings) -> None:
    """Refuse a webhook that could never be called; the rest shows when it is.

    Raises:
        InvalidField: no http(s) address of good form, or this server signs no webhooks.
        ForbiddenAddress: the address is spelled out and is not public.
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
    """Tell whether a host says without being looked up that it is not public."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return not is_public(ip_address(host.split("%")[0]))
    except ValueError:
        return False


def message_of(job: Job, public_url: str | None) -> WebhookMessage | None:
    """Return the notice of a job that has ended; None if nobody wants one.

    Args:
        job: its times and its outcome are complete.
        public_url: address of the server; by default the one at which the job was handed in.
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
    """Return what the ids of a job's notices begin with."""
    # The number tells apart two jobs that a caller gave one id, after the first was forgotten.
    return f"msg_{job_number}_{job_id}_"


class WebhookSender:
    """Sends notices, one attempt at a time.

    Args:
        settings: the secret, the time limit, the waits between attempts, the address guard.
        record: hears how each attempt for the job of a number went.
        is_erased: tells whether the job of a number is to be forgotten: nothing is sent of it.
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

    def send(self, notice: WebhookMessage, attempt: int) -> float | None:
        """Send a notice once. Must not run inside an event loop.

        Args:
            notice: what and where to.
            attempt: counts from 0.

        Returns:
            Seconds after which to try again; None if it has arrived or there is no use.
        """
        if self._is_known_erased(notice):
            return None
        reason = self._try(notice)
        delivery = self._judge(reason, attempt)
        try:
            self._record(notice.job_number, delivery)
        except SQLAlchemyError:  # what was sent is sent: only who asks does not see it
            logger.exception("webhook %s: its state could not be recorded", notice.id)
        if delivery.status == "delivered":
            return None
        logger.warning("webhook %s: attempt %d: %s", notice.id, attempt + 1, delivery.reason)
        if delivery.status == "failed":
            logger.error("webhook %s: given up after %d attempts", notice.id, attempt + 1)
            return None
        if self._is_known_erased(notice):  # meanwhile: the next attempt would hold the notice
            return None
        delay_s = self._settings.webhook_retry_delays_s[attempt]
        return delay_s * random.uniform(1.0, 1.0 + _JITTER)

    def _is_known_erased(self, notice: WebhookMessage) -> bool:
        """Tell whether the job is erased; while the record is away, as far as is known, not.

        Housekeeping removes the notices of an erased job whatever is answered here.
        """
        try:
            return self._is_erased(notice.job_number)
        except SQLAlchemyError as error:
            if log_database_error(error) is None:
                raise
            return False

    def _try(self, notice: WebhookMessage) -> Exception | None:
        """Send a notice once; returns why it did not arrive."""
        try:
            asyncio.run(self._post(notice))
        except (_NoUse, _Unsent) as error:
            return error
        except (TimeoutError, httpx.TimeoutException):
            limit_s = self._settings.webhook_timeout_s
            return _Unsent(f"the receiver did not answer within {limit_s:g} s")
        except (httpx.HTTPError, gaierror, UnicodeError) as error:  # of the net
            return _Unsent(reason_of(error))
        except Exception:  # whatever it was: a notice is lost only after all attempts
            logger.exception("webhook %s: a defect", notice.id)
            return _Unsent("sending it failed unexpectedly")
        return None

    def _judge(self, reason: Exception | None, attempt: int) -> Delivery:
        if reason is None:
            return Delivery("delivered", attempt + 1)
        is_last = attempt >= len(self._settings.webhook_retry_delays_s)
        is_over = is_last or isinstance(reason, _NoUse)
        return Delivery("failed" if is_over else "pending", attempt + 1, str(reason))

    async def _post(self, notice: WebhookMessage) -> None:
        """Send the notice and look at the status of the answer, never at its body."""
        async with asyncio.timeout(self._settings.webhook_timeout_s):
            url = parse_address(notice.url)
            if not await leads_to_public(url, self._settings):
                raise _NoUse("the receiver's address is not public")
            client = open_guarded_client(self._settings, timeout_s=self._settings.webhook_timeout_s)
            headers = self._headers(notice)
            try:
                async with (
                    client,
                    client.stream("POST", url, content=notice.body, headers=headers) as answer,
                ):
                    _check(answer)
            except SSRFProtectionError:
                raise _NoUse("the receiver's address is not public") from None

    def _headers(self, notice: WebhookMessage) -> dict[str, str]:
        if self._signer is None:
            raise _Unsent("this worker has no LATENTSYNC_WEBHOOK_SECRET")
        now = datetime.now(UTC)
        return {
            "content-type": "application/json",
            "webhook-id": notice.id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._signer.sign(notice.id, now, notice.body),
        }


class _Unsent(Exception):
    """The notice did not arrive this time."""


class _NoUse(Exception):
    """The notice will never arrive."""


def _check(answer: httpx.Response) -> None:
    if answer.status_code == HTTPStatus.GONE:
        raise _NoUse("the receiver wants no more notices (410)")
    if not answer.is_success:
        raise _Unsent(f"the receiver answered {answer.status_code}")


_KIND = "webhook"


def record_delivery(engine: sa.Engine, job_number: int, delivery: Delivery) -> None:
    """Note how an attempt went; nothing of a job that is forgotten.

    Args:
        engine: the database of jobs.
        job_number: which job; ids may have been given to other jobs since.
        delivery: how far it is now.
    """
    chosen = sa.select(jobs.c.id).where(jobs.c.number == job_number)
    with engine.begin() as connection:
        job_id = connection.execute(chosen).scalar_one_or_none()
        if job_id is not None:
            told = {"job_id": job_id, "at": time.time(), "kind": _KIND, "data": asdict(delivery)}
            connection.execute(events.insert().values(told))


def find_delivery(engine: sa.Engine, job: Job) -> Delivery | None:
    """Return how far the word of a job's end is; None if nobody is to hear of it."""
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
