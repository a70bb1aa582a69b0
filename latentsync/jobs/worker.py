"""A worker: one device, one job at a time, and the housekeeping of the whole.

Started by the server beside itself, or by ``latentsync worker`` on any number of machines that
share a database and a file store.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from threading import Event, Lock, Thread

from latentsync.jobs.attempt import Attempts, Limits
from latentsync.jobs.database import open_database
from latentsync.jobs.device_process import DeviceProcess
from latentsync.jobs.files import FileStore
from latentsync.jobs.line import LineEntrance, LineExit
from latentsync.jobs.retention import remove_old
from latentsync.jobs.store import JobStore
from latentsync.jobs.webhooks import WebhookSender
from latentsync.settings import Settings
from latentsync.workspace import sweep

logger = logging.getLogger(__name__)

_GREET_EVERY_S = 5.0
_SILENCE_S = 20.0  # after which a worker counts as dead and others take its jobs
_GRACE_S = 60.0  # beyond the longest deadline, for loading networks


class Worker:
    """Takes jobs from the line and keeps house.

    Args:
        settings: database, file store, limits, and the worker's name.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._name = settings.worker_name or f"{socket.gethostname()}/{settings.device}"
        engine = open_database(settings.jobs_database)
        self._entrance = LineEntrance(engine, settings.public_url)
        self._store = JobStore(engine, announce=self._entrance.webhooks.announce)
        self._files = FileStore(settings.storage)
        self._device = DeviceProcess()
        limits = Limits(settings.max_attempts, settings.deadline_s + _GRACE_S)
        self._attempts = Attempts(self._store, self._files, self._device, self._name, limits)
        self._turn = Lock()
        self._working_on: set[str] = set()
        self._stopping = Event()
        sender = WebhookSender(settings)
        self._exit = LineExit(engine, self._name, self._run, sender.send)

    def serve(self) -> None:
        """Work until :meth:`stop`."""
        sweep(self._settings.work_dir)
        self._store.greet(self._name)
        self._exit.open()
        logger.info("worker %s takes jobs", self._name)
        while not self._stopping.wait(_GREET_EVERY_S):
            self._keep_house()
        self._device.kill()

    def stop(self) -> None:
        """Stop soon; the job at work is begun again by whoever comes next."""
        self._stopping.set()

    def _run(self, job_id: str) -> None:
        """Run one job; jobs that come again after a crash are not limited by the line to one."""
        with self._turn:
            self._working_on.add(job_id)
            try:
                self._attempts.run(job_id)
            finally:
                self._working_on.discard(job_id)
            sweep(self._settings.work_dir)  # what a killed process of the device left behind

    def _keep_house(self) -> None:
        try:
            self._store.greet(self._name)
            for job in self._store.abandoned(_SILENCE_S):
                if self._store.adopt(job, self._name):
                    logger.warning("job %s: its worker %s is silent", job.id, job.host)
                    self._entrance.put_again(job.id)
            remove_old(self._store, self._files, self._settings)
            self._entrance.webhooks.keep_house(self._settings.keep_results_s)
        except Exception:  # the next round tries again: work must not end over housekeeping
            logger.exception("housekeeping failed")


def main(settings: Settings, *, with_parent: bool) -> None:
    """Serve as a worker.

    Args:
        settings: of the process.
        with_parent: end when standard input ends, which the parent holds open while it lives.
    """
    if with_parent:
        Thread(target=_end_with_parent, name="parent", daemon=True).start()
    Worker(settings).serve()


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(0)
