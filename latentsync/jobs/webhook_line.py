"""The durable line of notices: DBOS again, beside the line of jobs, so that neither waits.

A notice enters the line in the transaction that ends its job. Every attempt is a workflow of its
own; a failed one puts the next into the line with a delay, so nothing is held while it waits. A
receiver that does not answer takes up few of the attempts that a worker makes at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import httpx
import sqlalchemy as sa
from dbos import DBOS, DBOSClient, EnqueueOptions

from latentsync.jobs.job import Job
from latentsync.jobs.webhooks import Notice, message_id_of, notice_of

WEBHOOKS = "latentsync-webhooks"
_WORKFLOW = "latentsync-send-webhook"
_AT_ONCE = 16
_AT_ONCE_PER_HOST = 2
_LOOK_EVERY_S = 0.5
LOST_S = 900.0  # an attempt that takes this long, far beyond its limit, lost its worker
_TIDY_AT_ONCE = 200

Send = Callable[[Notice, int], float | None]


class WebhookEntrance:
    """Puts notices into the line.

    Args:
        client: of the database of jobs.
        app_version: under which workers look for work.
        public_url: see :func:`latentsync.jobs.webhooks.notice_of`.
    """

    def __init__(self, client: DBOSClient, app_version: str, public_url: str | None) -> None:
        self._client = client
        self._app_version = app_version
        self._public_url = public_url

    def announce(self, connection: sa.Connection, job: Job) -> None:
        """Put the notice of a job's end into the line, as part of the connection's transaction."""
        notice = notice_of(job, self._public_url)
        if notice is not None:
            options = _options(notice, 0, self._app_version)
            self._client.enqueue_in_transaction(connection, options, asdict(notice), 0)

    def forget(self, job_number: int, job_id: str) -> None:
        """Remove all notices of a job, sent or not."""
        beginning = message_id_of(job_number, job_id)
        found = self._client.list_workflows(
            name=_WORKFLOW, workflow_id_prefix=beginning, load_input=False, load_output=False
        )
        # In the search an underscore stands for any character.
        own = [one.workflow_id for one in found if one.workflow_id.startswith(beginning)]
        self._client.delete_workflows(own)

    def keep_house(self, keep_s: float, lost_s: float = LOST_S) -> None:
        """Hand on notices whose worker is gone; forget those of long ago.

        Args:
            keep_s: an attempt that ended so long ago is forgotten.
            lost_s: one that began so long ago and has not ended is made again.
        """
        for status in self._client.list_workflows(
            queue_name=WEBHOOKS,
            status="PENDING",
            dequeued_before=_ago(lost_s),
            load_input=False,
            limit=_TIDY_AT_ONCE,
        ):
            self._client.resume_workflow(status.workflow_id, queue_name=WEBHOOKS)
        old = self._client.list_workflows(
            name=_WORKFLOW,
            completed_before=_ago(keep_s),
            load_input=False,
            load_output=False,
            limit=_TIDY_AT_ONCE,
        )
        self._client.delete_workflows([status.workflow_id for status in old])


def register_sending(send: Send, app_version: str) -> None:
    """Tell DBOS, before its launch, how a worker sends notices.

    Args:
        send: makes one attempt; see :meth:`latentsync.jobs.webhooks.WebhookSender.send`.
        app_version: as above.
    """

    @DBOS.step(name=f"{_WORKFLOW}-once")
    def send_once(notice: dict[str, Any], attempt: int) -> float | None:
        return send(Notice(**notice), attempt)

    @DBOS.workflow(name=_WORKFLOW, max_recovery_attempts=None)
    def send_webhook(notice: dict[str, Any], attempt: int) -> None:
        wait_s = send_once(notice, attempt)
        if wait_s is not None:
            options = _options(Notice(**notice), attempt + 1, app_version)
            options["delay_seconds"] = wait_s
            DBOS.enqueue_workflow_with_options(options, notice, attempt + 1)


def open_webhooks() -> None:
    """Begin to take notices from the line, after DBOS's launch."""
    DBOS.register_queue(
        WEBHOOKS,
        worker_concurrency=_AT_ONCE,
        partition_worker_concurrency=_AT_ONCE_PER_HOST,
        polling_interval_sec=_LOOK_EVERY_S,
        on_conflict="always_update",
    )


def _options(notice: Notice, attempt: int, app_version: str) -> EnqueueOptions:
    return {
        "workflow_name": _WORKFLOW,
        "queue_name": WEBHOOKS,
        "workflow_id": f"{notice.id}_{attempt}",
        "app_version": app_version,
        "queue_partition_key": httpx.URL(notice.url).host,
    }


def _ago(seconds: float) -> str:
    return datetime.fromtimestamp(datetime.now(UTC).timestamp() - seconds, UTC).isoformat()
