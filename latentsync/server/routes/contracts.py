"""Shared by the two queue contracts: bodies, errors and result files."""

import asyncio
import hmac
import uuid
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import Path
from starlette.requests import Request
from starlette.responses import Response

from latentsync.errors import JobNotFound
from latentsync.jobs.models import Job
from latentsync.jobs.service import JobService, Submission
from latentsync.public_errors import to_public_error
from latentsync.schema.fields import StrictModel
from latentsync.schema.predict import validate_as
from latentsync.schema.run import RunRequest
from latentsync.server.errors import ErrorShape
from latentsync.server.openapi import RESULT_NAME
from latentsync.server.request_body import UnreadBodyRoute, UploadSlots, parse_json_body
from latentsync.server.responses import stored_video

Fields = TypeVar("Fields", bound=StrictModel)
Handler = Callable[[Request], Coroutine[Any, Any, Response]]

ResultName = Annotated[
    str,
    Path(
        description="Last part of the video's URL.",
        openapi_examples={"name": {"summary": "A result", "value": RESULT_NAME}},
    ),
]

_NO_FINGERPRINT = ""  # these contracts have no idempotency keys


def route_with_errors(shape: ErrorShape) -> type[UnreadBodyRoute]:
    """Return a route class that formats the errors of its endpoints by ``shape``.

    Args:
        shape: builds the response from an error and the reference of its log entry.
    """

    class Route(UnreadBodyRoute):
        def get_route_handler(self) -> Handler:
            handle = super().get_route_handler()

            async def answer(request: Request) -> Response:
                try:
                    return await handle(request)
                except Exception as error:
                    reference = str(uuid.uuid4())
                    return shape(to_public_error(error, reference), reference)

            return answer

    return Route


async def submit(
    request: Request,
    jobs: JobService,
    upload_slots: UploadSlots,
    owner: str,
    model: type[Fields],
    translate: Callable[[Fields], RunRequest],
) -> Job:
    """Parse the body and submit a job.

    Args:
        request: the request, with an unread body.
        jobs: the job service.
        upload_slots: limits concurrent bodies.
        owner: the caller.
        model: the request model of the contract.
        translate: converts it to a run request.
    """
    with upload_slots.place(request, owner):
        run = await parse_json_body(request, lambda body: translate(validate_as(model, body)))
        submitting = jobs.begin_submit([Submission(run, _NO_FINGERPRINT)], owner)
        [job] = await asyncio.wrap_future(submitting)
    return job


def result_path(job: Job) -> str | None:
    """Return the unguessable ``{job id}/{random name}.mp4``; None if there is no result."""
    return None if job.result_key is None else f"{job.id}/{_name(job.result_key)}"


def send_result(request: Request, jobs: JobService, job_id: str, name: str) -> Response:
    """Send a result; its secret name replaces the key, since existing clients send none.

    Raises:
        JobNotFound: there is no such result, or it was deleted.
    """
    missing = JobNotFound("There is no such result.")
    try:
        job = jobs.store.get(str(uuid.UUID(job_id)))
    except ValueError:
        raise missing from None
    if job is None or job.result_key is None:
        raise missing
    if not hmac.compare_digest(_name(job.result_key).encode(), name.encode()):
        raise missing
    try:
        return stored_video(request, jobs.files, job.result_key, name=f"{job.id}.mp4")
    except FileNotFoundError:
        raise missing from None


def _name(result_key: str) -> str:
    return result_key.rsplit("/", 1)[-1]
