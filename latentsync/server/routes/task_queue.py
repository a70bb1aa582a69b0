"""Contract B: a queue with media by URL: ``/sync``, ``/task`` and ``/queue``.

Only field names and statuses are specific to this contract.
"""

from enum import StrEnum
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Body, Path, Request, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from latentsync.errors import InvalidField, LatentSyncError, shorten
from latentsync.jobs.models import Job, JobStatus
from latentsync.jobs.service import JobService
from latentsync.schema.fields import EngineName, GuidanceScale, InferenceSteps, StrictModel, Text
from latentsync.schema.predict import build_options
from latentsync.schema.responses import ErrorResponse
from latentsync.schema.run import RunRequest, UrlSource
from latentsync.server.errors import error_headers
from latentsync.server.openapi import (
    ABOUT_EXAMPLE,
    UPLOADED_AUDIO,
    UPLOADED_VIDEO,
    VIDEO,
    VIDEO_RESPONSES,
    error_responses,
    example,
)
from latentsync.server.request_body import Owner, UnreadRequest, UploadSlots
from latentsync.server.routes import contracts

OUTPUTS = "/outputs"
TASK_PATHS = ("/sync", "/task", "/queue", OUTPUTS)

TaskId = Annotated[str, Path(description="`task_id` of the task.", openapi_examples=ABOUT_EXAMPLE)]

# Names of checkpoints: their paths in the weights folder, and the name that the latest one has in
# installations with one checkpoint. They only select the engine and are never opened.
_CHECKPOINTS: dict[str, EngineName] = {
    "latentsync-1.5/latentsync_unet.pt": "latentsync-1.5",
    "latentsync-1.6/latentsync_unet.pt": "latentsync-1.6",
    "latentsync_unet.pt": "latentsync-1.6",
    "checkpoints/latentsync_unet.pt": "latentsync-1.6",
}


class TaskRequest(StrictModel):
    """A video to make, by URL."""

    video_url: Text = Field(
        description="URL of the source video: http or https, or `upload://…` of an upload."
    )
    audio_url: Text = Field(description="URL of the speech recording, as for the video.")
    inference_ckpt_path: Text | None = Field(
        None, description=f"A known checkpoint: {', '.join(_CHECKPOINTS)}."
    )
    inference_steps: InferenceSteps = 20
    guidance_scale: GuidanceScale = 1.0


Submission = Annotated[
    UnreadRequest[TaskRequest],
    Body(
        openapi_examples=example(
            "Media stored with POST /v1/uploads",
            {"video_url": UPLOADED_VIDEO, "audio_url": UPLOADED_AUDIO},
        )
    ),
]


class TaskAccepted(BaseModel):
    """An accepted task."""

    task_id: str = Field(description="Id of the task.")
    queue_position: int = Field(description="Number of tasks ahead; 0 is next or running.")


class TaskStatus(StrEnum):
    """State of a task; `completed` and `failed` are final."""

    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


class Task(BaseModel):
    """A task and its current state."""

    status: TaskStatus
    progress: float = Field(description="Fraction of the run, 0 to 1.")
    message: str = Field(description="A human-readable sentence.")
    output_video_url: str | None = Field(
        description="Path of the video on this server; null until `completed`."
    )
    output_mask_url: str | None = Field(description="Always null: masks are not stored.")


class QueuedTask(BaseModel):
    """One of your tasks in the queue."""

    task_id: str = Field(description="Id of the task.")
    position: int = Field(description="Number of tasks ahead, including those of other callers.")


class TaskQueue(BaseModel):
    """The queue."""

    queue_length: int = Field(
        description="Number of queued tasks, including those of other callers."
    )
    is_processing: bool = Field(description="Whether a task is running.")
    queued_tasks: list[QueuedTask] = Field(description="Your own queued tasks.")


class TaskErrorResponse(ErrorResponse):
    """An error of the queue API by URL."""

    detail: str = Field(description="Same as `message`, for clients that expect FastAPI's format.")


_STATUS = {
    JobStatus.QUEUED: TaskStatus.QUEUED,
    JobStatus.PROCESSING: TaskStatus.PROCESSING,
    JobStatus.SUCCEEDED: TaskStatus.COMPLETED,
    JobStatus.FAILED: TaskStatus.FAILED,
    JobStatus.CANCELED: TaskStatus.FAILED,
}


def build_tasks_router(jobs: JobService, upload_slots: UploadSlots) -> APIRouter:
    """Return the routes of contract B.

    Args:
        jobs: takes and knows the tasks.
        upload_slots: has places for bodies.
    """
    router = APIRouter(tags=["tasks"])
    router.include_router(_calls(jobs, upload_slots))
    router.include_router(_downloads(jobs))
    return router


def _calls(jobs: JobService, upload_slots: UploadSlots) -> APIRouter:
    router = APIRouter(
        route_class=contracts.route_with_errors(task_error), responses=_errors(401, 500, 503)
    )

    @router.post(
        "/sync",
        summary="Create a task",
        responses=_errors(400, 403, 404, 408, 413, 422, 429, 507),
    )
    async def sync(request: Submission, owner: Owner) -> TaskAccepted:
        """Queues a task and returns at once, in spite of its name.

        Media are given by URL; poll `GET /task/{task_id}` for the state.
        """
        job = await contracts.submit(request, jobs, upload_slots, owner, TaskRequest, _translate)
        position = await run_in_threadpool(jobs.store.position, job)
        return TaskAccepted(task_id=job.id, queue_position=position or 0)

    @router.get("/task/{task_id}", summary="Get a task", responses=_errors(404))
    def get_task(task_id: TaskId, owner: Owner) -> Task:
        """Returns state, progress and, once completed, the path of the video."""
        return _show(*jobs.look(task_id, owner))

    @router.get("/queue", summary="Get the queue")
    def get_queue(owner: Owner) -> TaskQueue:
        """Returns the length of the queue and the positions of your own tasks."""
        counts = jobs.store.count()
        waiting = enumerate(jobs.store.waiting())
        own = [(job.id, position) for position, job in waiting if job.owner == owner]
        return TaskQueue(
            queue_length=counts[JobStatus.QUEUED],
            is_processing=counts[JobStatus.PROCESSING] > 0,
            queued_tasks=[QueuedTask(task_id=task, position=position) for task, position in own],
        )

    return router


def _downloads(jobs: JobService) -> APIRouter:
    """Return the download route, which existing clients call without a key."""
    router = APIRouter(route_class=contracts.route_with_errors(task_error))

    @router.head(OUTPUTS + "/{task_id}/{name}", include_in_schema=False)
    @router.get(
        OUTPUTS + "/{task_id}/{name}",
        summary="Download the video of a task",
        response_class=Response,
        responses=VIDEO_RESPONSES | _errors(404, 500, 503),
        openapi_extra=VIDEO,
    )
    def task_output(request: Request, task_id: TaskId, name: contracts.ResultName) -> Response:
        """The file of `output_video_url`. No key is needed: its random name is secret."""
        return contracts.send_result(request, jobs, task_id, name)

    return router


def _translate(task: TaskRequest) -> RunRequest:
    return RunRequest(
        UrlSource(task.video_url, name="video_url"),
        UrlSource(task.audio_url, name="audio_url"),
        build_options(task, engine=_engine_of(task.inference_ckpt_path)),
    )


def _engine_of(checkpoint: str | None) -> EngineName | None:
    if checkpoint is None:
        return None
    if checkpoint not in _CHECKPOINTS:
        raise InvalidField(
            f"inference_ckpt_path is {shorten(checkpoint)}. Allowed: {', '.join(_CHECKPOINTS)}.",
            field="inference_ckpt_path",
        )
    return _CHECKPOINTS[checkpoint]


def _show(job: Job, position: int | None) -> Task:
    path = contracts.result_path(job)
    return Task(
        status=_STATUS[job.status],
        progress=job.fraction,
        message=_message(job, position),
        output_video_url=None if path is None else f"{OUTPUTS}/{path}",
        output_mask_url=None,
    )


def _message(job: Job, position: int | None) -> str:
    if job.error is not None:
        return job.error.message
    return {
        JobStatus.QUEUED: f"Queued, {position or 0} ahead.",
        JobStatus.PROCESSING: f"Processing: {job.stage or 'starting'}.",
        JobStatus.SUCCEEDED: "Done.",
        JobStatus.FAILED: "The task failed.",
        JobStatus.CANCELED: "The task was canceled.",
    }[job.status]


def task_error(error: LatentSyncError, reference: str | None) -> JSONResponse:
    """Return the response of an error in the format of this contract."""
    body = TaskErrorResponse(**error.to_dict(), run_id=reference, detail=error.message)
    return JSONResponse(body.model_dump(), error.status, error_headers(error))


_errors = partial(error_responses, model=TaskErrorResponse)
