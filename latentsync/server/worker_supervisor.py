"""The worker beside a server: a process of its own, started again when it dies."""

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread

logger = logging.getLogger(__name__)

# Ends when its standard input does: this process holds the other end, and may die in any way.
COMMAND = (sys.executable, "-m", "latentsync", "worker", "--with-parent")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_HEALTHY_S = 60.0  # after so long a life, the next death counts as the first
_GOODBYE_S = 10.0  # for handing back the job at work


class WorkerProcess:
    """Keeps one worker running, with longer and longer pauses if it keeps dying.

    Args:
        command: what to run.
    """

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._command = list(command)
        self._stopping = Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = Thread(target=self._keep_running, name="worker process", daemon=True)

    def start(self) -> None:
        """Start it."""
        self._thread.start()

    def stop(self) -> None:
        """End it; the job at work is begun again after the next start."""
        self._stopping.set()
        process = self._process
        if process is not None and process.stdin is not None:
            process.stdin.close()
            process.terminate()  # heard sooner while it still starts
        self._thread.join(_GOODBYE_S)
        if self._thread.is_alive() and self._process is not None:
            self._process.kill()
            self._thread.join()

    @property
    def pid(self) -> int | None:
        """The process's id while there is one."""
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
            logger.warning("worker %s; restarting in %g s", _end(status), pause_s)
            self._stopping.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _run_once(self) -> int:
        # A session of its own: Ctrl-C at the terminal is for the server, which lets runs finish.
        with subprocess.Popen(
            self._command, stdin=subprocess.PIPE, start_new_session=True
        ) as process:
            self._process = process
            if self._stopping.is_set() and process.stdin is not None:
                process.stdin.close()  # stop() came between and saw no process
                process.terminate()
            return process.wait()


def _end(status: int) -> str:
    """Say how a process came to its end."""
    if status >= 0:
        return f"ended with exit code {status}"
    return f"was killed by {signal.Signals(-status).name}"


@contextmanager
def running_worker(command: Sequence[str] = COMMAND) -> Iterator[WorkerProcess]:
    """Run a worker for the block."""
    worker = WorkerProcess(command)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()
