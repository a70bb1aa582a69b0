"""The process that holds a device: it runs one job after another until its parent is gone.

Started by :mod:`latentsync.worker.runner_process`, in a process group of its own. Both talk in
lines of JSON over the socket whose number is the last argument::

    to here    {"run": {"id": …, "request": …, "output_key": …}}, {"cancel": true}
    from here  {"ready": true}, {"progress": …}, {"log": line}, {"done": …} or {"error": …}

A crash of CUDA or of a codec ends this process and costs one attempt of one job, no more.

What the runner logs of a run, as lines that its caller may read.

The process of a device runs one job at a time, so whatever the runner says meanwhile is said of it.
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

LINES_MAX = 40  # of one run; the runner says about six
LINE_CHARS = 300

# Neither a folder of this machine nor an address with its secrets is the caller's to read.
_PLACES = re.compile(r"(?<![\w.])(?:[a-z][a-z0-9+.-]*:/)?/\S*|\bdata:\S+", re.IGNORECASE)
_SPACES = re.compile(r"[\s\x00-\x1f\x7f]+")


@contextmanager
def report_lines(tell: Callable[[str], None]) -> Iterator[None]:
    """Pass on what the runner logs within the block, from INFO on, as plain lines.

    Places are left out, tracebacks too, and what is too long or too much is cut.

    Args:
        tell: called with each line, from the thread that logs.
    """
    source, handler = logging.getLogger(runner.__name__), _Lines(tell)
    source.addHandler(handler)
    try:
        yield
    finally:
        source.removeHandler(handler)


def plain(text: str) -> str:
    """Return a text as one line without paths and addresses, LINE_CHARS long at most."""
    line = _PLACES.sub("…", _SPACES.sub(" ", text)).strip()
    return line if len(line) <= LINE_CHARS else f"{line[: LINE_CHARS - 1]}…"


class _Lines(logging.Handler):
    """Tells the first LINES_MAX records, each as its message alone."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._tell = tell
        self._told = 0

    def emit(self, record: logging.LogRecord) -> None:
        if self._told < LINES_MAX:
            self._told += 1
            self._tell(plain(record.getMessage()))


logger = logging.getLogger(__name__)

_STORE_PATIENCE_S = 120.0  # for a store of files that is away when a video is finished
_ROOM_PATIENCE_S = 30.0  # for room in it; then the job waits for that before it is begun again
_REPORT_EVERY_S = 0.25  # progress beyond this is left out, changes of stage are not


class Runner:
    """Runs jobs, tells of them, and listens meanwhile.

    Args:
        connection: to the parent.
        settings: of the process.
        engines: what makes the lips.
    """

    def __init__(
        self, connection: socket.socket, settings: Settings, engines: PipelineCache
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._engines = engines
        self._files = Storage(settings.storage)
        self._reserve = DiskReserve(settings, self._files)
        self._orders: Queue[dict[str, Any]] = Queue()
        self._canceled = Event()
        self._sending = Lock()

    def serve(self) -> None:
        """Work until the parent is gone, which ends the process in the middle of anything."""
        Thread(target=self._listen, name="parent", daemon=True).start()
        self._send({"ready": True})
        while True:
            self._run(self._orders.get())

    def _listen(self) -> None:
        try:
            self._take_orders()
        except ConnectionResetError:  # it was killed before it had read what was said to it
            pass
        except Exception:
            logger.exception("what the parent says cannot be understood")
        finally:
            end_group()

    def _take_orders(self) -> None:
        """Take what the parent says until it is gone."""
        with self._connection.makefile("r", encoding="utf-8") as lines:
            for line in lines:
                message = json.loads(line)
                if "run" in message:
                    self._canceled.clear()
                    self._orders.put(message["run"])
                else:
                    self._canceled.set()

    def _run(self, order: dict[str, Any]) -> None:
        try:
            done = self._make(order)
        except Exception as error:
            own = to_public_error(error, order["id"])  # which the caller knows
            self._send({"error": own.to_dict()})
        else:
            self._send({"done": done})

    def _make(self, order: dict[str, Any]) -> dict[str, Any]:
        recorded = order["request"]
        with working_folder(self._settings.work_dir) as folder, ExitStack() as lent:
            stored = {
                name: lent.enter_context(self._files.as_local_file(key, folder))
                for name, key in stored_media(recorded).items()
            }
            request = load_request(recorded, stored)
            roots = tuple(path.parent for path in stored.values())
            settings = self._settings.model_copy(update={"allowed_roots": roots})
            with report_lines(self._tell):
                result = runner.run(
                    request,
                    folder / "result.mp4",
                    settings=settings,
                    pipeline=self._engines.get(request.options.engine),
                    probes=load_probes(recorded, self._settings),
                    on_progress=_Thinned(self._send),
                    canceled=self._canceled,
                )
            size_bytes = result.video_path.stat().st_size
            self._reserve.wait_to_store(
                size_bytes, patience_s=_ROOM_PATIENCE_S, canceled=self._canceled
            )
            self._files.put_with_retry(
                result.video_path,
                order["output_key"],
                patience_s=_STORE_PATIENCE_S,
                canceled=self._canceled,
            )
        return {"size_bytes": size_bytes, "details": result.details.model_dump(mode="json")}

    def _tell(self, line: str) -> None:
        self._send({"log": line})

    def _send(self, message: dict[str, Any]) -> None:
        line = json.dumps(message).encode() + b"\n"
        try:
            with self._sending:
                self._connection.sendall(line)
        except OSError:  # an orderly end of Python could wait for a codec's threads for ever
            end_group()


_ending = RLock()  # never let go of


def end_group() -> NoReturn:
    """End this process and everything that it started, at once.

    Its working folders go first: nobody else may be left to sweep them up. A thread that comes
    second waits here until the first has ended the group.
    """
    _ending.acquire()
    remove_own_folders()
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)  # started by hand in somebody else's group


class _Thinned:
    """Passes progress on at every change of stage, and a few times a second."""

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
        engines: other ones than the settings' own.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("latentsync").setLevel(logging.INFO)
    connection = socket.socket(fileno=int(sys.argv[-1]))
    settings = Settings()
    try:
        Runner(connection, settings, engines or PipelineCache(settings)).serve()
    except BaseException:
        logger.exception("the process of the device failed")
        end_group()


if __name__ == "__main__":
    main()
