"""Metrics that need no running worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from latentsync.jobs.models import DeviceMemory
from latentsync.jobs.service import JobService
from latentsync.server.health import JobMetrics
from latentsync.settings import Settings
from latentsync.worker.membership import WorkerRegistry


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[JobService]:
    one = JobService(Settings(data_dir=tmp_path / "data", work_dir=tmp_path / "work"))
    yield one
    one.close()


def worker(jobs: JobService, name: str, memory: DeviceMemory | None) -> WorkerRegistry:
    registry = WorkerRegistry(jobs.store.engine, name)
    assert registry.join(f"holder of {name}", lambda _: True)
    registry.heartbeat(memory)
    return registry


def samples(metrics: JobMetrics, name: str) -> dict[tuple[Any, ...], float]:
    """Return the values of one figure by its labels' values."""
    return {
        tuple(label for _, label in sorted(sample.labels.items(), reverse=True)): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
        if sample.name == name
    }


def test_device_memory_is_that_of_the_living_workers(jobs: JobService) -> None:
    metrics = JobMetrics(jobs)
    assert samples(metrics, "latentsync_device_memory_bytes") == {}
    worker(jobs, "on a CPU", None)
    one = worker(jobs, "one", DeviceMemory(3 << 30, 24 << 30))
    worker(jobs, "two", DeviceMemory(5 << 30, 80 << 30))
    assert samples(metrics, "latentsync_workers") == {(): 3}
    assert samples(metrics, "latentsync_device_memory_bytes") == {
        ("one", "used"): 3 << 30,
        ("one", "total"): 24 << 30,
        ("two", "used"): 5 << 30,
        ("two", "total"): 80 << 30,
    }
    one.leave()
    assert samples(metrics, "latentsync_device_memory_bytes") == {
        ("two", "used"): 5 << 30,
        ("two", "total"): 80 << 30,
    }
