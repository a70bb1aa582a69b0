"""The line before a device in this process: one prediction runs, a bounded number waits in order.

The order is that of the turns asked for.

The engines of this server: the default one is built while /health already answers.
"""

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from copy import copy
from functools import partial
from typing import Any, TypeVar

from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive

from latentsync import runner
from latentsync.errors import Canceled, EngineUnavailable, LatentSyncError
from latentsync.monitor import no_check
from latentsync.pipelines.base import Pipeline
from latentsync.pipelines.registry import PipelineCache
from latentsync.public_errors import to_public_error
from latentsync.schema.predict import parse_request
from latentsync.schema.run import RunRequest
from latentsync.server.errors import error_response
from latentsync.server.health import State
from latentsync.server.request_body import read_json
from latentsync.server.routes.predict import (
    FinishedRun,
    PredictResultResponse,
    WaitingSlots,
    cancel_on_disconnect,
)
from latentsync.settings import Settings
from latentsync.workspace import working_folder

T = TypeVar("T")


class SerialExecutor:
    """First come, first served, for one device.

    Args:
        max_waiting: predictions that may wait behind the running one.
    """

    def __init__(self, max_waiting: int) -> None:
        self._waiting_slots = WaitingSlots(max_waiting)
        self._turn = asyncio.Lock()  # wakes its waiters in order
        # One thread: even a run that nobody waits for any more keeps the device to itself.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="device")
        self._canceled: threading.Event | None = None  # of the run that has the turn

    def place(self) -> AbstractContextManager[None]:
        """Hold a place in the line for the block; raises what :meth:`WaitingSlots.place` raises."""
        return self._waiting_slots.place()

    def prepare(self, work: Callable[[], T]) -> Future[T]:
        """Start work that every later run has to wait for, such as building the engine."""
        return self._thread.submit(work)

    async def run(self, work: Callable[[threading.Event], T]) -> T:
        """Wait for this caller's turn, then run ``work`` in the device's thread.

        Args:
            work: gets an event that is set when it must stop. A cancelled caller that still waits
                just leaves the line; one that runs sets the event and lets the work end first.

        Raises:
            EngineUnavailable: the server is shutting down.
        """
        async with self._turn:
            self._waiting_slots.check_open()
            canceled = self._canceled = threading.Event()
            started = time.monotonic()
            running = asyncio.get_running_loop().run_in_executor(self._thread, work, canceled)
            try:
                return await asyncio.shield(running)
            except asyncio.CancelledError:
                canceled.set()
                await asyncio.wait([running])
                raise
            except Canceled:
                self._waiting_slots.check_open()
                raise
            finally:
                self._waiting_slots.note_run(time.monotonic() - started)

    def stop(self) -> None:
        """Stop the running work and turn away everybody in line, without waiting."""
        self._waiting_slots.close()
        if self._canceled is not None:
            self._canceled.set()

    def close(self) -> None:
        """Stop, and wait until the running work has ended and cleaned up after itself."""
        self.stop()
        self._thread.shutdown(wait=True, cancel_futures=True)


logger = logging.getLogger(__name__)


class Engine:
    """Knows whether the default engine is ready, and builds others when a request names them.

    Args:
        name: what the default engine is called, for messages.
        engines: where they come from.
    """

    def __init__(self, name: str, engines: PipelineCache) -> None:
        self._name = name
        self._engines = engines
        self._default: Pipeline | None = None
        self._failure: LatentSyncError | None = None

    def build(self) -> None:
        """Build the default pipeline; a failure is logged and answered until a later try."""
        try:
            self._default = self._engines.get()
        except LatentSyncError as error:
            self._failure = error.with_traceback(None)
            logger.error("engine %s cannot run: %s", self._name, error.message)
        except Exception:
            self._failure = EngineUnavailable(
                f"The engine {self._name} could not be built on this server."
            )
            logger.exception("engine %s could not be built", self._name)

    def default(self) -> Pipeline:
        """Return the default pipeline; raises EngineUnavailable while there is none."""
        if self._default is not None:
            return self._default
        if self._failure is not None:
            # A new one each time: an error raised again and again holds on to all it ever met.
            raise copy(self._failure)
        raise EngineUnavailable(f"The engine {self._name} is being built.", retry_after_s=5)

    def require(self, name: str) -> None:
        """Raise EngineUnavailable where it shows, without building it, that it cannot run here."""
        self._engines.require(name)

    def pipeline(self, name: str | None, check: Callable[[], None] = no_check) -> Pipeline:
        """Return the pipeline of the engine called ``name``, or the default one.

        Called by runs, one at a time and off the event loop. The first request for another engine
        waits for its weights and its building; a default engine that could not be built is tried
        again, since what was missing may have come.

        Args:
            name: as in a request.
            check: called while weights are fetched; may raise to stop.

        Raises:
            EngineUnavailable: it cannot run here.
        """
        if name is not None:
            return self._engines.get(name, check)
        if self._default is None and self._failure is not None:
            self.build()
        return self.default()


class InlineHandler:
    """Runs predictions in this process, in a line of their own."""

    def __init__(self, settings: Settings, engine: Engine, line: SerialExecutor) -> None:
        self._settings = settings
        self._engine = engine
        self._executor = line

    async def answer(self, request: Request, owner: str) -> Response:
        """Run one request in its turn."""
        run_id = str(uuid.uuid4())
        try:
            with self._executor.place():
                job = parse_request(await read_json(request))
                if job.options.engine is not None:  # the default one's state is known
                    await run_in_threadpool(self._engine.require, job.options.engine)
                finished = await self._run_until_disconnect(request.receive, job, run_id)
            return PredictResultResponse(finished)
        except Exception as error:
            return error_response(to_public_error(error, run_id), run_id)

    async def _run_until_disconnect(
        self, receive: Receive, job: RunRequest, run_id: str
    ) -> FinishedRun:
        """Run the job; a caller who hangs up gives back the turn, or stops the run."""

        def work(canceled: threading.Event) -> FinishedRun:
            return self._run(job, run_id, canceled)

        return await cancel_on_disconnect(receive, self._executor.run(work))

    def _run(self, job: RunRequest, run_id: str, canceled: threading.Event) -> FinishedRun:
        started = time.perf_counter()
        with working_folder(self._settings.work_dir) as folder:
            pipeline = self._engine.pipeline(job.options.engine, partial(_check, canceled))
            result = runner.run(
                job,
                folder / "result.mp4",
                settings=self._settings,
                pipeline=pipeline,
                canceled=canceled,
            )
            _check(canceled)
            video_bytes = result.video_path.stat().st_size
            video = result.video_path.open("rb")  # outlives its folder, never its answer
        run_time_ms = (time.perf_counter() - started) * 1000
        return FinishedRun(run_id, video, video_bytes, result.details, run_time_ms)


def _check(canceled: threading.Event) -> None:
    if canceled.is_set():
        raise Canceled("The run was canceled.")


def engine_state(engine: Engine) -> State:
    """Return what tells of an engine in this process."""

    def state() -> dict[str, Any]:
        pipeline = engine.default()
        return {
            "status": "ready",
            "engine": pipeline.name,
            "model_version": pipeline.model_version,
        }

    return state
