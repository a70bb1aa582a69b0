"""Builds the HTTP application: its routes and middleware."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.concurrency import run_in_threadpool

from latentsync import __version__
from latentsync.jobs.disk_space import check_folders
from latentsync.jobs.notifier import JobNotifier
from latentsync.jobs.schemas import Prediction
from latentsync.jobs.service import JobService, SurveyEngines
from latentsync.schema.responses import Problem
from latentsync.server.errors import NATIVE_PATHS, ErrorShape, add_error_handlers, problem_response
from latentsync.server.health import add_health, add_metrics, workers_state
from latentsync.server.middleware import (
    AccessRules,
    Authentication,
    BearerAuth,
    BodyLimit,
    DocsPolicy,
    LoopbackGuard,
    UnreadBodyClose,
)
from latentsync.server.openapi import add_openapi, introduction, operation_id, schemas_of
from latentsync.server.request_body import UploadSlots
from latentsync.server.routes.lipsync_queue import (
    LIPSYNC_PATHS,
    RESULTS,
    build_lipsync_router,
    lipsync_error,
)
from latentsync.server.routes.openapi import form_schema
from latentsync.server.routes.predict import QueuedHandler, WaitingSlots, build_predict_router
from latentsync.server.routes.predictions import build_v1_router
from latentsync.server.routes.predictions_api import PredictionsApi
from latentsync.server.routes.task_queue import OUTPUTS, TASK_PATHS, build_tasks_router, task_error
from latentsync.server.routes.uploads import UPLOADS_PATH
from latentsync.settings import MIB, Settings
from latentsync.workspace import sweep

_FORM_BYTES = MIB  # of a form, without its files
if TYPE_CHECKING:
    from latentsync.pipelines.registry import PipelineCache

_OPEN_PATHS = (
    *("/health", "/ready", "/docs", "/redoc", "/openapi.json"),
    "/page",  # reads the key from a cookie
    *(OUTPUTS, RESULTS),  # the random name of a result is its secret
)
_DOCS_PAGE = {
    "tryItOutEnabled": True,
    "defaultModelsExpandDepth": 0,
    "displayRequestDuration": True,
}
_ERROR_SHAPES: dict[str, ErrorShape] = {
    NATIVE_PATHS: problem_response,
    **dict.fromkeys(TASK_PATHS, task_error),
    **dict.fromkeys(LIPSYNC_PATHS, lipsync_error),
}


def build_app(
    settings: Settings,
    engines: PipelineCache | None = None,
    *,
    require_key: bool = True,
    with_page: bool = False,
    survey: SurveyEngines | None = None,
) -> FastAPI:
    """Build the application of one process.

    Args:
        settings: limits, keys and folders.
        engines: the engines of this process. With them, ``/predict`` runs in this process and is
            the only API, behind the queue of a cloud platform. Without them, every prediction is a
            job that a worker runs, and this process loads no engine.
        require_key: answer 401 to requests without a key of ``settings.api_keys``. False is for a
            server that listens on loopback only, see :class:`LoopbackGuard`.
        with_page: serve the page at ``/``; for a server with jobs, needs the extra ``ui``.
        survey: finds which engines can run here, if this process starts a worker with the same
            settings.
    """
    keys = [key.get_secret_value() for key in settings.api_keys]
    auth = BearerAuth(keys) if require_key else None
    if engines is None:
        app = _app_with_jobs(settings, auth, with_page, survey)
    else:
        app = _app_with_engines(settings, engines, auth)
    if not require_key:
        app.add_middleware(LoopbackGuard, shapes=_ERROR_SHAPES)
    app.add_middleware(UnreadBodyClose)  # added last, so it is the outermost
    return app


def _app_with_engines(
    settings: Settings, engines: PipelineCache, auth: BearerAuth | None
) -> FastAPI:
    """Build the application; the default engine loads in the background."""
    # Imports the runner and the codecs, which a server with workers does not need.
    from latentsync.server.routes.predict_inline import (
        Engine,
        InlineHandler,
        SerialExecutor,
        engine_state,
    )

    engine = Engine(settings.engine, engines)
    executor = SerialExecutor(settings.max_waiting)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        sweep(settings.work_dir)
        executor.prepare(engine.build)
        yield
        await run_in_threadpool(executor.close)

    rules = AccessRules(auth, _OPEN_PATHS)
    app = _new_app(settings, lifespan, introduction(with_jobs=False), rules)
    add_openapi(app, {}, _ERROR_SHAPES, rules)
    app.state.close_streams = lambda: None  # read by the process that serves the app
    app.state.stop_runs = executor.stop
    add_health(app, engine_state(engine))
    app.include_router(build_predict_router(InlineHandler(settings, engine, executor)))
    return app


def _app_with_jobs(
    settings: Settings, auth: BearerAuth | None, with_page: bool, survey: SurveyEngines | None
) -> FastAPI:
    check_folders(settings)
    jobs = JobService(settings, survey=survey)
    notifier = JobNotifier(jobs.store.engine)
    waiting_slots = WaitingSlots(settings.max_waiting)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for folder in {settings.work_dir, jobs.reserve.receiving_dir}:
            sweep(folder)
        yield
        await run_in_threadpool(jobs.close)

    keyless_paths = TASK_PATHS if settings.tasks_without_key else ()
    rules = AccessRules(auth, _OPEN_PATHS, keyless_paths, settings.public_url)
    app = _new_app(settings, lifespan, introduction(with_jobs=True), rules)
    answers = schemas_of(Prediction, Problem, mode="serialization")
    add_openapi(app, answers | {"PredictionForm": form_schema()}, _ERROR_SHAPES, rules)
    app.state.close_streams = notifier.close
    app.state.stop_runs = waiting_slots.close
    add_health(app, workers_state(jobs.engines))
    add_metrics(app, jobs)
    app.include_router(
        build_predict_router(QueuedHandler(jobs, notifier, waiting_slots), with_uploads=True)
    )
    upload_slots = UploadSlots(settings)
    api = PredictionsApi(jobs, notifier, settings, upload_slots)
    app.include_router(build_v1_router(api))
    app.include_router(build_tasks_router(jobs, upload_slots))
    app.include_router(build_lipsync_router(jobs, upload_slots, settings.public_url))
    if with_page:
        from latentsync.server.routes.page import add_page  # an optional dependency

        add_page(app, api, None if auth is None else auth.owner)
    return app


def _new_app(settings: Settings, lifespan: Any, description: str, rules: AccessRules) -> FastAPI:
    app = FastAPIOffline(  # /docs and /redoc load nothing from other hosts
        title="latentsync",
        version=__version__,
        description=description,
        license_info={"name": "Apache License 2.0", "identifier": "Apache-2.0"},
        servers=_servers(settings.public_url),
        generate_unique_id_function=operation_id,
        swagger_ui_parameters=_DOCS_PAGE,
        lifespan=lifespan,
    )
    app.add_middleware(Authentication, rules=rules, shapes=_ERROR_SHAPES)
    app.add_middleware(
        BodyLimit,
        max_bytes=settings.max_body_bytes,
        max_streamed_bytes=2 * settings.max_media_bytes + _FORM_BYTES,
        timeout_s=settings.body_timeout_s,
        streamed_paths=(UPLOADS_PATH,),
    )
    app.add_middleware(DocsPolicy)
    add_error_handlers(app, _ERROR_SHAPES)
    return app


def _servers(public_url: str | None) -> list[dict[str, Any]]:
    """Return the ``servers`` of the OpenAPI document."""
    servers = [{"url": "/", "description": "This server."}]
    if public_url is not None:
        servers.append({"url": public_url, "description": "Its public address."})
    return servers
