"""``POST /predict`` without a jobs database: runs predictions in this process, one at a time."""

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
    """Runs work on one device in FIFO order, with a bounded number of waiting calls.

    Args:
        max_waiting: maximum number of waiting predictions.
    """

    def __init__(self, max_waiting: int) -> None:
        self._waiting_slots = WaitingSlots(max_waiting)
        self._turn = asyncio.Lock()  # wakes its waiters in order
        # One thread: a run whose caller has gone still has the device to itself.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="device")
        self._canceled: threading.Event | None = None  # of the current run

    def place(self) -> AbstractContextManager[None]:
        """Hold a waiting slot; raises as :meth:`WaitingSlots.place`."""
        return self._waiting_slots.place()

    def prepare(self, work: Callable[[], T]) -> Future[T]:
        """Schedule work before all later runs, such as building the engine."""
        return self._thread.submit(work)

    async def run(self, work: Callable[[threading.Event], T]) -> T:
        """Wait for the turn of this call, then run ``work`` in the device's thread.

        If the call is cancelled while it waits, it leaves the queue; while it runs, the event is
        set and the call returns once the work has ended.

        Args:
            work: called with an event that is set when it must stop.

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
        """Stop the running work and refuse all waiting calls, without waiting for the end."""
        self._waiting_slots.close()
        if self._canceled is not None:
            self._canceled.set()

    def close(self) -> None:
        """Stop, and wait until the running work has ended."""
        self.stop()
        self._thread.shutdown(wait=True, cancel_futures=True)


logger = logging.getLogger(__name__)


class Engine:
    """The default engine, built at startup, and the others, built on first use.

    Args:
        name: name of the default engine, for messages.
        engines: cache that builds the pipelines.
    """

    def __init__(self, name: str, engines: PipelineCache) -> None:
        self._name = name
        self._engines = engines
        self._default: Pipeline | None = None
        self._failure: LatentSyncError | None = None

    def build(self) -> None:
        """Build the default pipeline; a failure is logged and returned until a later attempt."""
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
            # Raise a copy: an exception raised repeatedly accumulates traceback references.
            raise copy(self._failure)
        raise EngineUnavailable(f"The engine {self._name} is being built.", retry_after_s=5)

    def require(self, name: str) -> None:
        """Raise EngineUnavailable if the engine is known not to run here, without building it."""
        self._engines.require(name)

    def pipeline(self, name: str | None, check: Callable[[], None] = no_check) -> Pipeline:
        """Return the pipeline of the engine ``name``, or the default one.

        Called by runs, one at a time, outside the event loop. The first request for an engine waits
        for its download and construction; a default engine that failed to build is built again.

        Args:
            name: engine of the request, or None.
            check: called during downloads; may raise to stop.

        Raises:
            EngineUnavailable: it cannot run here.
        """
        if name is not None:
            return self._engines.get(name, check)
        if self._default is None and self._failure is not None:
            self.build()
        return self.default()


class InlineHandler:
    """Handles ``POST /predict`` in this process."""

    def __init__(self, settings: Settings, engine: Engine, executor: SerialExecutor) -> None:
        self._settings = settings
        self._engine = engine
        self._executor = executor

    async def answer(self, request: Request, owner: str) -> Response:
        """Run one request and return its response, also for errors."""
        run_id = str(uuid.uuid4())
        try:
            with self._executor.place():
                job = parse_request(await read_json(request))
                if job.options.engine is not None:  # the state of the default one is known
                    await run_in_threadpool(self._engine.require, job.options.engine)
                finished = await self._run_until_disconnect(request.receive, job, run_id)
            return PredictResultResponse(finished)
        except Exception as error:
            return error_response(to_public_error(error, run_id), run_id)

    async def _run_until_disconnect(
        self, receive: Receive, job: RunRequest, run_id: str
    ) -> FinishedRun:
        """Run the job; if the client disconnects, it leaves the queue or the run is stopped."""

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
            video = result.video_path.open("rb")  # the open file outlives its folder
        run_time_ms = (time.perf_counter() - started) * 1000
        return FinishedRun(run_id, video, video_bytes, result.details, run_time_ms)


def _check(canceled: threading.Event) -> None:
    if canceled.is_set():
        raise Canceled("The run was canceled.")


def engine_state(engine: Engine) -> State:
    """Return the readiness check of an engine in this process."""

    def state() -> dict[str, Any]:
        pipeline = engine.default()
        return {
            "status": "ready",
            "engine": pipeline.name,
            "model_version": pipeline.model_version,
        }

    return state
