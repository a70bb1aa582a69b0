"""The routes of the native API: paths, words and numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from latentsync.jobs.desk import check_job_id
from latentsync.jobs.job import JobStatus
from latentsync.jobs.representation import Prediction
from latentsync.server.v1 import openapi as documented
from latentsync.server.v1.api import NativeApi
from latentsync.server.v1.models import Models, list_models
from latentsync.server.v1.representation import PredictionPage, Upload
from latentsync.server.v1.uploads import receive_upload

_PAGE, _PAGE_MAX = 20, 100

JobId = Annotated[str, Path(description="a prediction's id", json_schema_extra={"format": "uuid"})]
UploadId = Annotated[str, Path(description="an upload's id")]
Status = Annotated[JobStatus | None, Query(description="only those in this state")]
Limit = Annotated[int, Query(ge=1, le=_PAGE_MAX, description="at most so many")]
Cursor = Annotated[str | None, Query(description="next_cursor of the page before")]
Auth = Callable[..., Any]


def build_v1_router(api: NativeApi, auth: Auth) -> APIRouter:
    """Return the routes below ``/v1``.

    Args:
        api: what answers.
        auth: the dependency whose value is the caller as an owner of jobs.
    """
    router = APIRouter(prefix="/v1", responses=documented.problems(401, 422, 500, 503))
    router.include_router(_submitting(api, auth))
    router.include_router(_asking(api, auth))
    router.include_router(_media_and_models(api, auth))
    return router


def _submitting(api: NativeApi, auth: Auth) -> APIRouter:
    router = APIRouter(tags=["predictions"], responses=documented.SUBMIT_PROBLEMS)

    @router.post(
        "/predictions",
        summary="Hand in a prediction, or several",
        status_code=202,
        responses=documented.SUBMIT_RESPONSES,
        openapi_extra=documented.SUBMIT,
    )
    async def submit(request: Request, owner: str = Depends(auth)) -> Response:
        return await api.submit(request, owner)

    @router.post(
        "/predictions/batch",
        summary="Hand in several predictions: all are taken, or none",
        status_code=202,
        responses=documented.BATCH_RESPONSES,
        openapi_extra=documented.BATCH,
    )
    async def submit_batch(request: Request, owner: str = Depends(auth)) -> Response:
        return await api.submit(request, owner, only_lists=True)

    @router.put(
        "/predictions/{job_id}",
        summary="Hand in a prediction under an id of one's own, as often as one likes",
        status_code=202,
        responses=documented.SUBMIT_ONE_RESPONSES,
        openapi_extra=documented.SUBMIT_ONE,
    )
    async def submit_as(request: Request, job_id: JobId, owner: str = Depends(auth)) -> Response:
        return await api.submit(request, owner, job_id=check_job_id(job_id))

    return router


def _asking(api: NativeApi, auth: Auth) -> APIRouter:
    router = APIRouter(tags=["predictions"])
    unknown = documented.problems(404)

    @router.head("/predictions", include_in_schema=False)
    @router.get("/predictions", summary="One's predictions, latest first")
    def predictions(
        request: Request,
        status: Status = None,
        limit: Limit = _PAGE,
        cursor: Cursor = None,
        owner: str = Depends(auth),
    ) -> PredictionPage:
        return api.page(request, owner, status, limit, cursor)

    @router.head("/predictions/{job_id}", include_in_schema=False)
    @router.get(
        "/predictions/{job_id}",
        summary="How far a prediction is",
        response_model=Prediction,
        responses=unknown,
    )
    async def prediction(request: Request, job_id: JobId, owner: str = Depends(auth)) -> Response:
        return await api.status(request, job_id, owner)

    @router.post(
        "/predictions/{job_id}/cancel",
        summary="Cancel it: at once while it waits, within two seconds while it runs",
        responses=unknown,
    )
    def cancel(request: Request, job_id: JobId, owner: str = Depends(auth)) -> Prediction:
        canceled = api.desk.cancel(api.find(job_id, owner).id, owner)
        return api.show(canceled, api.base_url(request))

    @router.delete(
        "/predictions/{job_id}",
        summary="Erase it: its media, its result and everything that is recorded of it",
        description="One that waits or runs is canceled first, and no webhook tells of it. From "
        "now on every address of it answers 404. Its id and its Idempotency-Key are free again.",
        status_code=204,
        response_class=Response,
        responses=unknown | documented.ERASURE | documented.problems(507),
    )
    async def erase(job_id: JobId, owner: str = Depends(auth)) -> Response:
        return await api.erase(job_id, owner)

    @router.get(
        "/predictions/{job_id}/events",
        summary="What happens to it, as server-sent events",
        response_class=Response,
        responses=unknown | documented.EVENTS,
    )
    def events(request: Request, job_id: JobId, owner: str = Depends(auth)) -> Response:
        return api.events(request, job_id, owner)

    @router.head("/predictions/{job_id}/output", include_in_schema=False)
    @router.get(
        "/predictions/{job_id}/output",
        summary="The finished video",
        response_class=Response,
        responses=documented.problems(404, 410) | documented.OUTPUT,
    )
    def output(request: Request, job_id: JobId, owner: str = Depends(auth)) -> Response:
        return api.output(request, job_id, owner)

    return router


def _media_and_models(api: NativeApi, auth: Auth) -> APIRouter:
    router = APIRouter()

    @router.post(
        "/uploads",
        tags=["uploads"],
        summary="Store a file, to be used instead of an address",
        status_code=201,
        responses=documented.UPLOAD_PROBLEMS,
        openapi_extra=documented.UPLOAD,
    )
    async def upload(request: Request, owner: str = Depends(auth)) -> Upload:
        with api.arrivals.place(request, owner, is_streamed=True):
            return await receive_upload(request, api.desk, api.settings, owner)

    @router.delete(
        "/uploads/{upload_id}",
        tags=["uploads"],
        summary="Remove an uploaded file",
        description="Predictions that were handed in with it have copies of their own.",
        status_code=204,
        response_class=Response,
        responses=documented.problems(404) | documented.REMOVED,
    )
    def remove_upload(upload_id: UploadId, owner: str = Depends(auth)) -> Response:
        api.desk.remove_upload(upload_id, owner)
        return Response(status_code=204)

    @router.head("/models", include_in_schema=False)
    @router.get("/models", tags=["models"], summary="The engines to choose from")
    def models(_owner: str = Depends(auth)) -> Models:
        return list_models(api.settings, api.desk.engines.now())

    return router
