"""Contract A where a worker runs the predictions: the same answers as without."""

from __future__ import annotations

import base64
import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import httpx
import pytest

from latentsync.schema.predict import PredictRequest
from latentsync.schema.responses import PredictResponse
from latentsync.schema.run import InlineSource
from latentsync.server.app import build_app
from tests.jobs.square_runner import BROKEN, CRASHES, SLOW
from tests.server.clips import as_base64, write_clip
from tests.server.live import (
    AUTH,
    calling,
    serving,
    serving_jobs,
    settings_for,
    small_body,
    wait_until,
)

pytestmark = pytest.mark.processes

FOR_EVER = SLOW + 60_000


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return small_body(tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    settings = settings_for(tmp_path_factory.mktemp("server"), max_waiting=1)
    with serving_jobs(settings) as url:
        yield url


@pytest.fixture
def call(url: str, body: dict[str, Any]) -> Any:
    def post(seed: int = 0, **fields: Any) -> httpx.Response:
        sent = {**body, "seed": seed, **fields}
        return httpx.post(f"{url}/predict", json=sent, headers=AUTH, timeout=60)

    return post


def jobs(url: str, status: str) -> list[dict[str, Any]]:
    page = httpx.get(f"{url}/v1/predictions", params={"status": status}, headers=AUTH).json()
    found: list[dict[str, Any]] = page["predictions"]
    return found


def cancel(url: str, job: dict[str, Any]) -> None:
    answer = httpx.post(f"{url}/v1/predictions/{job['id']}/cancel", headers=AUTH, timeout=60)
    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/predict", "/v4/p-1234abcd/latentsync/predict"])
def test_both_paths_answer_with_the_envelope(
    url: str, body: dict[str, Any], tmp_path: Path, path: str
) -> None:
    response = httpx.post(url + path, json={**body, "seed": 5}, headers=AUTH, timeout=60)
    assert response.status_code == 200, response.text
    assert list(response.json()) == ["run_id", "result", "run_time_ms"]
    answer = PredictResponse.model_validate(response.json())
    details = answer.result.details
    assert (details.seed, details.engine, details.frames) == (5, "square", 10)
    assert details.seconds.keys() >= {"fetch", "probe", "read", "generate", "write"}
    assert answer.run_time_ms > 0
    video = tmp_path / "result.mp4"
    video.write_bytes(base64.b64decode(answer.result.video_base64))
    with av.open(video) as container:
        assert sum(1 for _ in container.decode(video=0)) == 10
    job = httpx.get(f"{url}/v1/predictions/{answer.run_id}", headers=AUTH).json()
    assert job["status"] == "succeeded"


def test_warnings_are_the_same_in_the_answer_the_job_and_its_log(
    url: str, call: Any, tmp_path: Path
) -> None:
    odd = as_base64(write_clip(tmp_path / "odd.mp4", height=65))
    answer = call(video_base64=odd).json()
    [warning] = answer["result"]["details"]["warnings"]
    assert warning["code"] == "SIZE_ROUNDED"
    assert warning["message"].startswith("video_base64 is 96x65 pixels; ")
    job = f"{url}/v1/predictions/{answer['run_id']}"
    assert httpx.get(job, headers=AUTH).json()["details"]["warnings"] == [warning]
    events = httpx.get(f"{job}/events", headers=AUTH, timeout=60).text
    assert events.count(f"warning: {warning['message']}") == 1


def test_errors_of_the_run_have_the_contracts_shape(call: Any) -> None:
    broken = call(BROKEN)
    assert (broken.status_code, broken.json()["code"]) == (500, "INTERNAL_ERROR")
    assert "secret" not in broken.text
    assert broken.json()["run_id"] in broken.json()["message"]  # as in the log
    assert list(broken.json()) == ["status_code", "code", "message", "field", "run_id"]
    late = call(FOR_EVER, deadline_s=0.3)
    assert (late.status_code, late.json()["code"]) == (504, "DEADLINE_EXCEEDED")
    lost = call(CRASHES)
    assert (lost.status_code, lost.json()["code"]) == (500, "WORKER_LOST")
    wrong = call(video_base64="AAAA")
    assert (wrong.status_code, wrong.json()["field"]) == (422, "video_base64")


def test_hanging_up_cancels_the_job(url: str, body: dict[str, Any], call: Any) -> None:
    with calling(url, {**body, "seed": FOR_EVER}):
        wait_until(lambda: len(jobs(url, "processing")) == 1)
        [job] = jobs(url, "processing")
    wait_until(lambda: jobs(url, "processing") == [])
    assert job["id"] in [canceled["id"] for canceled in jobs(url, "canceled")]
    assert call().status_code == 200


def test_a_full_queue_is_reported_before_the_body_is_read(url: str, call: Any) -> None:
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(call, FOR_EVER)
        wait_until(lambda: len(jobs(url, "processing")) == 1)
        [running] = jobs(url, "processing")
        second = pool.submit(call)
        wait_until(lambda: len(jobs(url, "queued")) == 1)
        refused = call()
        assert (refused.status_code, refused.json()["code"]) == (429, "LINE_FULL")
        assert int(refused.headers["retry-after"]) >= 1
        cancel(url, running)
        assert [first.result().status_code, second.result().status_code] == [499, 200]


def test_a_call_that_waits_holds_no_media_in_memory(url: str, call: Any) -> None:
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(call, FOR_EVER)
        wait_until(lambda: len(jobs(url, "processing")) == 1)
        gc.collect()
        held = [one for one in gc.get_objects() if type(one) in (InlineSource, PredictRequest)]
        cancel(url, jobs(url, "processing")[0])
        assert answer.result().status_code == 499
    assert held == []


def test_a_job_that_is_canceled_meanwhile_is_answered_as_such(url: str, call: Any) -> None:
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(call, FOR_EVER)
        wait_until(lambda: len(jobs(url, "processing")) == 1)
        cancel(url, jobs(url, "processing")[0])
        assert (answer.result().status_code, answer.result().json()["code"]) == (499, "CANCELED")


def test_a_server_that_stops_says_so_and_cancels(tmp_path: Path, body: dict[str, Any]) -> None:
    app = build_app(settings_for(tmp_path))
    with ThreadPoolExecutor(1) as pool, serving(app) as url:
        answer = pool.submit(httpx.post, f"{url}/predict", json=body, headers=AUTH, timeout=60)
        wait_until(lambda: len(jobs(url, "queued")) == 1)
        app.state.stop_runs()
        stopped = answer.result()
        assert (stopped.status_code, stopped.json()["code"]) == (503, "ENGINE_UNAVAILABLE")
        assert len(jobs(url, "canceled")) == 1
        late = httpx.post(f"{url}/predict", json=body, headers=AUTH)
        assert late.status_code == 503
