"""The worker process: runs one job at a time on one device, and does maintenance.

Started by the server, or by ``latentsync worker`` on any number of machines that share a database
and storage.
"""

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from threading import Event, Lock, Thread

from latentsync.errors import LatentSyncError
from latentsync.jobs.database import open_database
from latentsync.jobs.disk_space import DiskReserve, check_folders
from latentsync.jobs.erasure import Erasure, is_erased
from latentsync.jobs.queue import JobQueue, QueueConsumer
from latentsync.jobs.retention import Retention
from latentsync.jobs.storage import Storage
from latentsync.jobs.store import JobStore
from latentsync.jobs.webhooks import WebhookSender, record_delivery
from latentsync.pipelines.registry import require_any_engine, survey_engines
from latentsync.public_errors import log_database_error
from latentsync.schema.engines import EngineSurvey, Obstacle
from latentsync.settings import Settings
from latentsync.worker.attempt import Limits, WorkerStopping
from latentsync.worker.executor import JobExecutor
from latentsync.worker.gpu_memory import GpuMemory
from latentsync.worker.membership import NameLost, WorkerRegistry, hold_name, lock_path
from latentsync.worker.recovery import Recovery
from latentsync.worker.runner_process import DEVICE, RunnerProcess
from latentsync.workspace import sweep

logger = logging.getLogger(__name__)

_HEARTBEAT_EVERY_S = 5.0
_CLEANUP_EVERY_S = 60.0
_RETRY_S = 1.0  # after the database or storage failed during a job
_STOP_TIMEOUT_S = 5.0  # for the running attempt to be undone when the worker stops
_LOADING_S = 3600.0  # for a child process that downloads weights at its first start


class Worker:
    """Runs jobs from the queue and does maintenance.

    Args:
        settings: database, storage, limits, and the worker's name.
        device: command that starts the child process.
    """

    def __init__(self, settings: Settings, device: Sequence[str] = DEVICE) -> None:
        check_folders(settings)
        self._settings = settings
        self._name = settings.worker_name or f"{socket.gethostname()}/{settings.device}"
        self._files = Storage(settings.storage)
        engine = open_database(settings.jobs_database)
        self._queue = JobQueue(engine, settings.public_url)
        self._store = JobStore(engine, announce=self._queue.webhooks.announce)
        self._registry = WorkerRegistry(engine, self._name)
        self._gpu = GpuMemory(settings.device)
        self._obstacle: Obstacle | None = None  # of the default engine, as logged last
        self._recovery = Recovery(self._store, self._queue, self._registry, self._name)
        self._retention = Retention(self._store, self._queue, self._files, settings)
        self._erasure = Erasure(self._store, self._queue, self._files)
        self._stopping = Event()
        self._device = RunnerProcess(device)
        self._executor = JobExecutor(
            self._store,
            self._files,
            self._device,
            DiskReserve(settings, self._files),
            self._name,
            Limits(
                settings.max_attempts,
                settings.deadline_s,
                _LOADING_S,
                # By then every result that fills the disk now has expired.
                full_disk_s=settings.keep_results_s,
            ),
            self._stopping,
        )
        self._busy = Lock()  # held during a job
        self._at_work: set[str] = set()
        self._cleaned_up_at = float("-inf")
        sender = WebhookSender(
            settings, partial(record_delivery, engine), partial(is_erased, engine)
        )
        self._consumer = QueueConsumer(engine, self._name, self._run, sender.send)

    def serve(self) -> None:
        """Run jobs until :meth:`stop`; the process must end right after, with :func:`os._exit`.

        Raises:
            InternalError: a worker of this name runs already, here or on another machine.
        """
        path = lock_path(self._settings, self._name)
        held = hold_name(path, self._name, wait=self._stopping.wait)
        sweep(self._settings.work_dir)
        if held is None or not self._registry.join(
            held.holder, self._stopping.wait, self._survey()
        ):
            return
        self._heartbeat()
        self._recovery.recover_own()
        self._consumer.start()
        logger.info("worker %s takes jobs", self._name)
        while not self._stopping.wait(_HEARTBEAT_EVERY_S):
            self._maintain()
        if self._busy.acquire(timeout=_STOP_TIMEOUT_S):  # no job runs any more
            self._shutdown_step(self._registry.leave)
        self._shutdown_step(self._device.kill)  # before the sweep, which is the last one
        sweep(self._settings.work_dir)
        logger.info("worker %s has stopped", self._name)

    def _shutdown_step(self, step: Callable[[], None]) -> None:
        """Do one step of the shutdown; the process ends whether it succeeds or not."""
        try:
            step()
        except Exception as error:  # other workers notice the missing heartbeat
            if not _is_known(error):
                logger.exception("worker %s could not shut down cleanly", self._name)

    def stop(self) -> None:
        """Stop soon; the running job is requeued without counting an attempt."""
        self._stopping.set()

    def _run(self, job_id: str) -> None:
        """Run one job to its end; its workflow ends when this returns."""
        self._at_work.add(job_id)
        try:
            while not self._is_ended(job_id):
                time.sleep(_RETRY_S)
        except WorkerStopping:
            # The workflow must stay pending, so that it is recovered.
            Event().wait()
        finally:
            self._at_work.discard(job_id)

    def _is_ended(self, job_id: str) -> bool:
        """Run a job; False if the database or storage failed, which must not lose the job."""
        with self._busy:
            try:
                self._executor.run(job_id)
                sweep(self._settings.work_dir)  # what a killed child process left
            except WorkerStopping:
                raise
            except Exception as error:
                if not _is_known(error):
                    logger.exception("job %s: unexpected error; trying again", job_id)
                return False
        return True

    def _heartbeat(self) -> None:
        self._registry.heartbeat(self._gpu.read(), self._survey())

    def _survey(self) -> EngineSurvey:
        """Return which engines can run here now; that may change after the start."""
        found = survey_engines(self._settings)
        obstacle = found.obstacle(None)
        if obstacle is not None and obstacle != self._obstacle:
            logger.error("the default engine %s cannot run: %s", found.default, obstacle.reason)
        self._obstacle = obstacle
        return found

    def _maintain(self) -> None:
        try:
            pending = self._queue.pending()  # before the heartbeat; see Recovery.run
            self._heartbeat()
            self._recovery.run(pending, self._at_work)
            sweep(self._settings.work_dir)
            self._erasure.resume()
            if time.monotonic() - self._cleaned_up_at > _CLEANUP_EVERY_S:
                self._cleaned_up_at = time.monotonic()
                self._retention.cleanup()
                self._queue.webhooks.maintain(self._settings.keep_results_s)
        except NameLost:  # the other one has recovered its jobs
            logger.error("another worker has the name %s; this one stops", self._name)
            self.stop()
        except Exception as error:  # maintenance must not end the worker; the next run tries again
            if not _is_known(error):
                logger.exception("maintenance failed")


def _is_known(error: Exception) -> bool:
    """Return whether the database or storage is unreachable, and log that in one line."""
    if isinstance(error, LatentSyncError):
        logger.warning("%s", error.message)
        return True
    return log_database_error(error) is not None


def main(settings: Settings, *, with_parent: bool, device: Sequence[str] = DEVICE) -> None:
    """Run a worker and end the process; SIGTERM and SIGINT stop it cleanly.

    Args:
        settings: of the process.
        with_parent: end when standard input ends, which the parent keeps open while it lives.
        device: command that starts the child process.

    Raises:
        EngineUnavailable: no engine can run here.
    """
    require_any_engine(settings)
    worker = Worker(settings, device)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: worker.stop())
    if with_parent:
        Thread(target=_stop_with_parent, args=(worker,), name="parent", daemon=True).start()
    worker.serve()
    logging.shutdown()
    os._exit(0)  # a thread of DBOS still holds the job that is to be recovered


def _stop_with_parent(worker: Worker) -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    worker.stop()
