"""The child process that runs jobs on a device, one after another, until its parent is gone.

Started by :mod:`latentsync.worker.runner_process` in a process group of its own. The two exchange
lines of JSON over the socket whose number is the last argument::

    to the child   {"run": {"id": …, "request": …, "output_key": …}}, {"cancel": true}
    to the parent  {"ready": true}, {"progress": …}, {"log": line}, {"done": …} or {"error": …}

A crash in CUDA or a codec ends this process and costs one attempt of one job.
"""

import json
import logging
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from queue import Queue
from threading import Event, Lock, RLock, Thread
from typing import Any, NoReturn

from latentsync import runner
from latentsync.jobs.disk_space import DiskReserve
from latentsync.jobs.serialization import load_probes, load_request, stored_media
from latentsync.jobs.storage import Storage
from latentsync.monitor import Progress
from latentsync.pipelines.registry import PipelineCache
from latentsync.public_errors import to_public_error
from latentsync.settings import Settings
from latentsync.workspace import remove_own_folders, working_folder

LINES_MAX = 40  # per run; the runner logs about six and its warnings
LINE_CHARS = 300

# Paths of this machine and addresses, which may contain secrets, are not shown to callers.
_PATHS = re.compile(r"(?<![\w.])(?:[a-z][a-z0-9+.-]*:/)?/\S*|\bdata:\S+", re.IGNORECASE)
_SPACES = re.compile(r"[\s\x00-\x1f\x7f]+")


@contextmanager
def report_lines(send: Callable[[str], None]) -> Iterator[None]:
    """Pass on what the runner logs within the block, from INFO on, as plain lines.

    Paths, addresses and tracebacks are removed; length and number of lines are limited. The child
    runs one job at a time, so all lines belong to it.

    Args:
        send: called with each line, from the thread that logs.
    """
    source, handler = logging.getLogger(runner.__name__), _Lines(send)
    source.addHandler(handler)
    try:
        yield
    finally:
        source.removeHandler(handler)


def plain(text: str) -> str:
    """Return a text as one line of at most LINE_CHARS, without paths and addresses."""
    line = _PATHS.sub("…", _SPACES.sub(" ", text)).strip()
    return line if len(line) <= LINE_CHARS else f"{line[: LINE_CHARS - 1]}…"


class _Lines(logging.Handler):
    """Passes on the messages of the first LINES_MAX records."""

    def __init__(self, send: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._send = send
        self._sent = 0

    def emit(self, record: logging.LogRecord) -> None:
        if self._sent < LINES_MAX:
            self._sent += 1
            self._send(plain(record.getMessage()))


logger = logging.getLogger(__name__)

_STORAGE_TIMEOUT_S = 120.0  # for unreachable storage when a result is stored
_DISK_SPACE_TIMEOUT_S = 30.0  # for free space for a result; then the attempt fails
_REPORT_EVERY_S = 0.25  # for progress; changes of stage are always sent


class Runner:
    """Runs jobs and exchanges messages with the parent.

    Args:
        connection: to the parent.
        settings: of the process.
        engines: pipelines by engine.
    """

    def __init__(
        self, connection: socket.socket, settings: Settings, engines: PipelineCache
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._engines = engines
        self._files = Storage(settings.storage)
        self._reserve = DiskReserve(settings, self._files)
        self._tasks: Queue[dict[str, Any]] = Queue()
        self._canceled = Event()
        self._sending = Lock()

    def serve(self) -> None:
        """Run jobs until the parent is gone, which ends the process even during a run."""
        Thread(target=self._listen, name="parent", daemon=True).start()
        self._send({"ready": True})
        while True:
            self._run(self._tasks.get())

    def _listen(self) -> None:
        try:
            self._receive_messages()
        except ConnectionResetError:  # the parent was killed before it had read all messages
            pass
        except Exception:
            logger.exception("invalid message from the parent process")
        finally:
            end_group()

    def _receive_messages(self) -> None:
        """Handle messages until the parent is gone."""
        with self._connection.makefile("r", encoding="utf-8") as lines:
            for line in lines:
                message = json.loads(line)
                if "run" in message:
                    self._canceled.clear()
                    self._tasks.put(message["run"])
                else:
                    self._canceled.set()

    def _run(self, task: dict[str, Any]) -> None:
        try:
            done = self._make(task)
        except Exception as error:
            public_error = to_public_error(error, task["id"])
            self._send({"error": public_error.to_dict()})
        else:
            self._send({"done": done})

    def _make(self, task: dict[str, Any]) -> dict[str, Any]:
        dumped = task["request"]
        with working_folder(self._settings.work_dir) as folder, ExitStack() as stack:
            stored = {
                name: stack.enter_context(self._files.as_local_file(key, folder))
                for name, key in stored_media(dumped).items()
            }
            request = load_request(dumped, stored)
            roots = tuple(path.parent for path in stored.values())
            settings = self._settings.model_copy(update={"allowed_roots": roots})
            with report_lines(self._send_line):
                result = runner.run(
                    request,
                    folder / "result.mp4",
                    settings=settings,
                    pipeline=self._engines.get(request.options.engine),
                    probes=load_probes(dumped, self._settings),
                    on_progress=_Throttled(self._send),
                    canceled=self._canceled,
                )
            size_bytes = result.video_path.stat().st_size
            self._reserve.wait_to_store(
                size_bytes, patience_s=_DISK_SPACE_TIMEOUT_S, canceled=self._canceled
            )
            self._files.put_with_retry(
                result.video_path,
                task["output_key"],
                patience_s=_STORAGE_TIMEOUT_S,
                canceled=self._canceled,
            )
        return {"size_bytes": size_bytes, "details": result.details.model_dump(mode="json")}

    def _send_line(self, line: str) -> None:
        self._send({"log": line})

    def _send(self, message: dict[str, Any]) -> None:
        line = json.dumps(message).encode() + b"\n"
        try:
            with self._sending:
                self._connection.sendall(line)
        except OSError:  # a regular exit might wait for the threads of a codec for ever
            end_group()


_ending = RLock()  # never released


def end_group() -> NoReturn:
    """Kill this process and everything that it started.

    Its working folders are removed first, because no other process may be left to do so. A second
    thread waits here until the first has ended the group.
    """
    _ending.acquire()
    remove_own_folders()
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)  # started by hand in another group


class _Throttled:
    """Passes progress on at each change of stage and a few times a second."""

    def __init__(self, send: Any) -> None:
        self._send = send
        self._stage = ""
        self._sent_at = 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.stage == self._stage and now - self._sent_at < _REPORT_EVERY_S:
            return
        self._stage, self._sent_at = progress.stage, now
        self._send({"progress": asdict(progress)})


def main(engines: PipelineCache | None = None) -> None:
    """Entry point of the process.

    Args:
        engines: pipelines to use; by default those of the settings.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("latentsync").setLevel(logging.INFO)
    connection = socket.socket(fileno=int(sys.argv[-1]))
    settings = Settings()
    try:
        Runner(connection, settings, engines or PipelineCache(settings)).serve()
    except BaseException:
        logger.exception("the runner process failed")
        end_group()


if __name__ == "__main__":
    main()
