"""The routes of the native API below ``/v1``."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field

from latentsync.jobs.engine_availability import Availability
from latentsync.jobs.models import JobStatus
from latentsync.jobs.schemas import Prediction, PredictionPage, Upload
from latentsync.jobs.service import check_job_id
from latentsync.schema.engines import ENGINES
from latentsync.server.openapi import ABOUT_EXAMPLE, ABOUT_UPLOAD, VIDEO, VIDEO_RESPONSES
from latentsync.server.request_body import Owner, UnreadBodyRoute
from latentsync.server.routes import openapi as documented
from latentsync.server.routes.predictions_api import PredictionsApi
from latentsync.server.routes.uploads import receive_upload
from latentsync.settings import Settings

_PAGE, _PAGE_MAX = 20, 100

JobId = Annotated[
    str,
    Path(
        description="Id of the prediction, a UUID.",
        json_schema_extra={"format": "uuid"},
        openapi_examples=ABOUT_EXAMPLE,
    ),
]
UploadId = Annotated[str, Path(description="`id` of the upload.", openapi_examples=ABOUT_UPLOAD)]
Status = Annotated[JobStatus | None, Query(description="Only predictions in this state.")]
Limit = Annotated[int, Query(ge=1, le=_PAGE_MAX, description="Length of a page.")]
Cursor = Annotated[str | None, Query(description="`next_cursor` of the page before this one.")]


_NOT_KNOWN = "No worker is running, so it is not known whether it can run; jobs stay queued."


class Model(BaseModel):
    """One engine."""

    id: str = Field(description="Value for the field `engine`.")
    description: str = Field(description="What it does and what it needs.")
    is_default: bool = Field(description="Whether requests without `engine` use it.")
    available: bool = Field(
        description="Whether a worker can run it; otherwise requests for it are refused."
    )
    reason: str | None = Field(
        description="Why it cannot run and how to fix that, or why that is not known."
    )


class ModelList(BaseModel):
    """The engines, and the default one."""

    default: str = Field(
        description="Engine of requests without `engine`. `auto` is `latentsync-1.6` on a worker "
        "with a GPU, else `draft`."
    )
    models: list[Model] = Field(description="The engines.")


def list_models(settings: Settings, engines: Availability) -> ModelList:
    """Return the engines, which one is taken by default, and which can run."""
    models = [
        Model(
            id=spec.name,
            description=spec.description,
            is_default=spec.name == settings.engine,
            available=engines.obstacle(spec.name) is None,
            reason=_reason(engines, spec.name),
        )
        for spec in ENGINES.values()
    ]
    return ModelList(default=settings.engine, models=models)


def _reason(engines: Availability, name: str) -> str | None:
    if (found := engines.obstacle(name)) is not None:
        return found.reason
    return None if engines.surveys else _NOT_KNOWN


def build_v1_router(api: PredictionsApi) -> APIRouter:
    """Return the routes below ``/v1``.

    Args:
        api: what answers.
    """
    router = APIRouter(prefix="/v1", responses=documented.problems(401, 422, 500, 503))
    router.include_router(_submitting(api))
    router.include_router(_asking(api))
    router.include_router(_media_and_models(api))
    return router


def _submitting(api: PredictionsApi) -> APIRouter:
    router = APIRouter(
        tags=["predictions"],
        responses=documented.SUBMIT_PROBLEMS,
        route_class=UnreadBodyRoute,
    )

    @router.post(
        "/predictions",
        summary="Create a prediction, or several",
        status_code=202,
        responses=documented.SUBMIT_RESPONSES,
        openapi_extra=documented.SUBMIT,
    )
    async def create_prediction(request: documented.OneOrSeveral, owner: Owner) -> Response:
        """Queues a prediction and returns it at once, or waits with `Prefer`.

        Send the fields as JSON, or as a form with the media as files. An object
        `{"predictions": [...]}`, or the list alone, creates several: all or none.
        """
        return await api.submit(request, owner)

    @router.post(
        "/predictions/batch",
        summary="Create several predictions, all or none",
        status_code=202,
        responses=documented.BATCH_RESPONSES,
        openapi_extra=documented.BATCH,
    )
    async def create_prediction_batch(request: documented.Several, owner: Owner) -> Response:
        """Queues up to 100 predictions. If one of them is invalid, none is created."""
        return await api.submit(request, owner, only_lists=True)

    @router.put(
        "/predictions/{job_id}",
        summary="Create a prediction with a client-chosen id (idempotent)",
        status_code=202,
        responses=documented.SUBMIT_ONE_RESPONSES,
        openapi_extra=documented.SUBMIT_ONE,
    )
    async def put_prediction(request: documented.One, job_id: JobId, owner: Owner) -> Response:
        """Like `POST /v1/predictions`, with a UUID of your choice.

        Repeating the request with the same body returns the same prediction. An id that was used
        for another request, by any key, returns 409.
        """
        return await api.submit(request, owner, job_id=check_job_id(job_id))

    return router


def _asking(api: PredictionsApi) -> APIRouter:
    router = APIRouter(tags=["predictions"])
    unknown = documented.problems(404)

    @router.head("/predictions", include_in_schema=False)
    @router.get("/predictions", summary="List your predictions, newest first")
    def list_predictions(
        request: Request,
        owner: Owner,
        status: Status = None,
        limit: Limit = _PAGE,
        cursor: Cursor = None,
    ) -> PredictionPage:
        """Returns a page of the predictions of your key; `next_cursor` is for the next page."""
        return api.page(request, owner, status, limit, cursor)

    @router.head("/predictions/{job_id}", include_in_schema=False)
    @router.get(
        "/predictions/{job_id}",
        summary="Get a prediction",
        response_model=Prediction,
        responses=unknown,
    )
    async def get_prediction(request: Request, job_id: JobId, owner: Owner) -> Response:
        """Returns the state, progress, queue position and, once it has ended, the URL of the video.

        Polling once a second is fine.
        """
        return await api.status(request, job_id, owner)

    @router.post(
        "/predictions/{job_id}/cancel",
        summary="Cancel a prediction",
        responses=unknown,
    )
    def cancel_prediction(request: Request, job_id: JobId, owner: Owner) -> Prediction:
        """Cancels a queued prediction at once, a running one within two seconds.

        A prediction that has ended is unchanged.
        """
        canceled = api.jobs.cancel(api.find(job_id, owner).id, owner)
        return api.show(canceled, api.base_url(request))

    @router.delete(
        "/predictions/{job_id}",
        summary="Erase a prediction",
        status_code=204,
        response_class=Response,
        responses=unknown | documented.ERASURE | documented.problems(507),
    )
    async def delete_prediction(job_id: JobId, owner: Owner) -> Response:
        """Removes its media, its video and its database rows.

        A queued or running prediction is canceled first, and no webhook is sent. From then on its
        URLs return 404. Its id and its `Idempotency-Key` can be used again.
        """
        return await api.erase(job_id, owner)

    @router.get(
        "/predictions/{job_id}/events",
        summary="Follow a prediction (server-sent events)",
        response_class=Response,
        responses=unknown | documented.EVENTS_RESPONSES,
        openapi_extra=documented.EVENTS,
    )
    def prediction_events(request: Request, job_id: JobId, owner: Owner) -> Response:
        """Sends past events, then new ones until the prediction has ended.

        Events: `status`, `progress`, `position` (new queue position), `log` (messages of the
        run) and `webhook` (attempts to deliver it). `data` is a JSON object. After a broken
        connection, `Last-Event-ID` continues the stream; browsers send it automatically.
        """
        return api.events(request, job_id, owner)

    @router.head("/predictions/{job_id}/output", include_in_schema=False)
    @router.get(
        "/predictions/{job_id}/output",
        summary="Download the video",
        response_class=Response,
        responses=unknown | documented.NO_VIDEO | VIDEO_RESPONSES,
        openapi_extra=VIDEO,
    )
    def prediction_output(request: Request, job_id: JobId, owner: Owner) -> Response:
        """Returns the MP4 of a prediction that has succeeded, whole or in parts (`Range`)."""
        return api.output(request, job_id, owner)

    return router


def _media_and_models(api: PredictionsApi) -> APIRouter:
    router = APIRouter()

    @router.post(
        "/uploads",
        tags=["uploads"],
        summary="Store a media file",
        status_code=201,
        responses=documented.UPLOAD_PROBLEMS,
        openapi_extra=documented.UPLOAD,
    )
    async def create_upload(request: Request, owner: Owner) -> Upload:
        """Stores the body as a file of your key; use the returned `url` as a media URL.

        The body is the file itself, not a form: `curl --data-binary @video.mp4`. The
        file type is detected from the content.
        """
        with api.upload_slots.place(request, owner, is_streamed=True):
            return await receive_upload(request, api.jobs, api.settings, owner)

    @router.delete(
        "/uploads/{upload_id}",
        tags=["uploads"],
        summary="Remove an upload",
        status_code=204,
        response_class=Response,
        responses=documented.problems(404) | documented.REMOVED,
    )
    def delete_upload(upload_id: UploadId, owner: Owner) -> Response:
        """Removes the file; predictions that use it have their own copies."""
        api.jobs.remove_upload(upload_id, owner)
        return Response(status_code=204)

    @router.head("/models", include_in_schema=False)
    @router.get("/models", name="list_models", tags=["models"], summary="List the engines")
    def models() -> ModelList:
        """Returns the values of the field `engine`, which can run now, and the default."""
        return list_models(api.settings, api.jobs.engines.now())

    return router
