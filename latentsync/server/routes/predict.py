"""Contract A: one synchronous call, one video back.

A caller who hangs up needs no answer: what is done for it stops.

Contract A over the line of jobs: a worker runs the prediction, the call waits for it.
"""

import asyncio
import base64
import json
import math
import statistics
import uuid
from collections import deque
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Annotated, Any, Protocol, TypeVar

from fastapi import APIRouter, Body, Path, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from latentsync.errors import (
    Canceled,
    EngineUnavailable,
    JobNotFound,
    LatentSyncError,
    LineFull,
    OutputGone,
    error_from_code,
)
from latentsync.jobs.models import Job, JobStatus
from latentsync.jobs.notifier import JobNotifier, wait_for
from latentsync.jobs.service import JobService, Submission, fingerprint
from latentsync.public_errors import to_public_error
from latentsync.schema.predict import PredictRequest, parse_request
from latentsync.schema.responses import PredictDetails, PredictResponse
from latentsync.server.errors import error_response
from latentsync.server.openapi import ERROR_RESPONSES, embedded_request, error_responses, example
from latentsync.server.request_body import Owner, UnreadBodyRoute, UnreadRequest, parse_json_body

T = TypeVar("T")


async def cancel_on_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Return the work's result; cancels the work and waits for its end if the caller hangs up.

    Args:
        receive: of the request, whose body has been read.
        work: what is done for the caller; it is cancelled, too, when this call is.

    Raises:
        Canceled: the caller hung up.
    """
    running = asyncio.create_task(work)
    gone = asyncio.create_task(_wait_for_disconnect(receive))
    try:
        await asyncio.wait([running, gone], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            return running.result()
        raise Canceled("The caller hung up.")
    finally:
        running.cancel()
        gone.cancel()
        await asyncio.gather(running, gone, return_exceptions=True)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


Name = Annotated[
    str,
    Path(
        description="Any name: this server has one project and one app.",
        openapi_examples={"name": {"summary": "Any", "value": "latentsync"}},
    ),
]


PredictCall = Annotated[
    UnreadRequest[PredictRequest],
    Body(openapi_examples=example("Embedded media", embedded_request(seed=7))),
]


class PredictHandler(Protocol):
    """Answers ``POST /predict``, whichever path it came by."""

    async def answer(self, request: Request, owner: str) -> Response:
        """Read one request, have it run and answer with the envelope or the error."""
        ...


def build_predict_router(handler: PredictHandler, *, with_uploads: bool = False) -> APIRouter:
    """Return the routes of contract A: the short path and the one that Cerebrium uses.

    Args:
        handler: answers a request of an owner.
        with_uploads: media may be uploads, which may be missing.
    """
    router = APIRouter(tags=["predict"], route_class=UnreadBodyRoute)
    responses = {**ERROR_RESPONSES, **(error_responses(404) if with_uploads else {})}

    @router.post(
        "/predict",
        response_model=PredictResponse,
        responses=responses,
        summary="Make a video and wait for it",
    )
    async def predict(request: PredictCall, owner: Owner) -> Response:
        """Waits until the video is made and answers it as base64, with how it was made.

        Closing the connection cancels the run.
        """
        return await handler.answer(request, owner)

    @router.post(
        "/v4/{project}/{app}/predict",
        response_model=PredictResponse,
        responses=responses,
        summary="Make a video and wait for it (path of Cerebrium)",
    )
    async def predict_on_cerebrium_path(
        project: Name, app: Name, request: PredictCall, owner: Owner
    ) -> Response:
        """The same as `POST /predict`, at the path under which Cerebrium serves it."""
        return await handler.answer(request, owner)

    return router


_FIRST_GUESS_S = 30.0  # how long a run takes, before any run has told
_RECENT_RUNS = 8


class WaitingSlots:
    """Counts the calls that run or wait, for one event loop.

    Args:
        max_waiting: calls that may wait behind the running one.
    """

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._taken = 0
        self._is_closed = False
        self._recent_s: deque[float] = deque(maxlen=_RECENT_RUNS)

    @contextmanager
    def place(self, ahead: int = 0) -> Iterator[None]:
        """Hold a place for the block.

        Args:
            ahead: how many wait already that hold no place here.

        Raises:
            LineFull: none is left.
            EngineUnavailable: the server is shutting down.
        """
        self.check_open()
        waiting = max(self._taken - 1, ahead)
        if waiting >= self._max_waiting and self._taken + ahead > 0:
            raise LineFull(
                f"One prediction is running and {waiting} wait, which is all that may.",
                retry_after_s=self._expected_s(),
            )
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    def note_run(self, seconds: float) -> None:
        """Remember how long a run took."""
        self._recent_s.append(seconds)

    def close(self) -> None:
        """Turn away everybody who comes from now on."""
        self._is_closed = True

    def check_open(self) -> None:
        """Raise EngineUnavailable once :meth:`close` was called."""
        if self._is_closed:
            raise EngineUnavailable("The server is shutting down.", retry_after_s=_FIRST_GUESS_S)

    def _expected_s(self) -> float:
        """Return the seconds after which a place should be free: one run, as they went lately."""
        typical_s = statistics.median(self._recent_s) if self._recent_s else _FIRST_GUESS_S
        return float(max(1, math.ceil(typical_s)))


_BASE64_CHUNK_BYTES = 3 * 64 * 1024  # a multiple of 3: chunks join without padding


@dataclass(frozen=True)
class FinishedRun:
    """A finished video as an open file (its folder may be gone) and what is known about it."""

    run_id: str
    video: IO[bytes]
    video_bytes: int
    details: PredictDetails
    run_time_ms: float


class PredictResultResponse(StreamingResponse):
    """``{"run_id", "result": {"video_base64", "details"}, "run_time_ms"}`` with its exact length.

    Closes the video file when it has been sent, or when the receiver has gone.
    """

    media_type = "application/json"

    def __init__(self, finished: FinishedRun) -> None:
        head, tail = _around_the_video(finished)
        length = len(head) + 4 * -(-finished.video_bytes // 3) + len(tail)
        self._video = finished.video
        super().__init__(
            _base64_chunks(head, finished.video, tail), headers={"content-length": str(length)}
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        with self._video:
            await super().__call__(scope, receive, send)


def _around_the_video(finished: FinishedRun) -> tuple[bytes, bytes]:
    head = f'{{"run_id": {json.dumps(finished.run_id)}, "result": {{"video_base64": "'
    details = finished.details.model_dump_json()
    tail = f'", "details": {details}}}, "run_time_ms": {finished.run_time_ms:.1f}}}'
    return head.encode(), tail.encode()


def _base64_chunks(head: bytes, video: IO[bytes], tail: bytes) -> Iterator[bytes]:
    yield head
    for part in iter(lambda: video.read(_BASE64_CHUNK_BYTES), b""):
        yield base64.b64encode(part)
    yield tail


_LOOK_AT_LEAST_EVERY_S = 1.0


class QueuedHandler:
    """Submits a prediction and waits; its ``run_id`` is the id of the job.

    Args:
        jobs: takes the job.
        notifier: tells when something happens to it.
        waiting_slots: for those who wait.
    """

    def __init__(
        self, jobs: JobService, notifier: JobNotifier, waiting_slots: WaitingSlots
    ) -> None:
        self._jobs = jobs
        self._notifier = notifier
        self._waiting_slots = waiting_slots

    async def answer(self, request: Request, owner: str) -> Response:
        """Have one request run by a worker; a caller who hangs up cancels the job."""
        run_id = str(uuid.uuid4())
        try:
            counted = await run_in_threadpool(self._jobs.store.count)
            with self._waiting_slots.place(ahead=counted[JobStatus.QUEUED]):
                waiting = self._finish(await _read(request, run_id), owner)
                job = await cancel_on_disconnect(request.receive, waiting)
            return PredictResultResponse(await run_in_threadpool(self._finished, job))
        except Exception as error:
            return error_response(to_public_error(error, run_id), run_id)

    async def _finish(self, submission: Submission, owner: str) -> Job:
        """Return the job when it has ended; one that nobody waits for any more is canceled."""
        # Shielded: a caller who hangs up meanwhile must not leave a job that nobody knows.
        submitting = asyncio.wrap_future(self._jobs.begin_submit([submission], owner))
        del submission  # with its media, which are stored: there is no need for them while waiting
        try:
            [job] = await asyncio.shield(submitting)
            return await self._wait(job)
        except BaseException:
            await asyncio.wait([submitting])
            if submitting.exception() is None:
                with suppress(JobNotFound):  # it was erased meanwhile
                    await run_in_threadpool(self._jobs.cancel, submitting.result()[0].id, owner)
            raise

    async def _wait(self, job: Job) -> Job:
        with self._notifier.subscribe(job.id) as changed:
            while True:
                self._waiting_slots.check_open()
                now = await run_in_threadpool(self._jobs.store.get, job.id)
                if now is None or now.status.is_final:
                    return now or job
                await wait_for(changed, _LOOK_AT_LEAST_EVERY_S)

    def _finished(self, job: Job) -> FinishedRun:
        if job.result_key is None or job.started_at is None or job.finished_at is None:
            raise _error_of(job)
        seconds = job.finished_at - job.started_at
        self._waiting_slots.note_run(seconds)
        try:
            video, size_bytes = self._open(job.result_key)
        except FileNotFoundError:
            raise OutputGone("The video was erased before it could be sent.") from None
        details = PredictDetails.model_validate(job.details)
        return FinishedRun(job.id, video, size_bytes, details, seconds * 1000)

    def _open(self, key: str) -> tuple[IO[bytes], int]:
        size_bytes = self._jobs.files.size_bytes(key)
        return self._jobs.files.open(key), size_bytes


async def _read(request: Request, run_id: str) -> Submission:
    """Return what the body of a call asks for."""
    return await parse_json_body(
        request, lambda body: Submission(parse_request(body), fingerprint({"body": body}), run_id)
    )


def _error_of(job: Job) -> LatentSyncError:
    if job.error is None:
        return Canceled("The run was canceled.")
    return error_from_code(job.error.code, job.error.message, job.error.field)
