"""Runs a worker process next to the server and restarts it when it dies."""

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread

logger = logging.getLogger(__name__)

# The worker exits when its stdin closes, which happens however this process ends.
COMMAND = (sys.executable, "-m", "latentsync", "worker", "--with-parent")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_HEALTHY_S = 60.0  # the pauses restart after a run of this length
_STOP_TIMEOUT_S = 10.0  # for requeuing the running job


class WorkerProcess:
    """Keeps one worker process running, with exponential back-off if it keeps dying.

    Args:
        command: command line of the worker.
    """

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._command = list(command)
        self._stopping = Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = Thread(target=self._keep_running, name="worker process", daemon=True)

    def start(self) -> None:
        """Start the supervising thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the worker; a running job is requeued."""
        self._stopping.set()
        process = self._process
        if process is not None and process.stdin is not None:
            process.stdin.close()
            process.terminate()  # stdin is not watched yet while it starts
        self._thread.join(_STOP_TIMEOUT_S)
        if self._thread.is_alive() and self._process is not None:
            self._process.kill()
            self._thread.join()

    @property
    def pid(self) -> int | None:
        """Process id of the running worker, or None."""
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    def _keep_running(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            started = time.monotonic()
            status = self._run_once()
            if self._stopping.is_set():
                return
            if time.monotonic() - started > _HEALTHY_S:
                pause_s = _FIRST_PAUSE_S
            logger.warning("worker %s; restarting in %g s", _describe_exit(status), pause_s)
            self._stopping.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _run_once(self) -> int:
        # A new session, so that Ctrl-C reaches the server only, which lets runs finish.
        with subprocess.Popen(
            self._command, stdin=subprocess.PIPE, start_new_session=True
        ) as process:
            self._process = process
            if self._stopping.is_set() and process.stdin is not None:
                process.stdin.close()  # stop() was called before the process existed
                process.terminate()
            return process.wait()


def _describe_exit(status: int) -> str:
    """Describe an exit status."""
    if status >= 0:
        return f"ended with exit code {status}"
    return f"was killed by {signal.Signals(-status).name}"


@contextmanager
def running_worker(command: Sequence[str] = COMMAND) -> Iterator[WorkerProcess]:
    """Run a worker within the block."""
    worker = WorkerProcess(command)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()
