from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.clips import write_clip, write_speech
from tests.server.live import AUTH
from tests.server.queues import (
    OTHER_AUTH,
    UNKNOWN_IDS,
    Server,
    offering,
    plays,
    queue_server,
    run_script,
)

pytestmark = pytest.mark.processes

TASK = {"video_url": "https://example.com/v.mp4", "audio_url": "https://example.com/a.wav"}


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without keys, with a worker."""
    folder = tmp_path_factory.mktemp("open")
    with queue_server(folder, require_key=False, worker=True) as server:
        yield server


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("media")
    write_clip(folder / "clip.mp4")
    write_speech(folder / "speech.wav")
    with offering(folder) as url:
        yield url


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


def sync(server: Server, headers: dict[str, str] = AUTH, **fields: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/sync", json={**TASK, **fields}, headers=headers)


def get(server: Server, path: str, headers: dict[str, str] = AUTH) -> Any:
    return httpx.get(server.url + path, headers=headers).json()


def finished(server: Server, media: str) -> dict[str, Any]:
    """Return the state of a task that has just been completed."""
    task = sync(server, {}, video_url=f"{media}/clip.mp4", audio_url=f"{media}/speech.wav").json()
    server.wait_for_end(task["task_id"])
    state = get(server, f"/task/{task['task_id']}", {})
    assert isinstance(state, dict)
    return state


def test_a_published_client_gets_its_video(open_server: Server, media: str, tmp_path: Path) -> None:
    output = tmp_path / "output.mp4"
    run = run_script(
        "queue_by_url.py",
        open_server.url,
        f"{media}/clip.mp4",
        f"{media}/speech.wav",
        str(output),
    )
    assert run.returncode == 0, run.stderr
    assert "completed 100% Done." in run.stdout
    assert plays(output)


def test_an_existing_client_understands_a_failure(
    open_server: Server, media: str, tmp_path: Path
) -> None:
    run = run_script(
        "queue_by_url.py",
        open_server.url,
        f"{media}/nothing.mp4",
        f"{media}/speech.wav",
        str(tmp_path / "output.mp4"),
    )
    assert run.returncode == 1
    assert "video_url could not be fetched" in run.stderr
    assert "404" in run.stderr


def test_a_completed_task_has_exactly_the_fields_of_the_contract(
    open_server: Server, media: str
) -> None:
    state = finished(open_server, media)
    url = state.pop("output_video_url")
    assert url.startswith("/outputs/")
    assert state == {
        "status": "completed",
        "progress": 1.0,
        "message": "Done.",
        "output_mask_url": None,
    }


def test_a_result_is_a_download_in_whole_or_in_parts(open_server: Server, media: str) -> None:
    url = open_server.url + finished(open_server, media)["output_video_url"]
    whole = httpx.get(url)
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert whole.headers["content-disposition"].startswith("attachment")
    assert whole.headers["content-type"] == "video/mp4"
    part = httpx.get(url, headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")
    assert part.headers["content-range"] == f"bytes 4-7/{len(whole.content)}"


def test_a_result_is_sent_only_for_its_full_url(open_server: Server, media: str) -> None:
    path = finished(open_server, media)["output_video_url"]
    _, _, task_id, name = path.split("/")
    assert len(name) >= 32
    other = finished(open_server, media)["output_video_url"].split("/")[-1]
    for wrong in (other, "result.mp4", "..", "%2e%2e%2f%2e%2e%2fjobs.db", "%00", name.upper()):
        answer = httpx.get(f"{open_server.url}/outputs/{task_id}/{wrong}")
        assert answer.status_code == 404, wrong
    for unknown in UNKNOWN_IDS:
        assert httpx.get(f"{open_server.url}/outputs/{unknown}/{name}").status_code == 404


def test_tasks_wait_in_order(waiting: Server) -> None:
    accepted = [sync(waiting).json() for _ in range(3)]
    assert [task["queue_position"] for task in accepted] == [0, 1, 2]
    ids = [task["task_id"] for task in accepted]
    assert get(waiting, "/queue") == {
        "queue_length": 3,
        "is_processing": False,
        "queued_tasks": [{"task_id": one, "position": at} for at, one in enumerate(ids)],
    }
    assert get(waiting, f"/task/{ids[2]}") == {
        "status": "queued",
        "progress": 0.0,
        "message": "Queued, 2 ahead.",
        "output_video_url": None,
        "output_mask_url": None,
    }


def test_a_running_task_is_processing(waiting: Server) -> None:
    task_id = sync(waiting).json()["task_id"]
    store = waiting.farm.service.store
    job = store.begin(task_id, "w")
    assert job is not None
    store.report(job, "generate", 0.5, 5, 10)
    state = get(waiting, f"/task/{task_id}")
    assert (state["status"], state["progress"]) == ("processing", 0.5)
    assert state["message"] == "Processing: generate."
    assert get(waiting, "/queue") == {
        "queue_length": 0,
        "is_processing": True,
        "queued_tasks": [],
    }


def test_a_canceled_task_has_failed(waiting: Server) -> None:
    task_id = sync(waiting).json()["task_id"]
    waiting.farm.service.store.cancel(task_id)
    state = get(waiting, f"/task/{task_id}")
    assert (state["status"], state["message"]) == ("failed", "The task was canceled.")


def test_defaults_are_those_of_the_contract(waiting: Server) -> None:
    job = waiting.job(sync(waiting).json()["task_id"])
    options = job.request["options"]
    assert (options["inference_steps"], options["guidance_scale"]) == (20, 1.0)
    assert options["engine"] is None


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("latentsync-1.5/latentsync_unet.pt", "latentsync-1.5"),
        ("latentsync-1.6/latentsync_unet.pt", "latentsync-1.6"),
        ("latentsync_unet.pt", "latentsync-1.6"),
    ],
)
def test_a_known_checkpoint_chooses_its_engine(waiting: Server, name: str, engine: str) -> None:
    job = waiting.job(sync(waiting, inference_ckpt_path=name).json()["task_id"])
    assert job.request["options"]["engine"] == engine


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"inference_ckpt_path": "/etc/passwd"}, "inference_ckpt_path", "Allowed: latentsync-1.5"),
        ({"inference_ckpt_path": "../latentsync_unet.pt"}, "inference_ckpt_path", "Allowed"),
        ({"inference_ckpt_path": 5}, "inference_ckpt_path", "is 5"),
        ({"inference_steps": 51}, "inference_steps", "51"),
        ({"inference_steps": "20"}, "inference_steps", "'20'"),
        ({"guidance_scale": 0.5}, "guidance_scale", "0.5"),
        ({"video_url": "ftp://example.com/v.mp4"}, "video_url", "only http and https"),
        ({"audio_url": None}, "audio_url", "None"),
        ({"mask": True}, "mask", "Unknown field"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(
    waiting: Server, fields: dict[str, Any], field: str, words: str
) -> None:
    answer = sync(waiting, **fields)
    error = answer.json()
    assert answer.status_code == 422
    assert error["field"] == field
    assert words in error["message"]
    assert error["detail"] == error["message"]


def test_both_media_are_needed(waiting: Server) -> None:
    answer = httpx.post(
        f"{waiting.url}/sync", json={"video_url": "https://x.example/"}, headers=AUTH
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "FIELD_MISSING")
    assert answer.json()["message"] == "Give audio_url."


def test_another_key_cannot_see_tasks(waiting: Server) -> None:
    task_id = sync(waiting).json()["task_id"]
    assert httpx.get(f"{waiting.url}/task/{task_id}", headers=OTHER_AUTH).status_code == 404
    theirs = get(waiting, "/queue", OTHER_AUTH)
    assert (theirs["queue_length"], theirs["queued_tasks"]) == (1, [])
    assert sync(waiting, OTHER_AUTH).json()["queue_position"] == 1


@pytest.mark.parametrize("task_id", UNKNOWN_IDS)
def test_an_unknown_task_is_not_found(waiting: Server, task_id: str) -> None:
    answer = httpx.get(f"{waiting.url}/task/{task_id}", headers=AUTH)
    assert answer.status_code == 404


def test_a_key_is_asked_for(waiting: Server) -> None:
    assert sync(waiting, {}).status_code == 401
    assert httpx.get(f"{waiting.url}/queue").status_code == 401
    assert httpx.get(f"{waiting.url}/task/x").status_code == 401


def test_a_setting_opens_these_calls_and_no_others(tmp_path: Path) -> None:
    with queue_server(tmp_path, tasks_without_key=True) as server:
        task_id = sync(server, {}).json()["task_id"]
        assert get(server, f"/task/{task_id}", {})["status"] == "queued"
        assert httpx.get(f"{server.url}/v1/predictions").status_code == 401
        assert httpx.post(f"{server.url}/lipsync/status", json={}).status_code == 401


def test_a_caller_with_too_many_tasks_gets_429(tmp_path: Path) -> None:
    with queue_server(tmp_path, max_jobs_per_key=2) as server:
        assert [sync(server).status_code for _ in range(3)] == [200, 200, 429]
        refused = sync(server)
        assert refused.json()["code"] == "LINE_FULL"
        assert int(refused.headers["retry-after"]) > 0
        assert sync(server, OTHER_AUTH).status_code == 200
