"""Durable queues of jobs and of webhook deliveries, on DBOS.

A job is enqueued in the transaction that stores it, as a DBOS workflow with the job's id. Jobs are
dequeued in the order of their numbers, so a requeued job comes before all later ones. A workflow is
requeued until it has ended.

Webhook deliveries have a queue of their own, so that they and the jobs do not delay each other. The
first attempt is enqueued in the transaction that ends the job. Each attempt is a workflow; a failed
one enqueues the next with a delay. Concurrency per receiver is limited, so that a receiver that
does not answer does not block the others.
"""

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSConfig, EnqueueOptions
from dbos import error as dbos_error

from latentsync.jobs.models import Job, NewJob
from latentsync.jobs.webhooks import WebhookMessage, message_id_of, message_of
from latentsync.public_errors import log_database_error

WEBHOOKS = "latentsync-webhooks"
_WEBHOOK_WORKFLOW = "latentsync-send-webhook"
_CONCURRENCY = 16
_CONCURRENCY_PER_RECEIVER = 2
_POLL_WEBHOOKS_EVERY_S = 0.5
LOST_S = 900.0  # a delivery attempt that takes this long, far beyond its limit, was lost
_BATCH = 200

Send = Callable[[WebhookMessage, int], float | None]


class WebhookQueue:
    """Enqueues webhook deliveries.

    Args:
        client: of the jobs database.
        app_version: version for which workers dequeue.
        public_url: see :func:`latentsync.jobs.webhooks.message_of`.
    """

    def __init__(self, client: DBOSClient, app_version: str, public_url: str | None) -> None:
        self._client = client
        self._app_version = app_version
        self._public_url = public_url

    def announce(self, connection: sa.Connection, job: Job) -> None:
        """Enqueue the webhook of an ended job, as part of the connection's transaction."""
        message = message_of(job, self._public_url)
        if message is not None:
            options = _options(message, 0, self._app_version)
            self._client.enqueue_in_transaction(connection, options, asdict(message), 0)

    def delete(self, job_number: int, job_id: str) -> None:
        """Delete all messages of a job, sent or not."""
        prefix = message_id_of(job_number, job_id)
        found = self._client.list_workflows(
            name=_WEBHOOK_WORKFLOW,
            workflow_id_prefix=prefix,
            load_input=False,
            load_output=False,
        )
        # The search is a LIKE, in which an underscore matches any character.
        own = [one.workflow_id for one in found if one.workflow_id.startswith(prefix)]
        self._client.delete_workflows(own)

    def maintain(self, keep_s: float, lost_s: float = LOST_S) -> None:
        """Requeue lost attempts and delete old ones.

        Attempts of dead workers are recovered like jobs; see :meth:`JobQueue.recover`. This finds
        those that a live worker dequeued and failed to start.

        Args:
            keep_s: attempts that ended longer ago are deleted.
            lost_s: attempts that began longer ago and have not ended are requeued.
        """
        for status in self._client.list_workflows(
            queue_name=WEBHOOKS,
            status="PENDING",
            dequeued_before=_ago(lost_s),
            load_input=False,
            limit=_BATCH,
        ):
            self._client.resume_workflow(status.workflow_id, queue_name=WEBHOOKS)
        old = self._client.list_workflows(
            name=_WEBHOOK_WORKFLOW,
            completed_before=_ago(keep_s),
            load_input=False,
            load_output=False,
            limit=_BATCH,
        )
        self._client.delete_workflows([status.workflow_id for status in old])


def register_sending(send: Send, app_version: str) -> None:
    """Register the delivery workflow; call it before DBOS is launched.

    Args:
        send: makes one attempt; see :meth:`latentsync.jobs.webhooks.WebhookSender.send`.
        app_version: version for which workers dequeue.
    """

    @DBOS.step(name=f"{_WEBHOOK_WORKFLOW}-once")
    def send_once(message: dict[str, Any], attempt: int) -> float | None:
        return send(WebhookMessage(**message), attempt)

    @DBOS.workflow(name=_WEBHOOK_WORKFLOW, max_recovery_attempts=None)
    def send_webhook(message: dict[str, Any], attempt: int) -> None:
        wait_s = send_once(message, attempt)
        if wait_s is not None:
            options = _options(WebhookMessage(**message), attempt + 1, app_version)
            options["delay_seconds"] = wait_s
            DBOS.enqueue_workflow_with_options(options, message, attempt + 1)


def start_webhooks() -> None:
    """Start to dequeue webhook deliveries; call it after DBOS is launched."""
    DBOS.register_queue(
        WEBHOOKS,
        worker_concurrency=_CONCURRENCY,
        partition_worker_concurrency=_CONCURRENCY_PER_RECEIVER,
        polling_interval_sec=_POLL_WEBHOOKS_EVERY_S,
        on_conflict="always_update",
    )


def _options(message: WebhookMessage, attempt: int, app_version: str) -> EnqueueOptions:
    return {
        "workflow_name": _WEBHOOK_WORKFLOW,
        "queue_name": WEBHOOKS,
        "workflow_id": f"{message.id}_{attempt}",
        "app_version": app_version,
        "queue_partition_key": httpx.URL(message.url).host,
    }


def _ago(seconds: float) -> str:
    return datetime.fromtimestamp(datetime.now(UTC).timestamp() - seconds, UTC).isoformat()


_CANCELED = (
    dbos_error.DBOSAwaitedWorkflowCancelledError,
    dbos_error.DBOSWorkflowCancelledError,
)


def configure_dbos_logging() -> None:
    """Log the warnings of DBOS like those of this package, without expected events."""
    dbos_logger = logging.getLogger("dbos")
    dbos_logger.setLevel(logging.WARNING)
    dbos_logger.handlers = [logging.NullHandler()]  # DBOS adds a handler only if there is none
    dbos_logger.propagate = True
    if _should_log not in dbos_logger.filters:
        dbos_logger.addFilter(_should_log)


def _should_log(record: logging.LogRecord) -> bool:
    """Return whether to log a record of DBOS.

    An unreachable database is logged once by this package. A job that is canceled while a worker
    dequeues it is not an error.
    """
    logged = record.exc_info[1] if record.exc_info else None
    error = logged or sys.exc_info()[1]  # DBOS sometimes puts the error only into the text
    if error is None:
        return True
    return not isinstance(error, _CANCELED) and log_database_error(error) is None


_JOBS = "latentsync-jobs"
_JOB_WORKFLOW = "latentsync-run-job"
# Version of the workflow below, not of this package: workers must dequeue jobs that an earlier
# version enqueued, so it changes only with the workflow itself.
_WORKFLOW_VERSION = "1"
_POLL_JOBS_EVERY_S = 0.1  # how soon a free worker sees a new job; a poll takes 2 ms


@dataclass(frozen=True)
class PendingWorkflow:
    """A workflow that was dequeued and has not ended.

    Attributes:
        id: of a job, or of one attempt to deliver a webhook.
        worker: name of the worker that dequeued it.
        queue: name of its queue.
    """

    id: str
    worker: str
    queue: str

    @property
    def is_job(self) -> bool:
        return self.queue == _JOBS


class JobQueue:
    """Enqueues and manages jobs, without running any.

    Args:
        engine: of the jobs database, which also holds the queue.
        public_url: address of the server, for webhooks.
    """

    def __init__(self, engine: sa.Engine, public_url: str | None = None) -> None:
        migrate_queue(engine)
        self._client = DBOSClient(
            system_database_engine=engine,
            retry_connection_errors=False,  # callers get the error at once
        )
        self.webhooks = WebhookQueue(self._client, _WORKFLOW_VERSION, public_url)

    def put(self, connection: sa.Connection, job: NewJob, number: int) -> None:
        """Enqueue a job with its number as priority, as part of the connection's transaction."""
        self._client.enqueue_in_transaction(
            connection,
            {
                "workflow_name": _JOB_WORKFLOW,
                "queue_name": _JOBS,
                "workflow_id": job.id,
                "app_version": _WORKFLOW_VERSION,
                "priority": number,
            },
            job.id,
        )

    def pending(self, worker: str | None = None) -> list[PendingWorkflow]:
        """Return the workflows that a worker, or any worker, has dequeued and not ended."""
        found = self._client.list_workflows(
            status="PENDING", executor_id=worker, load_input=False, load_output=False
        )
        return [
            PendingWorkflow(one.workflow_id, one.executor_id, one.queue_name)
            for one in found
            if one.executor_id is not None and one.queue_name is not None
        ]

    def recover(self, workflow: PendingWorkflow) -> bool:
        """Put a workflow back into its queue, at its old priority.

        Returns:
            False if it has ended, is deleted, or is not that worker's any more: if several
            processes recover one workflow, only one of them does.
        """
        # What DBOS itself does for each workflow of an executor that it recovers. DBOS's public
        # resume_workflow has no such condition: it also requeues what another worker runs by now.
        return self._client._sys_db.reenqueue_for_recovery(
            workflow.id, [workflow.worker], workflow.queue
        )

    def take_out(self, job_id: str) -> None:
        """Remove a canceled job from the queue."""
        self._client.cancel_workflow(job_id)

    def delete(self, job_ids: Sequence[str]) -> None:
        """Delete the workflows of jobs that have ended."""
        self._client.delete_workflows(list(job_ids))

    def is_at_work(self, job_id: str) -> bool:
        """Return whether a worker has dequeued the job and its workflow has not ended."""
        taken = self._client.list_workflows(
            workflow_ids=[job_id], status="PENDING", load_input=False, load_output=False
        )
        return bool(taken)

    def close(self) -> None:
        """Close the connections to the database."""
        self._client.destroy()


class QueueConsumer:
    """Dequeues jobs, one at a time, and webhook deliveries, in a worker process.

    Args:
        engine: of the jobs database.
        worker: name of this worker, which it keeps after a restart; DBOS's executor id.
        run: called with a job's id, in a thread; returns when the job has ended or has been taken
            over by another worker.
        send: makes one attempt to deliver a webhook, in a thread of its own.
    """

    def __init__(
        self, engine: sa.Engine, worker: str, run: Callable[[str], None], send: Send
    ) -> None:
        config: DBOSConfig = {
            "name": "latentsync",
            "system_database_engine": engine,
            "executor_id": worker,
            "application_version": _WORKFLOW_VERSION,
            "log_level": "WARNING",
            "console_log_level": "WARNING",
        }
        DBOS(config=config)

        # Attempts are counted in the jobs table; DBOS counts every time it dequeues.
        @DBOS.workflow(name=_JOB_WORKFLOW, max_recovery_attempts=None)
        def run_job(job_id: str) -> None:
            run(job_id)

        register_sending(send, _WORKFLOW_VERSION)
        DBOS.listen_queues([_JOBS, WEBHOOKS])

    def start(self) -> None:
        """Start to dequeue."""
        DBOS.launch()
        DBOS.register_queue(
            _JOBS,
            worker_concurrency=1,
            polling_interval_sec=_POLL_JOBS_EVERY_S,
            on_conflict="always_update",
        )
        start_webhooks()


def migrate_queue(engine: sa.Engine) -> None:
    """Create or update the tables of DBOS."""
    configure_dbos_logging()
    DBOS.migrate(engine.url.render_as_string(hide_password=False))
