"""Whether the process lives, whether predictions can be made, and figures for Prometheus."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Response

from latentsync.errors import EngineUnavailable
from latentsync.jobs.engine_availability import EngineAvailability
from latentsync.jobs.service import JobService
from latentsync.server.metrics import CONTENT_TYPE, JobMetrics
from latentsync.server.openapi import error_responses

State = Callable[[], dict[str, Any]]

_METRICS = {"content": {"text/plain": {"schema": {"type": "string"}}}}


def workers_state(engines: EngineAvailability) -> State:
    """Return what tells of the workers that share a database of jobs."""

    def state() -> dict[str, Any]:
        now = engines.now()
        if not now.workers:
            raise EngineUnavailable("No worker is running; jobs stay queued.", retry_after_s=5)
        now.require(None)  # the default engine
        return {"status": "ready", "workers": now.workers}

    return state


def add_health(app: FastAPI, state: State) -> None:
    """Add ``/health`` and ``/ready``.

    Args:
        app: the application.
        state: tells what is ready; raises EngineUnavailable while nothing is.
    """

    @app.get("/health", tags=["health"], summary="Check that the server runs")
    async def health() -> dict[str, str]:
        """Returns 200 while the process runs, whatever the state of workers and storage."""
        return {"status": "ok"}

    @app.get(
        "/ready",
        tags=["health"],
        summary="Check that predictions can be made",
        responses=error_responses(500, 503),
    )
    def ready() -> dict[str, Any]:
        """Returns 200 if a live worker can run the default engine.

        In a server without jobs: if its engine is loaded.
        """
        return state()


def add_metrics(app: FastAPI, jobs: JobService) -> None:
    """Add ``/metrics`` for those who have a key."""
    metrics = JobMetrics(jobs)

    @app.get(
        "/metrics",
        tags=["health"],
        summary="Get metrics for Prometheus",
        response_class=Response,
        responses={200: _METRICS, **error_responses(401, 500, 503)},
    )
    def get_metrics() -> Response:
        """Queue length, finished jobs, seconds per stage, storage and GPU memory."""
        return Response(metrics.render(), media_type=CONTENT_TYPE)
