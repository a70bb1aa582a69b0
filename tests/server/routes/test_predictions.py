"""Handing predictions in, asking after them, calling them off: over HTTP, with a real worker."""

from __future__ import annotations

import time
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

import av
import httpx
import pytest

from tests.jobs.square_runner import BROKEN, CRASHES, SLOW
from tests.server.live import AUTH, serving_jobs, settings_for, wait_until
from tests.server.routes.conftest import Submit

pytestmark = pytest.mark.processes

FOR_EVER = SLOW + 60_000  # a run of a minute, which no test waits for


def status_of(client: httpx.Client, job: dict[str, Any]) -> str:
    return str(client.get(f"/predictions/{job['id']}").json()["status"])


def cancel(client: httpx.Client, *jobs: dict[str, Any]) -> None:
    for job in reversed(jobs):
        client.post(f"/predictions/{job['id']}/cancel")
    wait_until(lambda: {status_of(client, job) for job in jobs} == {"canceled"})


def test_a_prediction_is_answered_at_once_and_ends_later(
    client: httpx.Client, body: dict[str, Any]
) -> None:
    answer = client.post("/predictions", json={**body, "seed": 7})
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/v1/predictions/{job['id']}"
    assert job["status"] in ("queued", "processing")
    assert (job["output_url"], job["finished_at"], job["error"]) == (None, None, None)
    wait_until(lambda: status_of(client, job) == "succeeded")
    ended = client.get(f"/predictions/{job['id']}").json()
    assert ended["progress"]["fraction"] == 1.0
    assert (ended["attempts"], ended["queue_position"]) == (1, None)
    assert ended["output_url"] == str(client.base_url.join(f"predictions/{job['id']}/output"))
    assert client.get(ended["output_url"]).headers["content-type"] == "video/mp4"
    assert (ended["details"]["seed"], ended["details"]["engine"]) == (7, "square")
    times = [ended[name] for name in ("created_at", "started_at", "finished_at")]
    assert times == sorted(times)
    assert all(datetime.fromisoformat(moment).tzinfo is not None for moment in times)


def test_prefer_wait_returns_the_finished_prediction(
    client: httpx.Client, body: dict[str, Any]
) -> None:
    answer = client.post("/predictions", json=body, headers={"Prefer": "respond-async, wait=60"})
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
    assert answer.headers["preference-applied"] == "wait=60"


def test_a_wait_that_is_too_short_returns_the_unfinished_job(
    client: httpx.Client, body: dict[str, Any]
) -> None:
    started = time.monotonic()
    answer = client.post(
        "/predictions", json={**body, "seed": FOR_EVER}, headers={"Prefer": "wait=1"}
    )
    assert 0.9 < time.monotonic() - started < 15  # the run would take a minute
    assert answer.status_code == 202
    cancel(client, answer.json())


def test_files_and_options_come_as_a_form(client: httpx.Client, media: Path, data: Path) -> None:
    with (media / "clip.mp4").open("rb") as video, (media / "speech.wav").open("rb") as audio:
        answer = client.post(
            "/predictions",
            files={"video": ("../../evil.mp4", video), "audio": ("a.wav", audio)},
            data={
                "seed": "9",
                "guidance_scale": "2",
                "sync_mode": "loop",
                "speaker": "auto",
                "guidance_interval": "[0.25, 1]",
            },
            headers={"Prefer": "wait=60"},
        )
    assert answer.json()["status"] == "succeeded", answer.text
    details = answer.json()["details"]
    assert (details["seed"], details["guidance_scale"], details["sync_mode"]) == (9, 2.0, "loop")
    assert details["guidance_interval"] == [0.25, 1.0]
    assert not list(data.rglob("*evil*"))


def test_a_form_may_mix_a_file_and_an_upload(client: httpx.Client, media: Path) -> None:
    video = client.post("/uploads", content=(media / "clip.mp4").read_bytes()).json()["url"]
    answer = client.post(
        "/predictions",
        files={"audio": (media / "speech.wav").read_bytes()},
        data={"video_url": video},
        headers={"Prefer": "wait=60"},
    )
    assert answer.json()["status"] == "succeeded", answer.text


def test_a_form_with_a_mistake_is_refused(client: httpx.Client) -> None:
    def send(files: Any, **data: str) -> tuple[int, str, str]:
        answer = client.post("/predictions", files=files, data=data)
        return answer.status_code, answer.json()["code"], answer.json()["field"]

    both = {"video": b"v", "audio": b"a"}
    assert send(both, seed="one") == (422, "FIELD_INVALID", "seed")
    assert send(both, video_url="http://a.example/v") == (422, "FIELD_CONFLICT", "video")
    assert send({"video": b"v"}) == (422, "FIELD_MISSING", "audio_url")
    assert send({**both, "picture": b"p"})[:2] == (422, "FIELD_UNKNOWN")
    assert send({"video": b"v", "picture": b"p"})[:2] == (422, "FIELD_UNKNOWN")
    assert send(both, colour="red")[:2] == (422, "FIELD_UNKNOWN")
    assert send(both)[:2] == (422, "MEDIA_UNREADABLE")


def test_a_repeated_submission_returns_the_first_job(
    client: httpx.Client, stranger: httpx.Client, body: dict[str, Any]
) -> None:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    first, again = (client.post("/predictions", json=body, headers=key).json() for _ in range(2))
    assert first["id"] == again["id"]
    other = client.post("/predictions", json={**body, "seed": 8}, headers=key)
    assert (other.status_code, other.json()["code"]) == (409, "IDEMPOTENCY_CONFLICT")
    assert stranger.post("/predictions", json=body, headers=key).json()["id"] != first["id"]


@pytest.mark.parametrize("key", ["", "k" * 201, "tab\tinside"])
def test_an_idempotency_key_that_cannot_be_kept_is_refused(
    client: httpx.Client, body: dict[str, Any], key: str
) -> None:
    answer = client.post("/predictions", json=body, headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.json()["field"]) == (422, "Idempotency-Key")


def test_put_with_a_client_chosen_id_is_idempotent(
    client: httpx.Client, stranger: httpx.Client, body: dict[str, Any]
) -> None:
    path = f"/predictions/{uuid.uuid4()}"
    first, again = (client.put(path, json=body).json() for _ in range(2))
    assert first["id"] == again["id"] == path.rsplit("/", 1)[1]
    assert client.put(path, json={**body, "seed": 8}).status_code == 409
    taken = stranger.put(path, json=body)
    assert taken.status_code == 409
    assert 'status":"' not in taken.text.replace(" ", "")  # nothing of the other job
    assert client.put(path, json=[body]).status_code == 400


@pytest.mark.parametrize("job_id", ["1", "..%2f..%2fetc", "%00", "x" * 300])
def test_an_id_that_is_no_uuid_is_refused(
    client: httpx.Client, body: dict[str, Any], job_id: str
) -> None:
    answer = client.put(f"/predictions/{job_id}", json=body)
    assert answer.status_code in (404, 422), answer.text


def test_several_predictions_are_created_in_order_or_none(
    client: httpx.Client, body: dict[str, Any]
) -> None:
    before = len(client.get("/predictions?limit=100").json()["predictions"])
    wrong = client.post("/predictions/batch", json=[body, {**body, "seed": "x"}])
    assert (wrong.status_code, wrong.json()["field"]) == (422, "predictions.1.seed")
    assert len(client.get("/predictions?limit=100").json()["predictions"]) == before
    key = {"Idempotency-Key": uuid.uuid4().hex}
    bodies = [{**body, "seed": 10}, {**body, "seed": 11}]
    answer = client.post("/predictions/batch", json=bodies, headers=key)
    assert answer.status_code == 202
    jobs = answer.json()["predictions"]
    wait_until(lambda: all(status_of(client, job) == "succeeded" for job in jobs))
    seeds = [client.get(f"/predictions/{job['id']}").json()["details"]["seed"] for job in jobs]
    assert seeds == [10, 11]
    wrapped = client.post("/predictions", json={"predictions": bodies}, headers=key)
    assert [job["id"] for job in wrapped.json()["predictions"]] == [job["id"] for job in jobs]


@pytest.mark.parametrize("bodies", [[], [{}] * 101, {}, "x"])
def test_a_batch_of_none_or_too_many_is_refused(client: httpx.Client, bodies: object) -> None:
    answer = client.post("/predictions/batch", json=bodies)
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_list_has_pages_and_a_filter(client: httpx.Client, submit: Submit) -> None:
    wanted = [submit(wait_s=60)["id"] for _ in range(3)]
    seen: list[str] = []
    cursor: str | None = None
    while len(seen) < 3 or cursor is not None:
        given = {"limit": 2, "status": "succeeded"} | ({"cursor": cursor} if cursor else {})
        page = client.get("/predictions", params=given).json()
        assert len(page["predictions"]) <= 2
        assert {job["status"] for job in page["predictions"]} == {"succeeded"}
        seen += [job["id"] for job in page["predictions"]]
        cursor = page["next_cursor"]
    assert seen[:3] == wanted[::-1]
    assert len(set(seen)) == len(seen)
    for bad in ("nonsense", "-1", "1" * 19, wanted[0]):
        assert client.get("/predictions", params={"cursor": bad}).json()["field"] == "cursor"


@pytest.mark.parametrize(
    ("query", "code", "field", "said"),
    [
        ("limit=0", "FIELD_INVALID", "limit", "limit is '0': it must be greater than"),
        ("limit=101", "FIELD_INVALID", "limit", "less than or equal to 100"),
        ("limit=x", "FIELD_INVALID", "limit", "limit is 'x'"),
        ("status=done", "FIELD_INVALID", "status", "status is 'done': it must be 'queued', "),
        ("limit=1&limit=2", "FIELD_INVALID", "limit", "limit is given 2 times"),
        ("Limit=5", "FIELD_UNKNOWN", "Limit", "Allowed: status, limit, cursor."),
        ("status=queued&page=2", "FIELD_UNKNOWN", "page", "Unknown field 'page'"),
    ],
)
def test_a_query_that_the_list_does_not_understand_is_refused(
    client: httpx.Client, query: str, code: str, field: str, said: str
) -> None:
    answer = client.get(f"/predictions?{query}")
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["field"]) == (422, code, field)
    assert said in problem["detail"]


def test_head_is_answered_like_get_without_the_body(client: httpx.Client, submit: Submit) -> None:
    job = f"/predictions/{submit(wait_s=60)['id']}"
    for path in (job, "/predictions", "/models", f"{job}/output"):
        head, whole = client.head(path), client.get(path)
        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-type", "content-length", "etag"):
            assert head.headers.get(name) == whole.headers.get(name)
    refused = client.patch(job)
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD, PUT, DELETE")


@pytest.mark.parametrize(
    ("headers", "applied"),
    [
        (["Wait=0"], "wait=0"),
        (["wait = 0"], "wait=0"),
        (['wait="0"; foo'], "wait=0"),
        (["respond-async", "wait=0"], "wait=0"),
        (["wait=abc"], None),
        (["wait = abc"], None),
        (["wait=-1"], None),
        (["await=0"], None),
    ],
)
def test_a_preference_may_be_written_as_its_standard_says(
    client: httpx.Client, body: dict[str, Any], headers: list[str], applied: str | None
) -> None:
    answer = client.post("/predictions", json=body, headers=[("Prefer", one) for one in headers])
    assert answer.status_code in (200, 202)
    assert answer.headers.get("preference-applied") == applied


def test_queue_positions_are_exact_and_a_queued_job_is_canceled_at_once(
    client: httpx.Client, submit: Submit
) -> None:
    running = submit(FOR_EVER)
    wait_until(lambda: status_of(client, running) == "processing")
    waiting = [submit(FOR_EVER) for _ in range(3)]
    assert [job["queue_position"] for job in waiting] == [0, 1, 2]
    gone = client.post(f"/predictions/{waiting[0]['id']}/cancel").json()
    assert (gone["status"], gone["queue_position"]) == ("canceled", None)
    left = [client.get(f"/predictions/{job['id']}").json() for job in waiting[1:]]
    assert [job["queue_position"] for job in left] == [0, 1]
    cancel(client, running, *waiting)


def test_a_running_job_is_canceled(client: httpx.Client, submit: Submit) -> None:
    job = submit(FOR_EVER)
    wait_until(lambda: status_of(client, job) == "processing")
    assert client.post(f"/predictions/{job['id']}/cancel").status_code == 200
    wait_until(lambda: status_of(client, job) == "canceled")
    again = client.post(f"/predictions/{job['id']}/cancel")
    assert (again.status_code, again.json()["status"]) == (200, "canceled")


def test_a_failed_prediction_has_an_error(submit: Submit) -> None:
    broken = submit(BROKEN, wait_s=60)
    assert (broken["status"], broken["error"]["code"]) == ("failed", "INTERNAL_ERROR")
    assert "/" not in broken["error"]["message"]
    late = submit(FOR_EVER, wait_s=60, deadline_s=0.3)
    assert late["error"]["code"] == "DEADLINE_EXCEEDED"
    lost = submit(CRASHES, wait_s=60)
    assert (lost["error"]["code"], lost["attempts"]) == ("WORKER_LOST", 3)
    assert lost["output_url"] is None


def test_an_error_is_a_problem_document(client: httpx.Client, body: dict[str, Any]) -> None:
    answer = client.post("/predictions", json={**body, "seed": "x"})
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "urn:latentsync:error:field-invalid",
        "title": "Unprocessable Entity",
        "status": 422,
        "detail": answer.json()["detail"],
        "code": "FIELD_INVALID",
        "field": "seed",
        "run_id": None,
    }
    assert "'x'" in answer.json()["detail"]
    nowhere = client.get("/nowhere")
    assert nowhere.headers["content-type"] == "application/problem+json"
    assert client.delete("/predictions").json()["status"] == 405


def test_a_webhook_that_cannot_be_called_is_refused(
    client: httpx.Client, body: dict[str, Any]
) -> None:
    for webhook in ("ftp://a.example/x", {"url": "http://a.example", "events": ["x"]}, 5, {}):
        answer = client.post("/predictions", json={**body, "webhook": webhook})
        assert (answer.status_code, answer.json()["field"]) == (422, "webhook"), answer.text


def test_the_models_are_listed(client: httpx.Client) -> None:
    listed = client.get("/models").json()
    assert [model["id"] for model in listed["models"]] == [
        "latentsync-1.6",
        "latentsync-1.5",
        "draft",
    ]
    assert listed["default"] == "auto"


def test_the_output_is_a_video_in_whole_or_in_part(
    client: httpx.Client, submit: Submit, tmp_path: Path
) -> None:
    job = submit(wait_s=60)
    path = f"/predictions/{job['id']}/output"
    whole = client.get(path)
    (tmp_path / "o.mp4").write_bytes(whole.content)
    with av.open(tmp_path / "o.mp4") as container:
        assert sum(1 for _ in container.decode(video=0)) == 10
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert whole.headers["content-disposition"].startswith("attachment;")
    assert whole.headers["cache-control"] == "private, no-cache"  # it may be erased
    end = len(whole.content)
    for given, start, stop in (
        ("bytes=0-9", 0, 10),
        ("bytes=5-", 5, end),
        ("bytes=-7", end - 7, end),
        (f"bytes=3-{end * 2}", 3, end),
        (f"bytes=-{end * 2}", 0, end),
    ):
        part = client.get(path, headers={"Range": given})
        assert part.status_code == 206
        assert part.content == whole.content[start:stop]
        assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/{end}"
    for given in (f"bytes={end}-", "bytes=-0"):
        none = client.get(path, headers={"Range": given})
        assert (none.status_code, none.headers["content-range"]) == (416, f"bytes */{end}")
    for given in ("bytes=0-1,5-6", "lines=1-2", "bytes=-", "bytes=9-3"):
        assert client.get(path, headers={"Range": given}).content == whole.content
    etag = whole.headers["etag"]
    assert client.get(path, headers={"If-None-Match": etag}).status_code == 304
    changed = {"Range": "bytes=0-9", "If-Range": '"another"'}
    assert client.get(path, headers=changed).status_code == 200


def test_why_there_is_no_output_is_reported_by_status_and_code(
    client: httpx.Client, stranger: httpx.Client, submit: Submit, data: Path
) -> None:
    def refusal(caller: httpx.Client, job_id: str) -> tuple[int, str]:
        answer = caller.get(f"/predictions/{job_id}/output")
        assert answer.headers["content-type"] == "application/problem+json"
        return answer.status_code, answer.json()["code"]

    job = submit(FOR_EVER)
    assert refusal(client, job["id"]) == (409, "OUTPUT_NOT_READY")
    assert refusal(stranger, job["id"]) == (404, "JOB_NOT_FOUND")
    assert refusal(client, str(uuid.uuid4())) == (404, "JOB_NOT_FOUND")
    cancel(client, job)
    assert refusal(client, job["id"]) == (409, "NO_OUTPUT")
    assert refusal(client, submit(BROKEN, wait_s=60)["id"]) == (409, "NO_OUTPUT")
    done = submit(wait_s=60)
    for path in (data / "data" / "files" / "results" / done["id"]).iterdir():
        path.unlink()
    assert refusal(client, done["id"]) == (410, "OUTPUT_GONE")


def test_addresses_in_answers_begin_with_the_one_that_is_set(
    tmp_path: Path, body: dict[str, Any]
) -> None:
    public_url = "https://video.example/lips"
    with (
        serving_jobs(settings_for(tmp_path, public_url=f"{public_url}/")) as url,
        httpx.Client(base_url=f"{url}/v1", headers=AUTH, timeout=90) as client,
    ):
        answer = client.post("/predictions", json=body, headers={"Prefer": "wait=60"})
        job = answer.json()
        path = f"/predictions/{job['id']}"
        assert answer.headers["location"] == f"/lips/v1{path}"
        listed = client.get("/predictions").json()["predictions"]
        requested, canceled = client.get(path).json(), client.post(f"{path}/cancel").json()
        reported = f"{public_url}/v1{path}/output"
        assert {one["output_url"] for one in (job, canceled, requested, *listed)} == {reported}


def test_a_key_has_so_many_jobs_and_no_more(tmp_path: Path, body: dict[str, Any]) -> None:
    settings = settings_for(tmp_path, max_jobs_per_key=2)
    with (
        serving_jobs(settings, workers=0) as url,
        httpx.Client(base_url=f"{url}/v1", headers=AUTH) as client,
    ):
        assert client.post("/predictions/batch", json=[body] * 3).status_code == 429
        first = client.post("/predictions/batch", json=[body] * 2).json()["predictions"][0]
        full = client.post("/predictions", json=body)
        assert (full.status_code, full.json()["code"]) == (429, "LINE_FULL")
        assert int(full.headers["retry-after"]) > 0
        client.post(f"/predictions/{first['id']}/cancel")
        assert client.post("/predictions", json=body).status_code == 202
