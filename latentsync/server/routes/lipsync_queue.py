"""Contract C: submit, status and cancel, with base64 media.

Only field names and statuses are specific to this contract.
"""

from enum import StrEnum
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Path, Request, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from latentsync.errors import InvalidRequest, LatentSyncError, NotInQueue
from latentsync.jobs.models import Job, JobStatus
from latentsync.jobs.service import JobService
from latentsync.schema.fields import GuidanceScale, InferenceSteps, Seed, StrictModel, Text
from latentsync.schema.predict import build_options, validate_as
from latentsync.schema.run import InlineSource, RunRequest
from latentsync.server.errors import error_headers
from latentsync.server.openapi import (
    ABOUT_EXAMPLE,
    PREDICTION_ID,
    VIDEO,
    VIDEO_RESPONSES,
    embedded_media,
    error_responses,
    example,
)
from latentsync.server.request_body import Owner, UnreadRequest, UploadSlots, read_json
from latentsync.server.responses import base_url_of
from latentsync.server.routes import contracts

RESULTS = "/static/results"
LIPSYNC_PATHS = ("/lipsync", RESULTS)

RequestId = Annotated[
    str, Path(description="`request_id` of the request.", openapi_examples=ABOUT_EXAMPLE)
]


class LipsyncRequest(StrictModel):
    """A video to make, with the media as base64."""

    video_source: Text = Field(description="The source video as base64 or `data:` URI.")
    audio_source: Text = Field(description="The speech recording as base64 or `data:` URI.")
    inference_steps: InferenceSteps = 20
    guidance_scale: GuidanceScale = 2.0
    seed: Seed = 1247


class RequestName(StrictModel):
    """The request that a call is about."""

    request_id: Text = Field(description="`request_id` returned by `/lipsync/submit`.")


class LipsyncAccepted(BaseModel):
    """An accepted request."""

    request_id: str = Field(description="Id of the request.")


class RequestStatus(StrEnum):
    """State of a request; the last three are final."""

    IN_QUEUE = "InQueue"
    IN_PROGRESS = "InProgress"
    SUCCEED = "Succeed"
    FAILED = "Failed"
    CANCELLED = "Cancelled"


class Video(BaseModel):
    """A finished video."""

    url: str = Field(description="Absolute URL; no key is needed.")


class Timings(BaseModel):
    """Duration of the run."""

    inference: float = Field(description="Seconds spent generating the frames.")


class Results(BaseModel):
    """The finished video and its timings."""

    video: list[Video] = Field(description="One video.")
    timings: Timings


class LipsyncStatus(BaseModel):
    """A request and its current state."""

    status: RequestStatus
    reason: str | None = Field(description="One sentence if it failed or was cancelled.")
    queue_position: int | None = Field(description="1 is next; null unless `InQueue`.")
    results: Results | None = Field(description="Null unless `Succeed`.")


class LipsyncCanceled(BaseModel):
    """A cancelled request."""

    status: Literal["Succeed"] = Field("Succeed", description="Always `Succeed`.")
    reason: str = Field(description="A human-readable sentence.")


class LipsyncFailure(BaseModel):
    """An error of the submit, status and cancel API."""

    status: Literal["Failed"] = Field("Failed", description="Always `Failed`.")
    reason: str = Field(description="A human-readable sentence.")
    code: str = Field(description="Stable error code.")


_STATUS = {
    JobStatus.QUEUED: RequestStatus.IN_QUEUE,
    JobStatus.PROCESSING: RequestStatus.IN_PROGRESS,
    JobStatus.SUCCEEDED: RequestStatus.SUCCEED,
    JobStatus.FAILED: RequestStatus.FAILED,
    JobStatus.CANCELED: RequestStatus.CANCELLED,
}


def _example() -> dict[str, Any]:
    video, audio = embedded_media()
    return {"seed": 7, "video_source": video, "audio_source": audio}


Submission = Annotated[
    UnreadRequest[LipsyncRequest], Body(openapi_examples=example("Embedded media", _example()))
]
ById = Annotated[
    UnreadRequest[RequestName],
    Body(openapi_examples=example("By id", {"request_id": PREDICTION_ID})),
]
_errors = partial(error_responses, model=LipsyncFailure)
_NOT_IN_QUEUE: dict[int | str, dict[str, Any]] = {
    400: {
        "model": LipsyncFailure,
        "description": "The request is no longer queued",
        "content": {
            "application/json": {
                "example": {
                    "status": "Failed",
                    "reason": "The request is InProgress; only requests that are InQueue can "
                    "be cancelled.",
                    "code": NotInQueue.code,
                }
            }
        },
    }
}


def build_lipsync_router(
    jobs: JobService,
    upload_slots: UploadSlots,
    public_url: str | None = None,
) -> APIRouter:
    """Return the routes of contract C.

    Args:
        jobs: takes and knows the requests.
        upload_slots: has places for bodies.
        public_url: what results' addresses begin with; by default the address that was called.
    """
    router = APIRouter(tags=["lipsync"])
    router.include_router(_calls(jobs, upload_slots, public_url))
    router.include_router(_downloads(jobs))
    return router


def _calls(jobs: JobService, upload_slots: UploadSlots, public_url: str | None) -> APIRouter:
    router = APIRouter(
        route_class=contracts.route_with_errors(lipsync_error),
        responses=_errors(401, 408, 413, 422, 429, 500, 503),
    )

    async def read_name(request: Request, owner: str) -> str:
        with upload_slots.place(request, owner):
            return validate_as(RequestName, await read_json(request)).request_id

    @router.post(
        "/lipsync/submit",
        summary="Submit a request",
        responses=_errors(507),
    )
    async def submit_lipsync(request: Submission, owner: Owner) -> LipsyncAccepted:
        """Queues a request and returns its id at once."""
        job = await contracts.submit(request, jobs, upload_slots, owner, LipsyncRequest, _translate)
        return LipsyncAccepted(request_id=job.id)

    @router.post(
        "/lipsync/status",
        summary="Get the state of a request",
        responses=_errors(404),
    )
    async def get_lipsync_status(request: ById, owner: Owner) -> LipsyncStatus:
        """Returns state, queue position and, on success, the URL of the video."""
        job_id = await read_name(request, owner)
        base_url = base_url_of(request, public_url)

        def look() -> LipsyncStatus:
            return _show(*jobs.look(job_id, owner), base_url)

        return await run_in_threadpool(look)

    @router.post(
        "/lipsync/cancel",
        summary="Cancel a waiting request",
        responses=_errors(404) | _NOT_IN_QUEUE,
    )
    async def cancel_lipsync(request: ById, owner: Owner) -> LipsyncCanceled:
        """Cancels a request that is still `InQueue`; running requests continue.

        `POST /v1/predictions/{job_id}/cancel` also cancels running ones.
        """
        job_id = await read_name(request, owner)
        return await run_in_threadpool(_cancel, jobs, job_id, owner)

    return router


def _downloads(jobs: JobService) -> APIRouter:
    """Return the download route, which existing clients call without a key."""
    router = APIRouter(route_class=contracts.route_with_errors(lipsync_error))

    @router.head(RESULTS + "/{request_id}/{name}", include_in_schema=False)
    @router.get(
        RESULTS + "/{request_id}/{name}",
        summary="Download the video of a request",
        response_class=Response,
        responses=VIDEO_RESPONSES | _errors(404, 500, 503),
        openapi_extra=VIDEO,
    )
    def lipsync_result(
        request: Request, request_id: RequestId, name: contracts.ResultName
    ) -> Response:
        """The file of `results.video[0].url`. No key is needed: its random name is secret."""
        return contracts.send_result(request, jobs, request_id, name)

    return router


def _translate(asked: LipsyncRequest) -> RunRequest:
    return RunRequest(
        InlineSource(asked.video_source, name="video_source"),
        InlineSource(asked.audio_source, name="audio_source"),
        build_options(asked),
    )


def _show(job: Job, position: int | None, base_url: str) -> LipsyncStatus:
    reason = "The request was cancelled." if job.status is JobStatus.CANCELED else None
    return LipsyncStatus(
        status=_STATUS[job.status],
        reason=reason if job.error is None else job.error.message,
        queue_position=None if position is None else position + 1,
        results=_results(job, base_url),
    )


def _results(job: Job, base_url: str) -> Results | None:
    path = contracts.result_path(job)
    if path is None or job.details is None:
        return None
    return Results(
        video=[Video(url=f"{base_url}{RESULTS}/{path}")],
        timings=Timings(inference=job.details["seconds"]["generate"]),
    )


def _cancel(jobs: JobService, job_id: str, owner: str) -> LipsyncCanceled:
    """Cancel a queued job; this contract does not cancel running ones.

    Raises:
        JobNotFound: there is no such job, or it belongs to another key.
        NotInQueue: it is no longer queued.
    """
    found = jobs.job(job_id, owner)
    job = jobs.cancel(job_id, owner, running=False)
    if found.status is JobStatus.QUEUED and job.status is JobStatus.CANCELED:
        return LipsyncCanceled(reason="The request was cancelled.")
    raise NotInQueue(
        f"The request is {_STATUS[job.status]}; only requests that are InQueue can be cancelled."
    )


def lipsync_error(error: LatentSyncError, _reference: str | None) -> JSONResponse:
    """Return the response of an error in the format of this contract."""
    # Existing clients know one status for all invalid requests.
    status = HTTPStatus.UNPROCESSABLE_ENTITY if isinstance(error, InvalidRequest) else error.status
    failure = LipsyncFailure(reason=error.message, code=error.code)
    return JSONResponse(failure.model_dump(), status, error_headers(error))
