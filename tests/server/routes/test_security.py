"""What one key must not learn of another's jobs, what no answer may hold, bodies made to hurt."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.jobs.square_runner import BROKEN
from tests.server.live import AUTH, REPOSITORY
from tests.server.routes.conftest import Submit

pytestmark = pytest.mark.processes

UNKNOWN = "00000000-0000-4000-8000-000000000000"
WAYS = [
    ("GET", ""),
    ("POST", "/cancel"),
    ("GET", "/events"),
    ("GET", "/output"),
]
# Not PUT: an id can be used only once by all keys. Its answers are tested in test_submissions.py.


@pytest.mark.parametrize(("method", "rest"), WAYS)
def test_a_job_of_another_key_is_answered_like_an_unknown_one(
    client: httpx.Client, stranger: httpx.Client, submit: Submit, method: str, rest: str
) -> None:
    job_id = submit(wait_s=60)["id"]
    other = stranger.request(method, f"/predictions/{job_id}{rest}")
    no_check = stranger.request(method, f"/predictions/{UNKNOWN}{rest}")
    assert other.status_code == no_check.status_code == 404
    assert other.text.replace(job_id, UNKNOWN) == no_check.text
    assert client.get(f"/predictions/{job_id}").json()["status"] == "succeeded"


def test_the_list_and_its_cursor_include_only_own_jobs(
    client: httpx.Client, stranger: httpx.Client, submit: Submit
) -> None:
    job_id = submit(wait_s=60)["id"]
    listed = stranger.get("/predictions?limit=100").json()["predictions"]
    assert job_id not in [job["id"] for job in listed]
    assert stranger.get(f"/predictions?cursor={job_id}").status_code == 422


@pytest.mark.parametrize(
    "method_and_path",
    [
        ("GET", "/v1/predictions"),
        ("POST", "/v1/predictions"),
        ("POST", "/v1/predictions/batch"),
        ("PUT", f"/v1/predictions/{UNKNOWN}"),
        ("GET", f"/v1/predictions/{UNKNOWN}"),
        ("POST", f"/v1/predictions/{UNKNOWN}/cancel"),
        ("GET", f"/v1/predictions/{UNKNOWN}/events"),
        ("GET", f"/v1/predictions/{UNKNOWN}/output"),
        ("POST", "/v1/uploads"),
        ("GET", "/v1/models"),
        ("GET", "/metrics"),
        ("POST", "/predict"),
    ],
)
def test_every_route_requires_a_key(url: str, method_and_path: tuple[str, str]) -> None:
    method, path = method_and_path
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic eDp5"}):
        answer = httpx.request(method, url + path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "job_id",
    [
        "../../../etc/passwd",
        "..%2f..%2fjobs.db",
        "%2e%2e",
        "%00",
        "a%0d%0aX-Evil:%201",
        "x" * 4000,
        "'; --",
    ],
)
def test_an_id_is_never_a_path(client: httpx.Client, job_id: str) -> None:
    for rest in ("", "/output", "/events"):
        answer = client.get(f"/predictions/{job_id}{rest}")
        assert answer.status_code == 404, answer.text
        assert "x-evil" not in answer.headers
        assert len(answer.text) < 1000


def test_media_are_never_read_by_a_path_of_the_server(
    client: httpx.Client, body: dict[str, Any]
) -> None:
    for address in ("file:///etc/passwd", "/etc/passwd", "key://inputs", "ftp://a.example/v"):
        given = {"video_url": address, "audio_base64": body["audio_base64"]}
        job = client.post("/predictions", json=given, headers={"Prefer": "wait=60"}).json()
        code = job.get("code") or job["error"]["code"]
        assert code in ("FETCH_FAILED", "ADDRESS_FORBIDDEN", "FIELD_INVALID"), job
    loop_back = {"video_url": "http://127.0.0.1:1/v", "audio_url": "http://localhost/a"}
    job = client.post("/predictions", json=loop_back, headers={"Prefer": "wait=60"}).json()
    assert job["error"]["code"] == "ADDRESS_FORBIDDEN"


def test_no_answer_holds_a_path_or_a_traceback_of_the_server(
    client: httpx.Client, submit: Submit, data: Path, body: dict[str, Any]
) -> None:
    broken = submit(BROKEN, wait_s=60)["id"]
    bad = {**body, "video_base64": "AAAA"}
    answers = [
        client.get(f"/predictions/{broken}"),
        client.get(f"/predictions/{broken}/events"),
        client.get(f"/predictions/{broken}/output"),
        client.post("/predictions", json=bad),
        client.post("/predictions", files={"video": b"x", "audio": b"y"}),
        client.post("/predictions", content=b"{"),
        client.get("/models"),
        client.get("/predictions?limit=x"),
    ]
    for answer in answers:
        for secret in (str(data), str(REPOSITORY), "Traceback", ".py", "/srv", "sqlite"):
            assert secret not in answer.text, answer.text


def boundary_body(parts: Iterator[bytes]) -> Iterator[bytes]:
    for part in parts:
        yield b"--b\r\n" + part + b"\r\n"
    yield b"--b--\r\n"


def field(name: str, value: bytes = b"1", extra: bytes = b"") -> bytes:
    disposition = f'Content-Disposition: form-data; name="{name}"'.encode()
    return disposition + b"\r\n" + extra + b"\r\n" + value


@pytest.mark.parametrize(
    "parts",
    [
        [field(f"f{number}") for number in range(20_000)],
        [field("seed", b"1" * 5_000_000)],
        [field("seed", extra=b"X-Padding: " + b"x" * 5_000_000 + b"\r\n")],
        [field("seed", extra=b"".join(b"X-%d: y\r\n" % n for n in range(50_000)))],
        [field("n" * 1_000_000)],
        [b"no header at all"],
        [],
    ],
    ids=["many", "long", "padded", "headers", "name", "headless", "none"],
)
def test_a_form_made_to_hurt_is_refused_soon(client: httpx.Client, parts: list[bytes]) -> None:
    started = time.monotonic()
    answer = client.post(
        "/predictions",
        content=boundary_body(iter(parts)),
        headers={"Content-Type": "multipart/form-data; boundary=b"},
    )
    assert time.monotonic() - started < 15
    assert answer.status_code in (400, 422), answer.text
    assert len(answer.text) < 1000


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "b" * 5000,
    ],
)
def test_a_form_without_a_usable_boundary_is_refused(
    client: httpx.Client, content_type: str
) -> None:
    answer = client.post("/predictions", content=b"--b\r\n", headers={"Content-Type": content_type})
    assert (answer.status_code, answer.json()["code"]) == (400, "BODY_MALFORMED")


def test_a_head_made_to_hurt_is_refused(url: str, client: httpx.Client) -> None:
    with pytest.raises(httpx.HTTPError):
        httpx.get(
            f"{url}/v1/models", headers=AUTH | {"X-Padding": "x" * 1_000_000}
        ).raise_for_status()
    assert client.get("/models").status_code == 200


def test_an_upload_is_never_sent_back_as_a_page(client: httpx.Client) -> None:
    page = b"<script>alert(1)</script>"
    upload = client.post("/uploads", content=page, headers={"Content-Type": "text/html"}).json()
    for path in (f"/uploads/{upload['id']}", f"/predictions/{upload['id']}/output"):
        assert client.get(path).status_code in (404, 405)


def test_many_wrong_tokens_do_not_slow_others(url: str, client: httpx.Client) -> None:
    def ask() -> float:
        started = time.monotonic()
        assert client.get("/models").status_code == 200
        return time.monotonic() - started

    meanwhile = []
    with ThreadPoolExecutor(4) as pool:
        guesses = [pool.submit(refused_guesses, url, 2500, number) for number in range(4)]
        while not all(one.done() for one in guesses):
            meanwhile.append(ask())
    assert sum(one.result() for one in guesses) == 10_000
    assert statistics.median(meanwhile) < 1.0  # with others' load on the machine, too


def refused_guesses(url: str, count: int, seed: int) -> int:
    """Send wrong tokens over one connection, one after the other; returns how many got 401."""
    address = httpx.URL(url)
    refused = 0
    with socket.create_connection((address.host, address.port or 80), timeout=60) as connection:
        answers = connection.makefile("rb")
        for number in range(count):
            head = f"GET /v1/predictions HTTP/1.1\r\nHost: {address.host}\r\n"
            token = f"Authorization: Bearer guess-{seed}-{number}\r\n\r\n"
            connection.sendall((head + token).encode())
            status = answers.readline()
            size = 0
            while (line := answers.readline().strip()) != b"":
                name, _, value = line.partition(b":")
                size = int(value) if name.lower() == b"content-length" else size
            answers.read(size)
            refused += status.startswith(b"HTTP/1.1 401 ")
    return refused
