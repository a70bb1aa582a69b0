"""The fine print of handing in: names of calls, what is wrong with which entry, errors by path.

The server has no worker and the media are addresses, which nothing fetches.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from latentsync.errors import every_error
from tests.server.live import KEY, OTHER_KEY, serving_jobs, settings_for

A: dict[str, Any] = {"video_url": "http://a.example/v", "audio_url": "http://a.example/a"}
B: dict[str, Any] = {**A, "seed": 2}
C: dict[str, Any] = {**A, "seed": 3}
GREEDY_KEY = "key-that-uses-up-its-quota"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server without a worker, replacing the one with a worker."""
    folder: Path = tmp_path_factory.mktemp("server")
    keys = (KEY, OTHER_KEY, GREEDY_KEY)
    with serving_jobs(settings_for(folder, api_keys=keys), workers=0) as url:
        yield url


def submit_all(client: httpx.Client, requested: object, key: str) -> tuple[int, list[str]]:
    """Return the status of the answer and the ids of its jobs."""
    answer = client.post("/predictions", json=requested, headers={"Idempotency-Key": key})
    reported = answer.json()
    if not answer.is_success:
        assert reported["code"] == "IDEMPOTENCY_CONFLICT", reported
        return answer.status_code, []
    return answer.status_code, [job["id"] for job in reported.get("predictions", [reported])]


def recorded(client: httpx.Client) -> list[str]:
    return [job["id"] for job in client.get("/predictions?limit=100").json()["predictions"]]


def test_a_key_is_for_one_list_and_no_other(client: httpx.Client) -> None:
    key = uuid.uuid4().hex
    status, jobs = submit_all(client, [A, B], key)
    assert (status, len(set(jobs))) == (202, 2)
    before = recorded(client)
    for other in ([A], [A, B, C], [B, A], [A, C], [B], A, B, {"predictions": [A]}):
        assert submit_all(client, other, key) == (409, []), other
    assert recorded(client) == before
    assert submit_all(client, {"predictions": [A, B]}, key) == (202, jobs)


def test_a_key_of_a_single_prediction_is_for_no_list(client: httpx.Client) -> None:
    key = uuid.uuid4().hex
    _, [job] = submit_all(client, A, key)
    for other in ([A], [A, B], [B, A]):
        assert submit_all(client, other, key) == (409, []), other
    assert submit_all(client, A, key) == (202, [job])


@pytest.mark.parametrize("end", ["/0", "/1", "\\n1", "%0A1", " 1", "-1", "\x851", "\xa01"])
def test_no_other_key_matches_an_entry_of_a_list(client: httpx.Client, end: str) -> None:
    key = uuid.uuid4().hex
    _, jobs = submit_all(client, [A, A], key)
    headers = {b"Idempotency-Key": (key + end).encode("latin-1")}
    answer = client.post("/predictions", json=A, headers=headers)
    if end.isprintable():
        assert (answer.status_code, answer.json()["id"] in jobs) == (202, False)
    else:
        assert (answer.status_code, answer.json()["field"]) == (422, "Idempotency-Key")


def test_the_longest_key_names_the_longest_list(url: str) -> None:
    key = uuid.uuid4().hex.ljust(200, "k")
    headers = {"Authorization": f"Bearer {GREEDY_KEY}"}
    with httpx.Client(base_url=f"{url}/v1", headers=headers, timeout=90) as greedy:
        status, jobs = submit_all(greedy, [A] * 100, key)
        assert (status, len(set(jobs))) == (202, 100)
        assert submit_all(greedy, [A] * 100, key) == (202, jobs)


@pytest.mark.parametrize(
    ("entry", "field", "said"),
    [
        ({**A, "seed": "x"}, "predictions.1.seed", "predictions.1: seed is 'x'"),
        ({"audio_url": "http://a.example/a"}, "predictions.1.video_url", "predictions.1: Give one"),
        ({**A, "colour": 1}, "predictions.1.colour", "predictions.1: Unknown field 'colour'"),
        ({**A, "webhook": 5}, "predictions.1.webhook", "predictions.1: webhook is 5"),
        ({**A, "video_url": "http://"}, "predictions.1.video_url", "predictions.1: video_url is"),
        (
            {**A, "video_url": f"upload://{uuid.UUID(int=0)}"},
            "predictions.1.video_url",
            "predictions.1: video_url: there is no such upload.",
        ),
        (
            {"video_base64": base64.b64encode(b"no video").decode(), "audio_url": A["audio_url"]},
            "predictions.1.video_base64",
            "predictions.1: video_base64",
        ),
        (
            {"video_base64": "*", "audio_url": A["audio_url"]},
            "predictions.1.video_base64",
            "base64",
        ),
        ([], "predictions.1", "predictions.1 is []: it must be an object."),
        (None, "predictions.1", "predictions.1 is None: it must be an object."),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_the_error_of_a_list_names_the_entry(
    client: httpx.Client, entry: object, field: str, said: str, wrapped: bool
) -> None:
    before = recorded(client)
    entries = [A, entry]
    requested = {"predictions": entries} if wrapped else entries
    answer = client.post("/predictions/batch", json=requested)
    assert 400 <= answer.status_code < 500
    assert answer.json()["field"] == field, answer.text
    assert said in answer.json()["detail"]
    assert recorded(client) == before


@pytest.mark.parametrize("entries", [None, {}, "x"])
def test_predictions_that_are_not_a_list_are_refused(client: httpx.Client, entries: object) -> None:
    answer = client.post("/predictions", json={"predictions": entries}).json()
    assert (answer["code"], answer["field"]) == ("FIELD_INVALID", "predictions")
    assert answer["detail"].startswith(f"predictions is {entries!r}")


def test_of_several_wrong_entries_the_first_is_reported(client: httpx.Client) -> None:
    entries = [{**A, "seed": number} for number in (1, "x", "y")]
    answer = client.post("/predictions", json=entries).json()
    assert answer["field"] == "predictions.1.seed"


def test_a_single_prediction_is_no_entry(client: httpx.Client) -> None:
    answer = client.post("/predictions", json={**A, "seed": "x"}).json()
    assert answer["field"] == "seed"
    assert answer["detail"].startswith("seed is 'x'")


@pytest.mark.parametrize("way", ["json", "data"])
def test_the_error_of_an_unknown_field_lists_the_known_ones(client: httpx.Client, way: str) -> None:
    fields: Any = {way: {**A, "colour": "red"}}
    if way == "data":
        fields["files"] = {"audio": b"a"}  # which makes it a form of several parts
        del fields["data"]["audio_url"]
    answer = client.post("/predictions", **fields).json()
    assert (answer["code"], answer["field"]) == ("FIELD_UNKNOWN", "colour")
    assert "video_url" in answer["detail"]
    assert answer["detail"].endswith(", webhook.")


def test_an_unknown_file_is_named_as_it_is(client: httpx.Client) -> None:
    for name in ("segments.100.audio", "picture"):
        answer = client.post("/predictions", files={"video": b"v", name: b"x"}).json()
        assert (answer["code"], answer["field"]) == ("FIELD_UNKNOWN", name)


def test_an_id_of_another_key_is_refused_like_an_own_one_of_another_request(
    client: httpx.Client, stranger: httpx.Client
) -> None:
    path = f"/predictions/{uuid.uuid4()}"
    assert client.put(path, json=A).status_code == 202
    theirs, own = stranger.put(path, json=A), client.put(path, json=B)
    assert (theirs.status_code, theirs.text) == (own.status_code, own.text)
    assert own.json()["code"] == "IDEMPOTENCY_CONFLICT"


def test_a_stream_after_a_future_event_has_all_new_events(
    client: httpx.Client,
) -> None:
    job = client.post("/predictions", json=A).json()["id"]
    path, beyond = f"/predictions/{job}/events", {"Last-Event-ID": str(2**40)}
    with client.stream("GET", path, headers=beyond) as answer:
        assert answer.status_code == 200
        client.post(f"/predictions/{job}/cancel")
        heard = answer.read().decode()
    assert '"status": "canceled"' in heard
    assert '"status": "queued"' not in heard
    assert client.get(path, headers=beyond).status_code == 204


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("DELETE", "/lipsync/submit", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/lipsync/status", 405, "METHOD_NOT_ALLOWED"),
        ("POST", "/lipsync/nowhere", 404, "NOT_FOUND"),
        ("POST", "/lipsync", 404, "NOT_FOUND"),
        ("POST", "/static/results/a/b", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/static/results", 404, "NOT_FOUND"),
        ("GET", "/sync", 405, "METHOD_NOT_ALLOWED"),
        ("POST", "/task/x", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/task", 404, "NOT_FOUND"),
        ("PUT", "/queue", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/outputs/x", 404, "NOT_FOUND"),
        ("DELETE", "/v1/predictions", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/v1/nowhere", 404, "NOT_FOUND"),
        ("GET", "/v1", 404, "NOT_FOUND"),
        ("GET", "/predict", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/nowhere", 404, "NOT_FOUND"),
        ("GET", "/synchronous", 404, "NOT_FOUND"),
    ],
)
def test_wrong_paths_and_methods_are_errors_in_the_format_of_their_contract(
    url: str, method: str, path: str, status: int, code: str
) -> None:
    answer = httpx.request(method, url + path)
    reported = answer.json()
    assert (answer.status_code, reported["code"]) == (status, code)
    assert every_error()[code].status == status
    assert ("allow" in answer.headers) == (status == 405)
    keys = {"status_code", "code", "message", "field", "run_id"}
    first = path.split("/")[1]
    if first == "v1":
        assert answer.headers["content-type"] == "application/problem+json"
        assert reported["status"] == status
    elif first in ("lipsync", "static"):
        assert reported.keys() == {"status", "reason", "code"}
        assert reported["status"] == "Failed"
    elif first in ("sync", "task", "queue", "outputs"):
        assert reported.keys() == keys | {"detail"}
        assert reported["detail"] == reported["message"]
    else:
        assert reported.keys() == keys


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/predictions", "GET, HEAD, POST"),
        (
            "POST",
            f"/v1/predictions/{uuid.uuid5(uuid.NAMESPACE_URL, 'x')}",
            "GET, HEAD, PUT, DELETE",
        ),
        ("GET", "/v1/uploads/x", "DELETE"),
        ("POST", "/static/results/a/b", "GET, HEAD"),
        ("GET", "/predict", "POST"),
    ],
)
def test_the_error_of_a_wrong_method_lists_the_right_ones(
    url: str, method: str, path: str, allowed: str
) -> None:
    assert httpx.request(method, url + path).headers["allow"] == allowed
