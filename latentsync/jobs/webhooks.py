"""Webhooks: who is told of a job's end, in which words, and how, by the Standard Webhooks rules.

A notice is written when its job ends and stays the same however often it is sent: receivers drop
doubles by ``webhook-id`` and trust a notice by ``webhook-signature``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from ipaddress import ip_address

import httpx
import standardwebhooks
from httpx_secure import SSRFProtectionError

from latentsync.errors import ForbiddenAddress, InvalidField, shorten
from latentsync.jobs.job import Job, Webhook
from latentsync.jobs.representation import represent
from latentsync.media.guard import (
    is_public,
    leads_to_public,
    open_guarded_client,
    parse_address,
    reason_of,
)
from latentsync.settings import Settings

logger = logging.getLogger(__name__)

_FIELD = "webhook"
_JITTER = 0.1  # part of a wait, so that notices which failed together do not come back together


@dataclass(frozen=True)
class Notice:
    """Word of one job's end for one receiver.

    Attributes:
        id: the same at every attempt.
        url: the receiver's address.
        body: JSON, ``{"type": "prediction.succeeded", "timestamp": …, "data": the prediction}``.
    """

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


def notice_of(job: Job, public_url: str | None) -> Notice | None:
    """Return the notice of a job that has ended; None if nobody wants one.

    Args:
        job: its times and its outcome are complete.
        public_url: put before the path of the result.
    """
    webhook = job.webhook
    if webhook is None or job.status not in webhook.events or job.finished_at is None:
        return None
    prediction = represent(job, queue_position=None)
    if prediction.output_url is not None and public_url is not None:
        url = public_url.rstrip("/") + prediction.output_url
        prediction = prediction.model_copy(update={"output_url": url})
    body = {
        "type": f"prediction.{job.status}",
        "timestamp": datetime.fromtimestamp(job.finished_at, UTC).isoformat(),
        "data": prediction.model_dump(mode="json"),
    }
    # The number tells apart two jobs that a caller gave one id, after the first was forgotten.
    return Notice(f"msg_{job.number}_{job.id}_{job.status}", webhook.url, json.dumps(body))


class WebhookSender:
    """Sends notices, one attempt at a time.

    Args:
        settings: the secret, the time limit, the waits between attempts, the address guard.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        secret = settings.webhook_secret
        self._signer = (
            None if secret is None else standardwebhooks.Webhook(secret.get_secret_value())
        )

    def send(self, notice: Notice, attempt: int) -> float | None:
        """Send a notice once. Must not run inside an event loop.

        Args:
            notice: what and where to.
            attempt: counts from 0.

        Returns:
            Seconds after which to try again; None if it has arrived or there is no use.
        """
        try:
            asyncio.run(self._post(notice))
        except _NoUse as error:
            logger.warning("webhook %s: %s; given up", notice.id, error)
            return None
        except Exception as error:  # whatever it was: a notice is lost only after all attempts
            delays_s = self._settings.webhook_retry_delays_s
            logger.warning("webhook %s: attempt %d: %s", notice.id, attempt + 1, reason_of(error))
            if attempt >= len(delays_s):
                logger.error("webhook %s: given up after %d attempts", notice.id, attempt + 1)
                return None
            return delays_s[attempt] * random.uniform(1.0, 1.0 + _JITTER)
        return None

    async def _post(self, notice: Notice) -> None:
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

    def _headers(self, notice: Notice) -> dict[str, str]:
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
