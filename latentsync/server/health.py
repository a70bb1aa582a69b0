"""Whether the process lives, whether predictions can be made, and figures for Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import Depends, FastAPI, Response

from latentsync.answers import ErrorResponse
from latentsync.errors import EngineUnavailable
from latentsync.jobs.desk import JobDesk
from latentsync.jobs.engine_availability import EngineAvailability
from latentsync.server.engine import Engine
from latentsync.server.metrics import CONTENT_TYPE, JobMetrics

State = Callable[[], dict[str, Any]]


def engine_state(engine: Engine) -> State:
    """Return what tells of an engine in this process."""

    def state() -> dict[str, Any]:
        pipeline = engine.default()
        return {
            "status": "ready",
            "engine": pipeline.name,
            "model_version": pipeline.model_version,
        }

    return state


def workers_state(engines: EngineAvailability) -> State:
    """Return what tells of the workers that share a database of jobs."""

    def state() -> dict[str, Any]:
        now = engines.now()
        if not now.workers:
            raise EngineUnavailable("No worker is alive; jobs are kept.", retry_after_s=5)
        now.require(None)  # the default engine
        return {"status": "ready", "workers": now.workers}

    return state


def add_health(app: FastAPI, state: State) -> None:
    """Add ``/health`` and ``/ready``.

    Args:
        app: the application.
        state: tells what is ready; raises EngineUnavailable while nothing is.
    """

    @app.get("/health", tags=["health"], summary="The process lives")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get(
        "/ready",
        tags=["health"],
        summary="Predictions can be made",
        responses={503: {"model": ErrorResponse, "description": "Not now; the message says why"}},
    )
    def ready() -> dict[str, Any]:
        return state()


def add_metrics(app: FastAPI, desk: JobDesk, auth: Callable[..., Any]) -> None:
    """Add ``/metrics`` for those who have a key."""
    metrics = JobMetrics(desk)

    @app.get(
        "/metrics",
        tags=["health"],
        summary="Figures for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        dependencies=[Depends(auth)],
    )
    def figures() -> Response:
        return Response(metrics.render(), media_type=CONTENT_TYPE)
