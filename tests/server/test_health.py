"""Readiness and metrics of a server whose workers run the jobs."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.jobs.square_runner import BROKEN
from tests.server.live import AUTH, serving_jobs, settings_for, small_body

pytestmark = pytest.mark.processes

Figures = dict[tuple[str, ...], float]


def scrape(url: str) -> Figures:
    """Return the metrics by name and label values, empty ones last."""
    answer = httpx.get(f"{url}/metrics", headers=AUTH)
    assert answer.status_code == 200
    return {
        (sample.name, *sorted(sample.labels.values(), reverse=True)): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_without_a_worker_jobs_are_queued_but_the_server_is_not_ready(tmp_path: Path) -> None:
    body = small_body(tmp_path)
    with serving_jobs(settings_for(tmp_path), workers=0) as url:
        assert httpx.get(f"{url}/health").json() == {"status": "ok"}
        waiting = httpx.get(f"{url}/ready")
        assert (waiting.status_code, waiting.json()["code"]) == (503, "ENGINE_UNAVAILABLE")
        assert "worker" in waiting.json()["message"]
        assert int(waiting.headers["retry-after"]) > 0
        httpx.post(f"{url}/v1/predictions", json=body, headers=AUTH)
        figures = scrape(url)
    assert figures["latentsync_queue_depth",] == 1
    assert figures["latentsync_queue_oldest_seconds",] > 0
    assert figures["latentsync_workers",] == 0


def test_metrics_count_finished_jobs(tmp_path: Path) -> None:
    body, wait = small_body(tmp_path), {"Prefer": "wait=60"}
    settings = settings_for(tmp_path)
    with serving_jobs(settings) as url:
        assert httpx.get(f"{url}/ready").json() == {"status": "ready", "workers": 1}
        for seed in (0, 0, BROKEN):
            sent = {**body, "seed": seed}
            httpx.post(f"{url}/v1/predictions", json=sent, headers=AUTH | wait, timeout=90)
        for _ in range(2):  # a second scrape counts nothing twice
            figures = scrape(url)
            assert figures["latentsync_jobs", "succeeded"] == 2
            assert figures["latentsync_jobs", "queued"] == 0
            assert figures["latentsync_jobs_ended_total", "succeeded", ""] == 2
            assert figures["latentsync_jobs_ended_total", "failed", "INTERNAL_ERROR"] == 1
            assert figures["latentsync_job_run_seconds_count",] == 3
            assert figures["latentsync_job_wait_seconds_count",] == 3
            assert figures["latentsync_job_stage_seconds_count", "generate"] == 2
            assert figures["latentsync_stored_bytes",] > 0
            assert figures["latentsync_disk_free_bytes",] > 0
            assert figures["latentsync_workers",] == 1
    with serving_jobs(settings, workers=0) as url:  # a new process counts from its start
        assert ("latentsync_jobs_ended_total", "succeeded", "") not in scrape(url)
