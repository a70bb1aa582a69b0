"""Recovers jobs and webhook deliveries that no worker runs any more.

DBOS keeps which worker has dequeued a workflow, and requeues it on request. It notices by itself
only its own restart. This module finds the other workers that are dead, by their heartbeats, and
the jobs that were dequeued and never started.
"""

import logging
from collections.abc import Collection

from latentsync.jobs.models import Job, JobStatus
from latentsync.jobs.queue import JobQueue, PendingWorkflow
from latentsync.jobs.store import JobStore
from latentsync.worker.membership import WorkerRegistry

logger = logging.getLogger(__name__)


class Recovery:
    """Requeues what dead workers have left; for one thread.

    Args:
        store: of the jobs.
        queue: of the jobs.
        registry: knows which workers are alive.
        name: of this worker.
    """

    def __init__(
        self, store: JobStore, queue: JobQueue, registry: WorkerRegistry, name: str
    ) -> None:
        self._store = store
        self._queue = queue
        self._registry = registry
        self._name = name
        self._not_started: set[PendingWorkflow] = set()

    def recover_own(self) -> None:
        """Requeue what an earlier process of this worker has left; call it before dequeueing.

        DBOS does the same when it is launched, but in a thread: later jobs could start first.
        """
        for workflow in self._queue.pending(self._name):
            self._queue.recover(workflow)

    def run(self, pending: Collection[PendingWorkflow], at_work: Collection[str]) -> None:
        """Requeue the workflows of dead workers, and jobs that this worker did not start.

        Args:
            pending: from :meth:`JobQueue.pending`, read before the last heartbeat. A worker that
                registered and dequeued after it would be taken for dead otherwise.
            at_work: ids of the jobs that this worker runs.
        """
        living = self._registry.living()
        for workflow in pending:
            if workflow.worker not in living:
                self._recover_from_dead(workflow)
        # DBOS only logs an error between dequeueing a workflow and starting it. A job that is just
        # starting or ending looks the same, but only once.
        not_started = {
            workflow
            for workflow in pending
            if workflow.is_job and workflow.worker == self._name and workflow.id not in at_work
        }
        for workflow in not_started & self._not_started:
            if self._queue.recover(workflow):
                logger.warning("job %s: dequeued but not started; requeued", workflow.id)
        self._not_started = not_started

    def _recover_from_dead(self, workflow: PendingWorkflow) -> None:
        job = self._running_job(workflow)
        if job is not None:  # logged first: the line is refused once the next attempt has begun
            self._store.log(job, "Its worker stopped responding; the job is requeued.")
        if not self._queue.recover(workflow):
            return
        if job is None:
            logger.info("%s: its worker %s is gone; requeued", workflow.id, workflow.worker)
        else:
            logger.warning("job %s: its worker %s stopped responding", job.id, workflow.worker)

    def _running_job(self, workflow: PendingWorkflow) -> Job | None:
        """Return the job of the workflow if an attempt at it has begun and was not undone."""
        job = self._store.get(workflow.id) if workflow.is_job else None
        if job is None or job.status is not JobStatus.PROCESSING or job.started_at is None:
            return None
        return job
