"""The durable line between those who hand jobs in and the workers: DBOS, behind a narrow seam.

A job's place in the line is written in the transaction that records the job. Whatever dies, a job
that was accepted is handed to a worker again until its workflow has ended. Jobs leave the line in
the order of their numbers, so one that comes again is served before all that came after it.

The durable line of notices: DBOS again, beside the line of jobs, so that neither waits.

A notice enters the line in the transaction that ends its job. Every attempt is a workflow of its
own; a failed one puts the next into the line with a delay, so nothing is held while it waits. A
receiver that does not answer takes up few of the attempts that a worker makes at once.

What the line's library logs, in the words and the form of this package's own log.
"""

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import httpx
import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSConfig, EnqueueOptions, error
from dbos import error as dbos_error

from latentsync.jobs.models import Job, NewJob
from latentsync.jobs.webhooks import WebhookMessage, message_id_of, message_of
from latentsync.public_errors import log_database_error

WEBHOOKS = "latentsync-webhooks"
_WEBHOOK_WORKFLOW = "latentsync-send-webhook"
_AT_ONCE = 16
_AT_ONCE_PER_HOST = 2
_POLL_WEBHOOKS_EVERY_S = 0.5
LOST_S = 900.0  # an attempt that takes this long, far beyond its limit, lost its worker
_TIDY_AT_ONCE = 200

Send = Callable[[WebhookMessage, int], float | None]


class WebhookQueue:
    """Puts notices into the line.

    Args:
        client: of the database of jobs.
        app_version: under which workers look for work.
        public_url: see :func:`latentsync.jobs.webhooks.message_of`.
    """

    def __init__(self, client: DBOSClient, app_version: str, public_url: str | None) -> None:
        self._client = client
        self._app_version = app_version
        self._public_url = public_url

    def announce(self, connection: sa.Connection, job: Job) -> None:
        """Put the notice of a job's end into the line, as part of the connection's transaction."""
        notice = message_of(job, self._public_url)
        if notice is not None:
            options = _options(notice, 0, self._app_version)
            self._client.enqueue_in_transaction(connection, options, asdict(notice), 0)

    def forget(self, job_number: int, job_id: str) -> None:
        """Remove all notices of a job, sent or not."""
        beginning = message_id_of(job_number, job_id)
        found = self._client.list_workflows(
            name=_WEBHOOK_WORKFLOW,
            workflow_id_prefix=beginning,
            load_input=False,
            load_output=False,
        )
        # In the search an underscore stands for any character.
        own = [one.workflow_id for one in found if one.workflow_id.startswith(beginning)]
        self._client.delete_workflows(own)

    def maintain(self, keep_s: float, lost_s: float = LOST_S) -> None:
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
            name=_WEBHOOK_WORKFLOW,
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

    @DBOS.step(name=f"{_WEBHOOK_WORKFLOW}-once")
    def send_once(notice: dict[str, Any], attempt: int) -> float | None:
        return send(WebhookMessage(**notice), attempt)

    @DBOS.workflow(name=_WEBHOOK_WORKFLOW, max_recovery_attempts=None)
    def send_webhook(notice: dict[str, Any], attempt: int) -> None:
        wait_s = send_once(notice, attempt)
        if wait_s is not None:
            options = _options(WebhookMessage(**notice), attempt + 1, app_version)
            options["delay_seconds"] = wait_s
            DBOS.enqueue_workflow_with_options(options, notice, attempt + 1)


def open_webhooks() -> None:
    """Begin to take notices from the line, after DBOS's launch."""
    DBOS.register_queue(
        WEBHOOKS,
        worker_concurrency=_AT_ONCE,
        partition_worker_concurrency=_AT_ONCE_PER_HOST,
        polling_interval_sec=_POLL_WEBHOOKS_EVERY_S,
        on_conflict="always_update",
    )


def _options(notice: WebhookMessage, attempt: int, app_version: str) -> EnqueueOptions:
    return {
        "workflow_name": _WEBHOOK_WORKFLOW,
        "queue_name": WEBHOOKS,
        "workflow_id": f"{notice.id}_{attempt}",
        "app_version": app_version,
        "queue_partition_key": httpx.URL(notice.url).host,
    }


def _ago(seconds: float) -> str:
    return datetime.fromtimestamp(datetime.now(UTC).timestamp() - seconds, UTC).isoformat()


_CANCELED = (
    dbos_error.DBOSAwaitedWorkflowCancelledError,
    dbos_error.DBOSWorkflowCancelledError,
)


def tame_queue_log() -> None:
    """Let DBOS log warnings as the rest of the process does, without what is no fault."""
    line = logging.getLogger("dbos")
    line.setLevel(logging.WARNING)
    line.handlers = [logging.NullHandler()]  # DBOS adds one of its own only where there is none
    line.propagate = True
    if _is_news not in line.filters:
        line.addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Tell whether a record is to be logged as it is.

    A database that is away for a while is said once, in one line. A job that is canceled in the
    moment in which a worker takes it is no failure of anything.
    """
    told = record.exc_info[1] if record.exc_info else None
    error = told or sys.exc_info()[1]  # which DBOS may have made a part of its text
    if error is None:
        return True
    return not isinstance(error, _CANCELED) and log_database_error(error) is None


_JOBS = "latentsync-jobs"
_JOB_WORKFLOW = "latentsync-run-job"
# Of the workflow below, not of this package: jobs of the version before must be found after an
# update, so it changes only when the workflow itself does.
_WORKFLOW_VERSION = "1"
_POLL_JOBS_EVERY_S = 0.1  # how soon a free worker sees a new job; each look costs it 2 ms


class JobQueue:
    """Puts jobs into the line; for processes that run none.

    Args:
        engine: the database of jobs, in which the line lies, too.
        public_url: address of the server, for webhooks.
    """

    def __init__(self, engine: sa.Engine, public_url: str | None = None) -> None:
        prepare_line(engine)
        self._client = DBOSClient(
            system_database_engine=engine,
            retry_connection_errors=False,  # callers hear at once that the database is away
        )
        self.webhooks = WebhookQueue(self._client, _WORKFLOW_VERSION, public_url)

    def put(self, connection: sa.Connection, job: NewJob, number: int) -> None:
        """Put a job into the line at its number, as part of the connection's transaction."""
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

    def requeue(self, job_id: str) -> None:
        """Hand a job to whoever is free, because the worker that had it is gone."""
        try:
            self._client.resume_workflow(job_id, queue_name=_JOBS)
        except error.DBOSNonExistentWorkflowError:  # somebody has just forgotten the job
            logging.getLogger(__name__).info("job %s is no longer in the line", job_id)

    def give_back(self, worker: str) -> None:
        """Put the jobs that a worker left unfinished into the line again, at their old places.

        Called before that worker takes any other: DBOS would do it beside that, and what came
        later could be begun first.
        """
        left = self._client.list_workflows(
            queue_name=_JOBS, status="PENDING", executor_id=worker, load_input=False
        )
        for workflow in left:
            self.requeue(workflow.workflow_id)

    def take_out(self, job_id: str) -> None:
        """Take a job that is no longer wanted out of the line."""
        self._client.cancel_workflow(job_id)

    def forget(self, job_ids: Sequence[str]) -> None:
        """Remove what the line still knows of jobs that have ended."""
        self._client.delete_workflows(list(job_ids))

    def is_at_work(self, job_id: str) -> bool:
        """Tell whether a worker has taken the job from the line and not yet let go of it."""
        taken = self._client.list_workflows(
            workflow_ids=[job_id], status="PENDING", load_input=False, load_output=False
        )
        return bool(taken)

    def close(self) -> None:
        """Let go of the database."""
        self._client.destroy()


class QueueConsumer:
    """Takes jobs from the line, one after the other, in a worker's process.

    Args:
        engine: as above.
        worker: name of this worker, the same after a restart: what it left is handed to it again.
        run: called with a job's id, in a thread; returns when the job needs no more work here.
        send: makes one attempt to send a webhook, in a thread, beside the jobs.
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

        # How often a job may be begun is the record's business, not the line's.
        @DBOS.workflow(name=_JOB_WORKFLOW, max_recovery_attempts=None)
        def run_job(job_id: str) -> None:
            run(job_id)

        register_sending(send, _WORKFLOW_VERSION)
        DBOS.listen_queues([_JOBS, WEBHOOKS])

    def open(self) -> None:
        """Begin to take jobs."""
        DBOS.launch()
        DBOS.register_queue(
            _JOBS,
            worker_concurrency=1,
            polling_interval_sec=_POLL_JOBS_EVERY_S,
            on_conflict="always_update",
        )
        open_webhooks()


def prepare_line(engine: sa.Engine) -> None:
    """Make or update the line's own tables."""
    tame_queue_log()
    DBOS.migrate(engine.url.render_as_string(hide_password=False))
