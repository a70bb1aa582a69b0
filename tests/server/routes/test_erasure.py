"""DELETE: over HTTP, with a real worker, at every address that a job has."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from latentsync.jobs.database import erasures
from latentsync.jobs.models import JobStatus
from tests.jobs.farm import OWNER, farm, kill
from tests.jobs.square_runner import SLOW
from tests.server.live import files_in, wait_until
from tests.server.routes.conftest import Submit

pytestmark = pytest.mark.processes

FOR_EVER = SLOW + 60_000


def stored(data: Path, job_id: str) -> list[Path]:
    results = data / "data" / "files" / "results" / job_id
    return [*results.rglob("*"), *(data / "data" / "files" / "inputs").rglob("*/*")]


def assert_unknown(client: httpx.Client, job_id: str) -> None:
    """Look for a job at every address of the native API."""
    path = f"/predictions/{job_id}"
    answers = [client.get(path + end) for end in ("", "/output", "/events")]
    answers += [client.post(f"{path}/cancel"), client.delete(path)]
    for answer in answers:
        assert (answer.status_code, answer.json()["code"]) == (404, "JOB_NOT_FOUND")
    listed = client.get("/predictions", params={"limit": 100}).json()["predictions"]
    assert job_id not in [job["id"] for job in listed]


def test_an_erased_prediction_is_nowhere(
    client: httpx.Client, stranger: httpx.Client, submit: Submit, url: str, data: Path
) -> None:
    job = submit(wait_s=60)
    name = next((data / "data" / "files" / "results" / job["id"]).iterdir()).name
    results = [f"{url}/{place}/{job['id']}/{name}" for place in ("outputs", "static/results")]
    assert [client.get(address).status_code for address in results] == [200, 200]
    assert stranger.delete(f"/predictions/{job['id']}").status_code == 404
    answer = client.delete(f"/predictions/{job['id']}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert_unknown(client, job["id"])
    assert [client.get(address).status_code for address in results] == [404, 404]
    assert client.get(f"{url}/task/{job['id']}").status_code == 404
    requested = client.post(f"{url}/lipsync/status", json={"request_id": job["id"]})
    assert requested.status_code == 404
    assert stored(data, job["id"]) == []


def test_a_running_prediction_is_stopped_and_leaves_no_working_folder(
    client: httpx.Client, submit: Submit, data: Path
) -> None:
    job = submit(FOR_EVER)
    path = f"/predictions/{job['id']}"
    wait_until(lambda: client.get(path).json()["progress"]["stage"] == "generate")
    assert files_in(data / "work") != []
    assert client.delete(path).status_code == 204
    assert files_in(data / "work") == []
    assert_unknown(client, job["id"])
    assert stored(data, job["id"]) == []
    assert submit(wait_s=60)["status"] == "succeeded"


def test_a_waiting_client_learns_that_a_prediction_was_erased(
    client: httpx.Client, body: dict[str, Any]
) -> None:
    path = f"/predictions/{uuid.uuid4()}"
    with ThreadPoolExecutor(2) as threads:
        waiting = threads.submit(
            client.put, path, json={**body, "seed": FOR_EVER}, headers={"Prefer": "wait=60"}
        )
        wait_until(lambda: client.get(path).status_code == 200)
        following = threads.submit(client.get, f"{path}/events")
        assert client.delete(path).status_code == 204
        assert waiting.result().json()["code"] == "JOB_NOT_FOUND"
        assert following.result().status_code in (200, 404)


def test_predict_reports_that_the_job_was_canceled(
    client: httpx.Client, body: dict[str, Any], url: str
) -> None:
    seed = FOR_EVER + 7
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.post, f"{url}/predict", json={**body, "seed": seed})
        running = {"status": "processing"}
        wait_until(lambda: client.get("/predictions", params=running).json()["predictions"])
        (job,) = client.get("/predictions", params=running).json()["predictions"]
        assert client.delete(f"/predictions/{job['id']}").status_code == 204
        answer = waiting.result()
    assert (answer.status_code, answer.json()["code"]) == (499, "CANCELED")


def test_of_many_that_erase_one_prediction_at_once_one_does(
    client: httpx.Client, submit: Submit
) -> None:
    path = f"/predictions/{submit(FOR_EVER)['id']}"
    together = threading.Barrier(6)

    def erase(_number: int) -> int:
        together.wait()
        return client.delete(path).status_code

    with ThreadPoolExecutor(6) as threads:
        assert sorted(threads.map(erase, range(6))) == [204] + [404] * 5


def test_an_upload_is_removed(client: httpx.Client, stranger: httpx.Client, media: Path) -> None:
    upload = client.post("/uploads", content=(media / "clip.mp4").read_bytes()).json()
    path = f"/uploads/{upload['id']}"
    refused = stranger.delete(path)
    assert (refused.status_code, refused.json()["code"]) == (404, "UPLOAD_NOT_FOUND")
    assert (client.delete(path).status_code, client.delete(path).status_code) == (204, 404)
    body = {"video_url": upload["url"], "audio_url": upload["url"]}
    assert client.post("/predictions", json=body).json()["code"] == "UPLOAD_NOT_FOUND"
    for strange in ("x", "%2e%2e", "a" * 5000, "0" * 32):
        assert client.delete(f"/uploads/{strange}").status_code == 404


def test_leftovers_of_a_killed_server_are_erased_by_any_worker(tmp_path: Path) -> None:
    with farm(tmp_path) as lent:
        worker = lent.start()
        running, waiting = lent.submit(FOR_EVER), lent.submit()
        lent.wait_for(lambda: lent.job(running).status is JobStatus.PROCESSING)
        for job in (running, waiting):
            lent.service.begin_erasure(job.id, OWNER)  # and nothing more
        with lent.service.store.engine.begin() as connection:  # some time ago
            connection.execute(erasures.update().values(asked_at=0.0))
        kill(worker)
        lent.start("another")
        gone = lent.service.store.get
        lent.wait_for(lambda: gone(running.id) is gone(waiting.id) is None, timeout_s=120)
        assert lent.media() == lent.results(running) == []
        lent.wait_for(lambda: lent.working_folders() == [])
