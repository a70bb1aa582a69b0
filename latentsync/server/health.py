"""Health, readiness, and metrics for Prometheus."""

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

from fastapi import FastAPI, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from latentsync.errors import EngineUnavailable
from latentsync.jobs import notifier
from latentsync.jobs.disk_space import stored_bytes
from latentsync.jobs.engine_availability import EngineAvailability, LivingWorker, living_workers
from latentsync.jobs.models import JobStatus
from latentsync.jobs.service import JobService
from latentsync.server.openapi import error_responses

State = Callable[[], dict[str, Any]]

_METRICS = {"content": {"text/plain": {"schema": {"type": "string"}}}}


def workers_state(engines: EngineAvailability) -> State:
    """Return the readiness check of the workers that share a database."""

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
        state: the readiness check; raises EngineUnavailable if the server is not ready.
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


_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 900)


class JobMetrics:
    """Metrics of the jobs, read from the database at each scrape.

    Jobs by state, queue depth and bytes are those of the whole queue, whichever process is scraped.
    Counters and histograms cover what has ended in any process since this one started, so of
    several API processes one is enough to scrape.

    Args:
        jobs: whose jobs are counted.
    """

    def __init__(self, jobs: JobService) -> None:
        self._jobs = jobs
        self._registry = CollectorRegistry()
        self._turn = Lock()  # two scrapes at once must not count a job twice
        self._counted_to = notifier.newest_event(jobs.store.engine)
        self._add_gauges()
        self._add_counters()

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        with self._turn:
            self._read_state()
            self._count_ended()
            return generate_latest(self._registry)

    def _add_gauges(self) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"latentsync_{name}", text, labels, registry=self._registry)

        self._jobs_by_status = gauge("jobs", "Jobs in the database, by status", "status")
        self._depth = gauge("queue_depth", "Queued jobs")
        self._oldest = gauge(
            "queue_oldest_seconds", "Seconds that the oldest queued job has waited"
        )
        self._workers = gauge("workers", "Workers with a recent heartbeat")
        self._memory = gauge(
            "device_memory_bytes", "GPU memory of each live worker", "worker", "kind"
        )
        self._stored = gauge("stored_bytes", "Bytes of stored media, uploads and results")
        self._free = gauge("disk_free_bytes", "Free bytes of the file storage; -1 if unknown")

    def _add_counters(self) -> None:
        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(
                f"latentsync_{name}", text, labels, registry=self._registry, buckets=_SECONDS
            )

        self._outcomes = Counter(
            "latentsync_jobs_ended",
            "Finished jobs, by status and error code",
            ("status", "code"),
            registry=self._registry,
        )
        self._wait = histogram(
            "job_wait_seconds", "Seconds from submission to the start of the last attempt"
        )
        self._run = histogram("job_run_seconds", "Seconds of the last attempt")
        self._stage = histogram(
            "job_stage_seconds", "Seconds of each stage of succeeded runs", "stage"
        )

    def _read_state(self) -> None:
        engine = self._jobs.store.engine
        counted = self._jobs.store.count()
        for status, number in counted.items():
            self._jobs_by_status.labels(status).set(number)
        self._depth.set(counted[JobStatus.QUEUED])
        self._oldest.set(self._jobs.store.oldest_waiting_s())
        self._read_workers(living_workers(engine))
        self._stored.set(stored_bytes(self._jobs.store, self._jobs.files))
        free_bytes = self._jobs.files.free_bytes()
        self._free.set(-1 if free_bytes is None else free_bytes)

    def _read_workers(self, living: Sequence[LivingWorker]) -> None:
        self._workers.set(len(living))
        self._memory.clear()  # of workers that are gone
        for worker in living:
            if worker.memory is not None:
                self._memory.labels(worker.name, "used").set(worker.memory.used_bytes)
                self._memory.labels(worker.name, "total").set(worker.memory.total_bytes)

    def _count_ended(self) -> None:
        engine = self._jobs.store.engine
        ended, self._counted_to = notifier.ended_after(engine, self._counted_to)
        for job in ended:
            self._outcomes.labels(job.status, job.error_code or "").inc()
            if job.wait_s is not None and job.run_s is not None:
                self._wait.observe(job.wait_s)
                self._run.observe(job.run_s)
            for stage, seconds in job.stage_s.items():
                self._stage.labels(stage).observe(seconds)


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
        return Response(metrics.render(), media_type=CONTENT_TYPE_LATEST)
