"""Contract A: one synchronous call, one video back."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, Path, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive

from latentsync import runner
from latentsync.answers import PredictResponse
from latentsync.door import as_own_error
from latentsync.errors import Canceled
from latentsync.request import RunRequest
from latentsync.schema import parse_request
from latentsync.server.answer import FinishedRun, PredictAnswer
from latentsync.server.body import read_json
from latentsync.server.engine import Engine
from latentsync.server.error_answers import error_answer
from latentsync.server.hang_up import unless_gone
from latentsync.server.line import Line
from latentsync.server.openapi import ERROR_RESPONSES, error_responses, predict_body
from latentsync.settings import Settings
from latentsync.workspace import working_folder

Name = Annotated[
    str,
    Path(
        description="Any name: this server has one project and one app.",
        openapi_examples={"name": {"summary": "Any", "value": "latentsync"}},
    ),
]


class Door(Protocol):
    """Answers ``POST /predict``, whichever path it came by."""

    async def answer(self, request: Request, owner: str) -> Response:
        """Read one request, have it run and answer with the envelope or the error."""
        ...


class DirectDoor:
    """Runs predictions in this process, in a line of their own."""

    def __init__(self, settings: Settings, engine: Engine, line: Line) -> None:
        self._settings = settings
        self._engine = engine
        self._line = line

    async def answer(self, request: Request, owner: str) -> Response:
        """Run one request in its turn."""
        run_id = str(uuid.uuid4())
        try:
            with self._line.place():
                job = parse_request(await read_json(request))
                if job.options.engine is not None:  # the default one's state is known
                    await run_in_threadpool(self._engine.require, job.options.engine)
                finished = await self._run_unless_gone(request.receive, job, run_id)
            return PredictAnswer(finished)
        except Exception as error:
            return error_answer(as_own_error(error, run_id), run_id)

    async def _run_unless_gone(self, receive: Receive, job: RunRequest, run_id: str) -> FinishedRun:
        """Run the job; a caller who hangs up gives back the turn, or stops the run."""

        def work(canceled: threading.Event) -> FinishedRun:
            return self._run(job, run_id, canceled)

        return await unless_gone(receive, self._line.run(work))

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


def build_predict_router(
    door: Door, auth: Callable[..., Any], *, with_uploads: bool = False
) -> APIRouter:
    """Return the routes of contract A: the short path and the one that Cerebrium uses.

    Args:
        door: answers a request of an owner.
        auth: the dependency whose value is that owner.
        with_uploads: media may be uploads, which may be missing.
    """
    router = APIRouter(tags=["predict"])
    body = predict_body()
    responses = {**ERROR_RESPONSES, **(error_responses(404) if with_uploads else {})}

    @router.post(
        "/predict",
        response_model=PredictResponse,
        responses=responses,
        openapi_extra=body,
        summary="Make a video and wait for it",
    )
    async def predict(request: Request, owner: str = Depends(auth)) -> Response:
        """Waits until the video is made and answers it as base64, with how it was made.

        Closing the connection cancels the run.
        """
        return await door.answer(request, owner)

    @router.post(
        "/v4/{project}/{app}/predict",
        response_model=PredictResponse,
        responses=responses,
        openapi_extra=body,
        summary="Make a video and wait for it (path of Cerebrium)",
    )
    async def predict_on_cerebrium_path(
        project: Name, app: Name, request: Request, owner: str = Depends(auth)
    ) -> Response:
        """The same as `POST /predict`, at the path under which Cerebrium serves it."""
        return await door.answer(request, owner)

    return router
