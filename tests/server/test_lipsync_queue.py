from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from latentsync.jobs.models import JobError, JobStatus
from latentsync.jobs.store import Finished
from tests.jobs.square_runner import GATED, SLOW
from tests.server.clips import as_base64, write_clip, write_speech
from tests.server.live import AUTH, KEY
from tests.server.queues import OTHER_AUTH, UNKNOWN_IDS, Server, plays, queue_server, run_script

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a worker."""
    with queue_server(tmp_path_factory.mktemp("working"), worker=True) as server:
        yield server


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with keys and without a worker."""
    with queue_server(tmp_path_factory.mktemp("idle")) as server:
        yield server


@pytest.fixture
def waiting(idle: Server) -> Iterator[Server]:
    """The same without a worker: jobs stay queued."""
    yield idle
    idle.empty()


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    write_clip(folder / "clip.mp4")
    write_speech(folder / "speech.wav")
    return folder


@pytest.fixture
def body(media: Path) -> dict[str, Any]:
    return {
        "video_source": as_base64(media / "clip.mp4"),
        "audio_source": as_base64(media / "speech.wav"),
    }


def post(server: Server, verb: str, body: object, headers: dict[str, str] = AUTH) -> httpx.Response:
    return httpx.post(f"{server.url}/lipsync/{verb}", json=body, headers=headers)


def submitted(server: Server, body: dict[str, Any], **fields: Any) -> str:
    answer = post(server, "submit", {**body, **fields})
    assert answer.status_code == 200, answer.text
    assert list(answer.json()) == ["request_id"]
    return str(answer.json()["request_id"])


def status(server: Server, request_id: str) -> Any:
    return post(server, "status", {"request_id": request_id}).json()


def test_a_published_client_gets_its_video(working: Server, media: Path, tmp_path: Path) -> None:
    output = tmp_path / "output.mp4"
    run = run_script(
        "lipsync_with_key.py",
        working.url,
        KEY,
        str(media / "clip.mp4"),
        str(media / "speech.wav"),
        str(output),
    )
    assert run.returncode == 0, run.stderr
    assert "inference took" in run.stdout
    assert plays(output)


def test_an_existing_client_understands_a_wrong_key(
    working: Server, media: Path, tmp_path: Path
) -> None:
    run = run_script(
        "lipsync_with_key.py",
        working.url,
        "wrong",
        str(media / "clip.mp4"),
        str(media / "speech.wav"),
        str(tmp_path / "output.mp4"),
    )
    assert run.returncode == 1
    assert "bearer token" in run.stderr


def test_success_is_reported_as_the_contract_says(working: Server, body: dict[str, Any]) -> None:
    request_id = submitted(working, body, seed=SLOW + 300)
    working.wait_for_end(request_id)
    reported = status(working, request_id)
    url = reported["results"]["video"][0]["url"]
    seconds = reported["results"]["timings"]["inference"]
    assert reported == {
        "status": "Succeed",
        "reason": None,
        "queue_position": None,
        "results": {"video": [{"url": url}], "timings": {"inference": seconds}},
    }
    assert 0.3 <= seconds < 60
    assert url.startswith(f"{working.url}/static/results/")
    video = httpx.get(url)  # without a key
    assert video.headers["content-type"] == "video/mp4"
    assert video.headers["x-content-type-options"] == "nosniff"
    assert video.headers["content-disposition"].startswith("attachment")
    assert httpx.get(url, headers={"Range": "bytes=4-7"}).content == b"ftyp"
    other = "1" if url.endswith("0.mp4") else "0"
    assert httpx.get(f"{url[:-5]}{other}.mp4").json()["status"] == "Failed"


def test_a_running_request_is_not_cancelled(working: Server, body: dict[str, Any]) -> None:
    request_id = submitted(working, body, seed=GATED)
    working.farm.wait_for(lambda: working.job(request_id).status is JobStatus.PROCESSING)
    assert status(working, request_id)["status"] == "InProgress"
    assert status(working, request_id)["queue_position"] is None
    answer = post(working, "cancel", {"request_id": request_id})
    assert answer.status_code == 400
    assert (answer.json()["status"], answer.json()["code"]) == ("Failed", "NOT_IN_QUEUE")
    assert "InProgress" in answer.json()["reason"]
    working.farm.open_gate()
    working.wait_for_end(request_id)
    assert status(working, request_id)["status"] == "Succeed"


def test_positions_count_from_one_while_in_queue(waiting: Server, body: dict[str, Any]) -> None:
    first, second = (submitted(waiting, body) for _ in range(2))
    assert status(waiting, first) == {
        "status": "InQueue",
        "reason": None,
        "queue_position": 1,
        "results": None,
    }
    assert status(waiting, second)["queue_position"] == 2
    post(waiting, "cancel", {"request_id": first})
    assert status(waiting, second)["queue_position"] == 1


def test_a_waiting_request_is_cancelled_once(waiting: Server, body: dict[str, Any]) -> None:
    request_id = submitted(waiting, body)
    answer = post(waiting, "cancel", {"request_id": request_id})
    assert answer.status_code == 200
    assert answer.json() == {"status": "Succeed", "reason": "The request was cancelled."}
    reported = status(waiting, request_id)
    assert (reported["status"], reported["queue_position"]) == ("Cancelled", None)
    assert reported["reason"] == "The request was cancelled."
    again = post(waiting, "cancel", {"request_id": request_id})
    assert (again.status_code, again.json()["status"]) == (400, "Failed")


def test_a_failure_is_reported_with_its_reason(waiting: Server, body: dict[str, Any]) -> None:
    request_id = submitted(waiting, body)
    store = waiting.farm.service.store
    job = store.begin(request_id, "w")
    assert job is not None
    error = JobError("NO_FACE", "video_source shows no face.", 422, "video_source")
    store.finish(job, Finished(JobStatus.FAILED, error=error))
    reported = status(waiting, request_id)
    assert (reported["status"], reported["reason"]) == ("Failed", "video_source shows no face.")
    assert reported["results"] is None


def test_defaults_are_those_of_the_contract(waiting: Server, body: dict[str, Any]) -> None:
    options = waiting.job(submitted(waiting, body)).request["options"]
    assert (options["inference_steps"], options["guidance_scale"]) == (20, 2.0)
    assert options["seed"] == 1247


def test_data_uris_are_taken_too(waiting: Server, body: dict[str, Any]) -> None:
    uri = "data:video/mp4;base64," + body["video_source"]
    assert waiting.job(submitted(waiting, body, video_source=uri)).input_bytes > 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"video_source": "***"}, "video_source"),
        ({"video_source": ""}, "video_source"),
        ({"audio_source": 5}, "audio_source is 5"),
        ({"audio_source": base64.b64encode(b"no sound" * 99).decode()}, "audio_source"),
        ({"seed": -2}, "seed is -2"),
        ({"inference_steps": 0}, "inference_steps is 0"),
        ({"guidance_scale": 3.5}, "guidance_scale is 3.5"),
        ({"video_url": "https://example.com"}, "Unknown field 'video_url'"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_reason(
    waiting: Server, body: dict[str, Any], fields: dict[str, Any], words: str
) -> None:
    before = waiting.farm.media()
    answer = post(waiting, "submit", {**body, **fields})
    assert (answer.status_code, answer.json()["status"]) == (422, "Failed")
    assert words in answer.json()["reason"]
    assert waiting.farm.media() == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"request_id": "a", "b": 1}'])
@pytest.mark.parametrize("verb", ["submit", "status", "cancel"])
def test_bodies_of_another_form_are_refused(waiting: Server, verb: str, content: bytes) -> None:
    answer = httpx.post(
        f"{waiting.url}/lipsync/{verb}",
        content=content,
        headers={**AUTH, "Content-Type": "application/json"},
    )
    assert (answer.status_code, answer.json()["status"]) == (422, "Failed")


@pytest.mark.parametrize("verb", ["submit", "status", "cancel"])
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}])
def test_every_call_needs_a_key(waiting: Server, verb: str, headers: dict[str, str]) -> None:
    answer = post(waiting, verb, {}, headers)
    assert answer.status_code == 401
    assert answer.json()["status"] == "Failed"
    assert answer.json()["reason"]


@pytest.mark.parametrize("verb", ["status", "cancel"])
@pytest.mark.parametrize("request_id", UNKNOWN_IDS)
def test_an_unknown_request_is_not_found(waiting: Server, verb: str, request_id: str) -> None:
    answer = post(waiting, verb, {"request_id": request_id})
    assert (answer.status_code, answer.json()["status"]) == (404, "Failed")
    assert "There is no job" in answer.json()["reason"]


def test_another_key_cannot_see_or_cancel_requests(waiting: Server, body: dict[str, Any]) -> None:
    named = {"request_id": submitted(waiting, body)}
    assert post(waiting, "status", named, OTHER_AUTH).status_code == 404
    assert post(waiting, "cancel", named, OTHER_AUTH).status_code == 404
    assert status(waiting, named["request_id"])["status"] == "InQueue"


def test_a_caller_with_too_many_queued_requests_gets_429(
    tmp_path: Path, body: dict[str, Any]
) -> None:
    with queue_server(tmp_path, max_job_bytes_per_key=1000) as server:
        submitted(server, body)
        refused = post(server, "submit", body)
        assert (refused.status_code, refused.json()["status"]) == (429, "Failed")
        assert "allowed: 1000" in refused.json()["reason"]
        assert int(refused.headers["retry-after"]) > 0
        assert post(server, "submit", body, OTHER_AUTH).status_code == 200


def test_with_a_full_disk_no_job_is_accepted(tmp_path: Path, body: dict[str, Any]) -> None:
    with queue_server(tmp_path, min_free_bytes=2**60) as server:
        answer = post(server, "submit", body)
        assert (answer.status_code, answer.json()["status"]) == (507, "Failed")
        assert server.farm.media() == []


def test_results_are_addressed_as_the_server_is_reached(
    tmp_path: Path, body: dict[str, Any]
) -> None:
    with queue_server(tmp_path, public_url="https://lips.example/api/") as server:
        request_id = submitted(server, body)
        store = server.farm.service.store
        job = store.begin(request_id, "w")
        assert job is not None
        made = Finished(
            JobStatus.SUCCEEDED,
            result_key=f"results/{request_id}/abc.mp4",
            details={"seconds": {"generate": 1.5}},
        )
        store.finish(job, made)
        results = status(server, request_id)["results"]
    expected = f"https://lips.example/api/static/results/{request_id}/abc.mp4"
    assert results == {"video": [{"url": expected}], "timings": {"inference": 1.5}}
