"""Contract A over real HTTP: the envelope, the order, the queue, disconnects, the stop signal."""

from __future__ import annotations

import base64
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Semaphore
from typing import Any

import av
import httpx
import pytest

from latentsync.schema.responses import PredictResponse
from latentsync.server.routes.predict_inline import SerialExecutor
from tests.ports import free_port
from tests.server.engines import BrokenEngine, GatedEngine, SquareEngine
from tests.server.live import (
    AUTH,
    answers,
    calling,
    files_in,
    process,
    serving_engine,
    small_body,
    wait_until,
)
from tests.without_packages import hide


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return small_body(tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def url(work: Path) -> Iterator[str]:
    with serving_engine(work, SquareEngine()) as url:
        yield url


class Turns:
    """What the executor has seen of its callers; each step releases a semaphore.

    Attributes:
        requested: a caller is queued, or runs.
        left: a caller has gone, with or without having run.
    """

    def __init__(self) -> None:
        self.requested = Semaphore(0)
        self.left = Semaphore(0)


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Turns:
    """What the executors of this process see."""
    turns, run = Turns(), SerialExecutor.run

    async def watched(line: SerialExecutor, work: Callable[[Event], Any]) -> Any:
        turns.requested.release()  # nothing else of the loop runs between this and the queue
        try:
            return await run(line, work)
        finally:
            turns.left.release()

    monkeypatch.setattr(SerialExecutor, "run", watched)
    return turns


@pytest.mark.parametrize("path", ["/predict", "/v4/p-1234abcd/latentsync/predict"])
def test_both_paths_answer_with_the_envelope(
    url: str, body: dict[str, Any], work: Path, path: str
) -> None:
    response = httpx.post(url + path, json={**body, "seed": 5}, headers=AUTH)
    assert response.status_code == 200, response.text
    assert list(response.json()) == ["run_id", "result", "run_time_ms"]
    assert list(response.json()["result"]) == ["video_base64", "details"]
    answer = PredictResponse.model_validate(response.json())
    assert answer.run_time_ms > 0
    details = answer.result.details
    assert (details.seed, details.engine, details.frames) == (5, "square", 10)
    assert (details.width, details.height, details.fps) == (96, 64, 25.0)
    assert details.seconds.keys() >= {"fetch", "probe", "read", "generate", "write"}
    result = work / "result.mp4"
    result.write_bytes(base64.b64decode(answer.result.video_base64))
    with av.open(result) as container:
        assert sum(1 for _ in container.decode(video=0)) == 10
    with av.open(result) as container:
        assert next(container.decode(audio=0)).sample_rate == 16_000
    assert files_in(work / "work") == []


def test_a_random_seed_is_drawn_and_reported(url: str, body: dict[str, Any]) -> None:
    seeds = {
        httpx.post(f"{url}/predict", json={**body, "seed": -1}, headers=AUTH).json()["result"][
            "details"
        ]["seed"]
        for _ in range(2)
    }
    assert len(seeds) == 2
    assert min(seeds) >= 0


def test_a_data_uri_is_accepted(url: str, body: dict[str, Any]) -> None:
    as_uri = {**body, "video_base64": "data:video/mp4;base64," + body["video_base64"]}
    response = httpx.post(f"{url}/predict", json=as_uri, headers=AUTH)
    assert response.status_code == 200, response.text


def test_an_unexpected_error_returns_only_a_reference(tmp_path: Path, body: dict[str, Any]) -> None:
    with serving_engine(tmp_path, BrokenEngine()) as url:
        response = httpx.post(f"{url}/predict", json=body, headers=AUTH)
    assert response.status_code == 500
    error = response.json()
    assert (error["code"], error["status_code"]) == ("INTERNAL_ERROR", 500)
    assert error["run_id"] in error["message"]
    assert "secret" not in response.text
    assert "/" not in error["message"]
    assert files_in(tmp_path / "work") == []


def test_two_requests_at_once_run_one_after_the_other(
    tmp_path: Path, body: dict[str, Any], turns: Turns
) -> None:
    engine = GatedEngine()
    with serving_engine(tmp_path, engine) as url, ThreadPoolExecutor(2) as pool:
        calls = [
            pool.submit(httpx.post, f"{url}/predict", json=body, headers=AUTH, timeout=60)
            for _ in range(2)
        ]
        assert turns.requested.acquire(timeout=60)
        assert turns.requested.acquire(timeout=60)
        assert engine.entered.acquire(timeout=60)
        assert len(engine.order) == 1
        engine.gate.set()
        assert [call.result().status_code for call in calls] == [200, 200]
    assert engine.most_inside == 1


def test_an_engine_that_is_not_installed_is_refused_without_queuing(
    tmp_path: Path, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch)
    engine = GatedEngine()
    with serving_engine(tmp_path, engine) as url, ThreadPoolExecutor(1) as pool:
        running = pool.submit(httpx.post, f"{url}/predict", json=body, headers=AUTH, timeout=60)
        assert engine.entered.acquire(timeout=60)
        requested = {**body, "engine": "latentsync-1.6"}
        refused = httpx.post(f"{url}/predict", json=requested, headers=AUTH)
        assert not running.done()
        engine.gate.set()
        assert running.result().status_code == 200
    assert (refused.status_code, refused.json()["code"]) == (503, "ENGINE_UNAVAILABLE")
    assert "pip install -e '.[models]'" in refused.json()["message"]


def test_the_queue_is_in_order_and_bounded(
    tmp_path: Path, body: dict[str, Any], turns: Turns
) -> None:
    engine = GatedEngine()
    with (
        serving_engine(tmp_path, engine, max_waiting=2) as url,
        ThreadPoolExecutor(3) as pool,
        httpx.Client(headers=AUTH, timeout=60) as client,
    ):

        def call(seed: int) -> httpx.Response:
            return httpx.post(
                f"{url}/predict", json={**body, "seed": seed}, headers=AUTH, timeout=60
            )

        calls = []
        for seed in (1, 2, 3):
            calls.append(pool.submit(call, seed))
            assert turns.requested.acquire(timeout=60)  # queued before the next one comes
        refused = client.post(f"{url}/predict", json=body)
        assert refused.status_code == 429
        assert refused.json()["code"] == "LINE_FULL"
        assert int(refused.headers["Retry-After"]) >= 1
        engine.gate.set()
        assert [call.result().status_code for call in calls] == [200, 200, 200]
        assert client.post(f"{url}/predict", json=body).status_code == 200
    assert engine.order[:3] == [1, 2, 3]


def test_hanging_up_stops_the_run_and_frees_the_device(
    tmp_path: Path, body: dict[str, Any]
) -> None:
    engine = GatedEngine()
    with serving_engine(tmp_path, engine) as url:
        with calling(url, body):
            assert engine.entered.acquire(timeout=60)
        assert engine.stopped.wait(60)
        wait_until(lambda: files_in(tmp_path / "work") == [])
        engine.gate.set()
        answer = httpx.post(f"{url}/predict", json=body, headers=AUTH, timeout=60)
        assert answer.status_code == 200


def test_hanging_up_while_waiting_leaves_the_line(
    tmp_path: Path, body: dict[str, Any], turns: Turns
) -> None:
    engine = GatedEngine()
    with (
        serving_engine(tmp_path, engine, max_waiting=1) as url,
        ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(
            httpx.post, f"{url}/predict", json={**body, "seed": 1}, headers=AUTH, timeout=60
        )
        assert turns.requested.acquire(timeout=60)
        with calling(url, {**body, "seed": 2}):
            assert turns.requested.acquire(timeout=60)
        assert turns.left.acquire(timeout=60)
        engine.gate.set()
        assert first.result().status_code == 200
        third = httpx.post(f"{url}/predict", json={**body, "seed": 3}, headers=AUTH, timeout=60)
        assert third.status_code == 200
    assert engine.order == [1, 3]


def test_the_deadline_of_a_request_ends_its_run(tmp_path: Path, body: dict[str, Any]) -> None:
    with serving_engine(tmp_path, GatedEngine()) as url:
        response = httpx.post(f"{url}/predict", json={**body, "deadline_s": 0.3}, headers=AUTH)
    assert response.status_code == 504
    assert response.json()["code"] == "DEADLINE_EXCEEDED"


def _start_and_post(server: Any, url: str, body: dict[str, Any], pool: ThreadPoolExecutor) -> Any:
    """Wait for a process with a gated engine, send it a request, return when the run is inside."""
    wait_until(lambda: answers(url))
    call = pool.submit(httpx.post, f"{url}/predict", json=body, headers=AUTH, timeout=60)
    for line in server.stdout:
        if line.startswith("inside"):
            return call
    raise AssertionError("the server ended before the run began")


@pytest.mark.processes
def test_a_stop_signal_ends_the_run_and_removes_its_folder(
    tmp_path: Path, body: dict[str, Any]
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    work = tmp_path / "work"
    with (
        process("-m", "tests.server.gated", str(port), str(work)) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        call = _start_and_post(server, url, body, pool)
        assert files_in(work) != []
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)
        assert list(work.iterdir()) == []
        assert not answers(url)
        response = call.result()
        assert response.status_code == 503
        assert response.json()["code"] == "ENGINE_UNAVAILABLE"


@pytest.mark.processes
def test_leftovers_of_a_killed_server_are_gone_after_the_next_start(
    tmp_path: Path, body: dict[str, Any]
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    work = tmp_path / "work"
    with (
        process("-m", "tests.server.gated", str(port), str(work)) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        call = _start_and_post(server, url, body, pool)
        server.kill()
        server.wait(timeout=60)
        assert isinstance(call.exception(), httpx.HTTPError)
    assert files_in(work) != []
    with serving_engine(tmp_path, SquareEngine(), work_dir=work) as next_url:
        assert answers(next_url)
        assert files_in(work) == []
