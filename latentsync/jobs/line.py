"""The durable line between those who hand jobs in and the workers: DBOS, behind a narrow seam.

A job's place in the line is written in the transaction that records the job. Whatever dies, a job
that was accepted is handed to a worker again until its workflow has ended. Jobs leave the line in
the order of their numbers, so one that comes again is served before all that came after it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSConfig, error

from latentsync.jobs.job import NewJob
from latentsync.jobs.line_log import tame_line_log
from latentsync.jobs.webhook_line import (
    WEBHOOKS,
    Send,
    WebhookEntrance,
    open_webhooks,
    register_sending,
)

_JOBS = "latentsync-jobs"
_WORKFLOW = "latentsync-run-job"
# Of the workflow below, not of this package: jobs of the version before must be found after an
# update, so it changes only when the workflow itself does.
_WORKFLOW_VERSION = "1"
_LOOK_EVERY_S = 0.1  # how soon a free worker sees a new job; each look costs it 2 ms


class LineEntrance:
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
        self.webhooks = WebhookEntrance(self._client, _WORKFLOW_VERSION, public_url)

    def put(self, connection: sa.Connection, job: NewJob, number: int) -> None:
        """Put a job into the line at its number, as part of the connection's transaction."""
        self._client.enqueue_in_transaction(
            connection,
            {
                "workflow_name": _WORKFLOW,
                "queue_name": _JOBS,
                "workflow_id": job.id,
                "app_version": _WORKFLOW_VERSION,
                "priority": number,
            },
            job.id,
        )

    def put_again(self, job_id: str) -> None:
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
            self.put_again(workflow.workflow_id)

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


class LineExit:
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
        @DBOS.workflow(name=_WORKFLOW, max_recovery_attempts=None)
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
            polling_interval_sec=_LOOK_EVERY_S,
            on_conflict="always_update",
        )
        open_webhooks()


def prepare_line(engine: sa.Engine) -> None:
    """Make or update the line's own tables."""
    tame_line_log()
    DBOS.migrate(engine.url.render_as_string(hide_password=False))
