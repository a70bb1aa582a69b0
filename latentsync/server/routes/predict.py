"""Contract A, ``POST /predict``: one synchronous request, run as a job that a worker takes."""

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
    """Return the result of work; cancel it and wait for its end if the client disconnects.

    Args:
        receive: of a request whose body has been read.
        work: also cancelled when this coroutine is.

    Raises:
        Canceled: the client disconnected.
    """
    running = asyncio.create_task(work)
    gone = asyncio.create_task(_wait_for_disconnect(receive))
    try:
        await asyncio.wait([running, gone], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            return running.result()
        raise Canceled("The client disconnected.")
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
        description="Any name; it is ignored.",
        openapi_examples={"name": {"summary": "Any", "value": "latentsync"}},
    ),
]


PredictCall = Annotated[
    UnreadRequest[PredictRequest],
    Body(openapi_examples=example("Embedded media", embedded_request(seed=7))),
]


class PredictHandler(Protocol):
    """Handles ``POST /predict`` and its aliases."""

    async def answer(self, request: Request, owner: str) -> Response:
        """Read a request, run it, and return the result or the error."""
        ...


def build_predict_router(handler: PredictHandler, *, with_uploads: bool = False) -> APIRouter:
    """Return the routes of contract A: the short path and the one that Cerebrium uses.

    Args:
        handler: runs the request of an owner.
        with_uploads: media may be uploads; a missing one is 404.
    """
    router = APIRouter(tags=["predict"], route_class=UnreadBodyRoute)
    responses = {**ERROR_RESPONSES, **(error_responses(404) if with_uploads else {})}

    @router.post(
        "/predict",
        response_model=PredictResponse,
        responses=responses,
        summary="Generate a video and wait for it",
    )
    async def predict(request: PredictCall, owner: Owner) -> Response:
        """Waits for the video and returns it as base64, with details of the run.

        Closing the connection cancels the run.
        """
        return await handler.answer(request, owner)

    @router.post(
        "/v4/{project}/{app}/predict",
        response_model=PredictResponse,
        responses=responses,
        summary="Generate a video and wait for it (path of Cerebrium)",
    )
    async def predict_on_cerebrium_path(
        project: Name, app: Name, request: PredictCall, owner: Owner
    ) -> Response:
        """Same as `POST /predict`, at the path that Cerebrium uses."""
        return await handler.answer(request, owner)

    return router


_FIRST_GUESS_S = 30.0  # assumed duration of a run until one has ended
_RECENT_RUNS = 8


class WaitingSlots:
    """Limits the requests that run or wait, for one event loop.

    A slot is taken before a body is read, so a full queue refuses at once, and the number of bodies
    in memory is limited.

    Args:
        max_waiting: requests that may wait behind the running one.
    """

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._taken = 0
        self._is_closed = False
        self._recent_s: deque[float] = deque(maxlen=_RECENT_RUNS)

    @contextmanager
    def place(self, ahead: int = 0) -> Iterator[None]:
        """Hold a slot for the block.

        Args:
            ahead: waiting jobs that hold no slot here.

        Raises:
            LineFull: no slot is free.
            EngineUnavailable: the server is shutting down.
        """
        self.check_open()
        waiting = max(self._taken - 1, ahead)
        if waiting >= self._max_waiting and self._taken + ahead > 0:
            raise LineFull(
                f"One prediction is running and {waiting} are waiting, which is the limit.",
                retry_after_s=self._expected_s(),
            )
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    def note_run(self, seconds: float) -> None:
        """Record the duration of a run."""
        self._recent_s.append(seconds)

    def close(self) -> None:
        """Refuse requests from now on."""
        self._is_closed = True

    def check_open(self) -> None:
        """Raise EngineUnavailable once :meth:`close` was called."""
        if self._is_closed:
            raise EngineUnavailable("The server is shutting down.", retry_after_s=_FIRST_GUESS_S)

    def _expected_s(self) -> float:
        """Return the seconds until a slot should be free: the median of recent runs."""
        typical_s = statistics.median(self._recent_s) if self._recent_s else _FIRST_GUESS_S
        return float(max(1, math.ceil(typical_s)))


_BASE64_CHUNK_BYTES = 3 * 64 * 1024  # a multiple of 3: chunks join without padding


@dataclass(frozen=True)
class FinishedRun:
    """A finished video as an open file (its folder may be removed) and its details."""

    run_id: str
    video: IO[bytes]
    video_bytes: int
    details: PredictDetails
    run_time_ms: float


class PredictResultResponse(StreamingResponse):
    """``{"run_id", "result": {"video_base64", "details"}, "run_time_ms"}`` with its exact length.

    The video is encoded while it is sent, so memory use does not grow with its size. The file is
    closed at the end, also if the client disconnects.
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
        """Send the response."""
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
    """Submits a prediction as a job and waits for it; ``run_id`` is the id of the job.

    Args:
        jobs: accepts the job.
        notifier: signals changes of the job.
        waiting_slots: limits the requests that wait.
    """

    def __init__(
        self, jobs: JobService, notifier: JobNotifier, waiting_slots: WaitingSlots
    ) -> None:
        self._jobs = jobs
        self._notifier = notifier
        self._waiting_slots = waiting_slots

    async def answer(self, request: Request, owner: str) -> Response:
        """Run one request on a worker; the job is canceled if the client disconnects."""
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
        """Return the job when it has ended; cancel it if this coroutine is cancelled."""
        # Shielded: if the client disconnects now, the job must be known, to be canceled.
        submitting = asyncio.wrap_future(self._jobs.begin_submit([submission], owner))
        del submission  # its media are stored; do not keep them in memory while waiting
        try:
            [job] = await asyncio.shield(submitting)
            return await self._wait(job)
        except BaseException:
            await asyncio.wait([submitting])
            if submitting.exception() is None:
                with suppress(JobNotFound):  # erased in the meantime
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
    return await parse_json_body(
        request, lambda body: Submission(parse_request(body), fingerprint({"body": body}), run_id)
    )


def _error_of(job: Job) -> LatentSyncError:
    if job.error is None:
        return Canceled("The run was canceled.")
    return error_from_code(job.error.code, job.error.message, job.error.field)
