"""Contract A: one synchronous call, one video back."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from starlette.types import Receive

from latentsync import runner
from latentsync.door import as_own_error
from latentsync.errors import Canceled
from latentsync.schema import PredictResponse, RunRequest, parse_request
from latentsync.server.answer import FinishedRun, PredictAnswer
from latentsync.server.body import read_json
from latentsync.server.engine import Engine
from latentsync.server.error_answers import error_answer
from latentsync.server.line import Line
from latentsync.server.openapi import ERROR_RESPONSES, PREDICT_BODY
from latentsync.settings import Settings
from latentsync.workspace import working_folder

Name = Annotated[str, Path(description="any name: the local server has one project and one app")]


class PredictDoor:
    """What ``POST /predict`` needs, whichever path it came by."""

    def __init__(self, settings: Settings, engine: Engine, line: Line) -> None:
        self._settings = settings
        self._engine = engine
        self._line = line

    async def answer(self, request: Request) -> Response:
        """Read one request, run it in its turn and answer with the envelope or the error."""
        run_id = str(uuid.uuid4())
        try:
            with self._line.place():
                job = parse_request(await read_json(request))
                finished = await self._run_unless_gone(request.receive, job, run_id)
            return PredictAnswer(finished)
        except Exception as error:
            return error_answer(as_own_error(error, run_id), run_id)

    async def _run_unless_gone(self, receive: Receive, job: RunRequest, run_id: str) -> FinishedRun:
        """Run the job; a caller who hangs up gives back the turn, or stops the run."""

        def work(canceled: threading.Event) -> FinishedRun:
            return self._run(job, run_id, canceled)

        run = asyncio.create_task(self._line.run(work))
        gone = asyncio.create_task(_wait_for_disconnect(receive))
        try:
            await asyncio.wait([run, gone], return_when=asyncio.FIRST_COMPLETED)
            if run.done():
                return run.result()
            raise Canceled("The caller hung up.")
        finally:
            run.cancel()
            gone.cancel()
            await asyncio.gather(run, gone, return_exceptions=True)

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
            video = result.video_path.open("rb")  # outlives its folder, never its answer
        run_time_ms = (time.perf_counter() - started) * 1000
        return FinishedRun(run_id, video, result.details, run_time_ms)


def _check(canceled: threading.Event) -> None:
    if canceled.is_set():
        raise Canceled("The run was canceled.")


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def build_predict_router(door: PredictDoor) -> APIRouter:
    """Return the routes of contract A: the short path and the one that Cerebrium uses."""
    router = APIRouter(tags=["predict"])

    @router.post(
        "/predict",
        response_model=PredictResponse,
        responses=ERROR_RESPONSES,
        openapi_extra=PREDICT_BODY,
        summary="Make the lips of a video say a speech recording",
    )
    async def predict(request: Request) -> Response:
        return await door.answer(request)

    @router.post(
        "/v4/{project}/{app}/predict",
        response_model=PredictResponse,
        responses=ERROR_RESPONSES,
        openapi_extra=PREDICT_BODY,
        summary="The same, at the path that Cerebrium uses",
    )
    async def predict_at_cloud_path(project: Name, app: Name, request: Request) -> Response:
        return await door.answer(request)

    return router
