"""Jobs that nobody works on any more find their way back into the line.

The line gives a restarted worker its own jobs again. What remains are jobs of workers that never
come back, and the few that a kill catches between two writes. Each is put into the line again;
at the worst it is begun once more, and the record lets only the latest attempt end it.
"""

import logging
from collections.abc import Collection

from latentsync.jobs.models import Job
from latentsync.jobs.queue import JobQueue
from latentsync.jobs.store import JobStore
from latentsync.worker.membership import WorkerRegistry

logger = logging.getLogger(__name__)

IDLE_S = 12.0  # a worker that has nothing to do for so long proves that the line is empty
_AT_ONCE = 20


class Recovery:
    """Looks every few seconds for jobs that fell out of the line; for one thread.

    Args:
        store: the record.
        queue: to the line.
        registry: which workers live.
        name: of this worker.
    """

    def __init__(
        self,
        store: JobStore,
        queue: JobQueue,
        registry: WorkerRegistry,
        name: str,
    ) -> None:
        self._store = store
        self._queue = queue
        self._registry = registry
        self._name = name
        self._mine_idle: set[tuple[str, int]] = set()  # id and attempts

    def look(self, at_work: Collection[str], idle_s: float) -> None:
        """Put lost jobs into the line.

        Args:
            at_work: ids of the jobs that this worker has in its hands.
            idle_s: how long it has had none.
        """
        running = self._store.processing()
        self._claim(running)
        self._find_mine(running, at_work)
        if idle_s > IDLE_S:
            self._find_waiting()

    def _claim(self, running: Collection[Job]) -> None:
        """Take over the jobs of workers that are silent; of several that try, one may."""
        living = self._registry.living()
        for job in running:
            if job.host not in living and self._store.claim(job, self._name):
                self._tell(job)
                self._queue.requeue(job.id)

    def _tell(self, job: Job) -> None:
        """Say why a job goes to another worker."""
        if job.started_at is None:  # it was handed back
            logger.info("job %s: its worker %s was stopped", job.id, job.host)
            return
        logger.warning("job %s: its worker %s is silent", job.id, job.host)
        self._store.log(job, "Its worker is silent: the job goes to another one.")

    def _find_mine(self, running: Collection[Job], at_work: Collection[str]) -> None:
        """Find jobs under this worker's name that it has not had in its hands for two looks."""
        idle = {
            (job.id, job.attempts)
            for job in running
            if job.host == self._name and job.id not in at_work
        }
        for job_id, _ in idle & self._mine_idle:
            logger.warning("job %s: nobody works on it", job_id)
            self._queue.requeue(job_id)
        self._mine_idle = idle

    def _find_waiting(self) -> None:
        """Find jobs that wait although the line has had nothing to give for a while."""
        for job in self._store.waiting(_AT_ONCE, waited_s=IDLE_S):
            logger.warning("job %s: it waits, but not in the line", job.id)
            self._queue.requeue(job.id)
