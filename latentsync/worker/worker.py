"""A worker: one device, one job at a time, and the housekeeping of the whole.

Started by the server beside itself, or by ``latentsync worker`` on any number of machines that
share a database and a file store.
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

_GREET_EVERY_S = 5.0
_TIDY_EVERY_S = 60.0
_TRY_AGAIN_S = 1.0  # after the database or the file store failed in the middle of a job
_HAND_BACK_S = 5.0  # for the job at work when the worker stops
_LOADING_S = 3600.0  # for a device that brings its weights at its first start


class Worker:
    """Takes jobs from the line and keeps house.

    Args:
        settings: database, file store, limits, and the worker's name.
        device: command that starts the process which holds the device.
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
        self._obstacle: Obstacle | None = None  # to the default engine, as it was logged
        self._rescue = Recovery(self._store, self._queue, self._registry, self._name)
        self._retention = Retention(self._store, self._queue, self._files, settings)
        self._erasure = Erasure(self._store, self._queue, self._files)
        self._stopping = Event()
        self._device = RunnerProcess(device)
        self._attempts = JobExecutor(
            self._store,
            self._files,
            self._device,
            DiskReserve(settings, self._files),
            self._name,
            Limits(
                settings.max_attempts,
                settings.deadline_s,
                _LOADING_S,
                # By then every result that fills the disk now has been removed.
                full_disk_s=settings.keep_results_s,
            ),
            self._stopping,
        )
        self._turn = Lock()
        self._at_work: set[str] = set()
        self._idle_since = time.monotonic()
        self._tidied_at = float("-inf")
        sender = WebhookSender(
            settings, partial(record_delivery, engine), partial(is_erased, engine)
        )
        self._exit = QueueConsumer(engine, self._name, self._run, sender.send)

    def serve(self) -> None:
        """Work until :meth:`stop`; the process must end right after, with :func:`os._exit`.

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
        self._queue.give_back(self._name)
        self._exit.open()
        logger.info("worker %s takes jobs", self._name)
        while not self._stopping.wait(_GREET_EVERY_S):
            self._maintain()
        if self._turn.acquire(timeout=_HAND_BACK_S):  # nothing is at work any more
            self._at_the_end(self._registry.leave)
        self._at_the_end(self._device.kill)  # before the last sweep: nobody comes after it
        sweep(self._settings.work_dir)
        logger.info("worker %s has stopped", self._name)

    def _at_the_end(self, step: Callable[[], None]) -> None:
        """Do one of the last steps; the process ends whether it succeeds or not."""
        try:
            step()
        except Exception as error:  # whoever is not told will miss this worker after a while
            if not _is_known(error):
                logger.exception("worker %s could not end in good order", self._name)

    def stop(self) -> None:
        """Stop soon; the job at work is begun again by whoever comes next, at no cost to it."""
        self._stopping.set()

    def _run(self, job_id: str) -> None:
        """Run one job to its end; a job that returns from here has left the line for good."""
        self._at_work.add(job_id)
        try:
            while not self._is_ended(job_id):
                time.sleep(_TRY_AGAIN_S)
        except WorkerStopping:
            # The line must not hear of an end: it keeps the job for whoever comes next.
            Event().wait()
        finally:
            self._idle_since = time.monotonic()
            self._at_work.discard(job_id)

    def _is_ended(self, job_id: str) -> bool:
        """Run a job; False if the record or the files failed, which must not lose the job."""
        with self._turn:  # jobs that come again after a crash are not limited to one by the line
            try:
                self._attempts.run(job_id)
                sweep(self._settings.work_dir)  # what a killed process of the device left behind
            except WorkerStopping:
                raise
            except Exception as error:
                if not _is_known(error):
                    logger.exception("job %s: the record or the files failed; trying again", job_id)
                return False
        return True

    def _heartbeat(self) -> None:
        self._registry.heartbeat(self._gpu.read(), self._survey())

    def _survey(self) -> EngineSurvey:
        """Return which engines can run here; what is installed or brought later counts, too."""
        found = survey_engines(self._settings)
        obstacle = found.obstacle(None)
        if obstacle is not None and obstacle != self._obstacle:
            logger.error("engine %s, the default, cannot run: %s", found.default, obstacle.reason)
        self._obstacle = obstacle
        return found

    def _maintain(self) -> None:
        try:
            self._heartbeat()
            idle_s = 0.0 if self._at_work else time.monotonic() - self._idle_since
            self._rescue.look(self._at_work.copy(), idle_s)
            sweep(self._settings.work_dir)
            self._erasure.resume()
            if time.monotonic() - self._tidied_at > _TIDY_EVERY_S:
                self._tidied_at = time.monotonic()
                self._retention.cleanup()
                self._queue.webhooks.maintain(self._settings.keep_results_s)
        except NameLost:  # its jobs are the other one's now
            logger.error("another worker has the name %s; this one stops", self._name)
            self.stop()
        except Exception as error:  # the next round tries again: work must not end over this
            if not _is_known(error):
                logger.exception("housekeeping failed")


def _is_known(error: Exception) -> bool:
    """Tell whether the record or the files are away for a while, which is logged in one line."""
    if isinstance(error, LatentSyncError):
        logger.warning("%s", error.message)
        return True
    return log_database_error(error) is not None


def main(settings: Settings, *, with_parent: bool, device: Sequence[str] = DEVICE) -> None:
    """Serve as a worker and end the process; SIGTERM and SIGINT stop it in good order.

    Args:
        settings: of the process.
        with_parent: end when standard input ends, which the parent holds open while it lives.
        device: command that starts the process which holds the device.

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
    os._exit(0)  # threads of the line still hold the job that was handed back


def _stop_with_parent(worker: Worker) -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    worker.stop()
