"""The HTTP server: contract A, health, readiness and the OpenAPI document."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from fastapi_offline import FastAPIOffline
from starlette.concurrency import run_in_threadpool

from latentsync import __version__
from latentsync.pipelines.engines import Engines
from latentsync.schema import ErrorResponse
from latentsync.server.auth import BearerAuth
from latentsync.server.body import BodyLimit
from latentsync.server.engine import Engine
from latentsync.server.error_answers import add_error_handlers
from latentsync.server.line import Line
from latentsync.server.openapi import add_openapi
from latentsync.server.predict import PredictDoor, build_predict_router
from latentsync.settings import Settings
from latentsync.workspace import sweep


def build_app(
    settings: Settings, engines: Engines | None = None, *, require_key: bool = True
) -> FastAPI:
    """Build the application of one process with one device.

    Args:
        settings: limits, keys and folders.
        engines: the engines of this process, where another door uses them, too. Whichever is the
            default one is built in the background while the server starts, unless it is built.
        require_key: answer 401 to calls without a key of ``settings.api_keys``. Off is meant for a
            server that listens on loopback only.
    """
    engine = Engine(settings.engine, engines or Engines(settings))
    line = Line(settings.max_waiting)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        sweep(settings.work_dir)
        line.prepare(engine.build)
        yield
        await run_in_threadpool(line.close)

    app = FastAPIOffline(  # /docs and /redoc work without a network, too
        title="latentsync",
        version=__version__,
        description="Post a video and speech, get the video with lips that say the speech.",
        lifespan=lifespan,
    )
    app.state.stop_runs = line.stop  # for the process that serves the app
    app.add_middleware(
        BodyLimit, max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s
    )
    add_error_handlers(app)
    add_openapi(app)
    _add_health(app, engine)
    keys = [key.get_secret_value() for key in settings.api_keys]
    app.include_router(
        build_predict_router(PredictDoor(settings, engine, line)),
        dependencies=[Depends(BearerAuth(keys))] if require_key else [],
    )
    return app


def _add_health(app: FastAPI, engine: Engine) -> None:
    @app.get("/health", tags=["health"], summary="The process lives")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get(
        "/ready",
        tags=["health"],
        summary="The engine is built",
        responses={503: {"model": ErrorResponse, "description": "The engine is not ready"}},
    )
    async def ready() -> dict[str, str]:
        pipeline = engine.default()
        return {
            "status": "ready",
            "engine": pipeline.name,
            "model_version": pipeline.model_version,
        }
