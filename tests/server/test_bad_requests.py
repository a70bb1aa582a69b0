"""Every way to ask wrongly gets its own clear answer, over real HTTP."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from latentsync.schema.responses import ErrorResponse
from tests.server.engines import SquareEngine
from tests.server.live import AUTH, KEY, serving_engine, small_body

CAP_BYTES = 100_000
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with serving_engine(folder, SquareEngine(), max_body_bytes=CAP_BYTES) as url:
        yield url


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return small_body(tmp_path_factory.mktemp("media"))


def error_of(response: httpx.Response) -> ErrorResponse:
    """Return the error body after checking what every error has in common."""
    error = ErrorResponse.model_validate(response.json())
    assert error.status_code == response.status_code
    assert "Traceback" not in response.text
    assert "site-packages" not in response.text
    assert len(error.message) < 400
    return error


def post(url: str, body: object) -> ErrorResponse:
    # json.dumps, unlike httpx, can write NaN and halves of surrogate pairs.
    response = httpx.post(f"{url}/predict", content=json.dumps(body), headers={**AUTH, **JSON})
    return error_of(response)


@pytest.mark.parametrize(
    ("changes", "status", "code", "field", "said"),
    [
        ({"video_base64": None}, 422, "FIELD_MISSING", "video_url", "video_url or video_base64"),
        ({"audio_base64": None}, 422, "FIELD_MISSING", "audio_url", "audio_url or audio_base64"),
        ({"video_url": "http://a.example/v"}, 422, "FIELD_CONFLICT", "video_url", "not both"),
        ({"audio_url": "http://a.example/a"}, 422, "FIELD_CONFLICT", "audio_url", "not both"),
        ({"video_base64": "?not base64?"}, 422, "BASE64_INVALID", "video_base64", "base64"),
        ({"audio_base64": "AAA"}, 422, "BASE64_INVALID", "audio_base64", "base64"),
        ({"video_base64": 7}, 422, "FIELD_INVALID", "video_base64", "7"),
        ({"guidance_scale": 0.5}, 422, "FIELD_INVALID", "guidance_scale", "1.0 to 3.0"),
        ({"guidance_scale": 3.01}, 422, "FIELD_INVALID", "guidance_scale", "3.01"),
        ({"guidance_scale": "abc"}, 422, "FIELD_INVALID", "guidance_scale", "'abc'"),
        ({"guidance_scale": float("nan")}, 422, "FIELD_INVALID", "guidance_scale", "nan"),
        ({"guidance_scale": float("inf")}, 422, "FIELD_INVALID", "guidance_scale", "inf"),
        ({"guidance_scale": 10**400}, 422, "FIELD_INVALID", "guidance_scale", "1.0 to 3.0"),
        ({"guidance_scale": True}, 422, "FIELD_INVALID", "guidance_scale", "True"),
        ({"guidance_scale": None}, 422, "FIELD_INVALID", "guidance_scale", "None"),
        ({"inference_steps": 0}, 422, "FIELD_INVALID", "inference_steps", "1 to 50"),
        ({"inference_steps": 51}, 422, "FIELD_INVALID", "inference_steps", "51"),
        ({"inference_steps": 20.5}, 422, "FIELD_INVALID", "inference_steps", "20.5"),
        ({"seed": -2}, 422, "FIELD_INVALID", "seed", "-2"),
        ({"seed": 2**63}, 422, "FIELD_INVALID", "seed", str(2**63 - 1)),
        ({"seed": "1247"}, 422, "FIELD_INVALID", "seed", "'1247'"),
        ({"sync_mode": "pingpong"}, 422, "FIELD_INVALID", "sync_mode", "bounce"),
        ({"speaker": "left"}, 422, "FIELD_INVALID", "speaker", "auto"),
        ({"speaker": {"box": [9, 9, 1, 1]}}, 422, "FIELD_INVALID", "speaker", "box"),
        ({"deadline_s": 0}, 422, "FIELD_INVALID", "deadline_s", "0"),
        ({"guidence_scale": 2}, 422, "FIELD_UNKNOWN", "guidence_scale", "guidance_scale"),
        ({"\ud800": 1}, 422, "FIELD_UNKNOWN", "\\ud800", "Unknown field"),
        ({"x" * 10_000: 1}, 422, "FIELD_UNKNOWN", None, "Unknown field"),
        ({"video_base64": "\ud800"}, 422, "FIELD_INVALID", "video_base64", "Unicode"),
    ],
)
def test_a_wrong_field_is_named_with_its_value_and_what_is_allowed(
    url: str,
    body: dict[str, Any],
    changes: dict[str, Any],
    status: int,
    code: str,
    field: str | None,
    said: str,
) -> None:
    merged = {**body, **changes}
    error = post(
        url,
        {
            name: value
            for name, value in merged.items()
            if value is not None or name in ("guidance_scale",)
        },
    )
    assert (error.status_code, error.code) == (status, code)
    assert said in error.message
    if field is not None:
        assert error.field == field


@pytest.mark.parametrize("content", ["null", "[]", '"text"', "7", "true", "NaN"])
def test_json_that_is_no_object_is_malformed(url: str, content: str) -> None:
    response = httpx.post(f"{url}/predict", content=content, headers={**AUTH, **JSON})
    error = error_of(response)
    assert (error.status_code, error.code) == (400, "BODY_MALFORMED")
    assert "JSON object" in error.message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        (b"video_url=x", "not JSON"),
        (b'{"seed": 1e400}', None),
        (b'{"seed": ' + b"1" * 6000 + b"}", "digits"),
        (b'{"speaker": ' + b"[" * 50_000, "deeply"),
        (b'{"speaker": ' + b"[" * 900 + b"]" * 900 + b"}", None),
        (b'{"seed": 1, "seed": 2}', "twice"),
        (b'{"a": "\xff"}', "UTF-8"),
    ],
)
def test_hostile_json_is_refused(url: str, content: bytes, said: str | None) -> None:
    error = error_of(httpx.post(f"{url}/predict", content=content, headers={**AUTH, **JSON}))
    assert error.status_code in (400, 422)
    if said is not None:
        assert error.code == "BODY_MALFORMED"
        assert said in error.message


def test_a_form_is_refused_by_its_content_type(url: str) -> None:
    error = error_of(httpx.post(f"{url}/predict", data={"seed": "1"}, headers=AUTH))
    assert (error.status_code, error.code) == (400, "BODY_MALFORMED")
    assert "application/x-www-form-urlencoded" in error.message


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": KEY},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"Authorization": "Bearer ключ-🔑".encode()},
        {"Authorization": b"Bearer \xff\xfe\x80"},
    ],
)
@pytest.mark.parametrize("path", ["/predict", "/v4/p-1/latentsync/predict"])
def test_requests_without_a_known_token_are_refused(url: str, headers: Any, path: str) -> None:
    response = httpx.post(url + path, content=b"{", headers={**headers, **JSON})
    error = error_of(response)
    assert (error.status_code, error.code) == (401, "NOT_AUTHORIZED")
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert KEY not in response.text


def test_two_authorization_headers_are_one_too_many(url: str) -> None:
    headers = [("Authorization", f"Bearer {KEY}"), ("Authorization", "Bearer other")]
    assert error_of(httpx.post(f"{url}/predict", headers=headers)).status_code == 401


def test_a_declared_body_over_the_cap_is_refused(url: str) -> None:
    content = b'{"video_base64": "' + b"A" * CAP_BYTES + b'"}'
    error = error_of(httpx.post(f"{url}/predict", content=content, headers={**AUTH, **JSON}))
    assert (error.status_code, error.code) == (413, "TOO_MANY_BYTES")
    assert str(CAP_BYTES) in error.message


def test_a_chunked_body_over_the_cap_is_refused(url: str) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(30):
            yield b" " * 10_000

    error = error_of(httpx.post(f"{url}/predict", content=parts(), headers={**AUTH, **JSON}))
    assert (error.status_code, error.code) == (413, "TOO_MANY_BYTES")


def test_a_chunked_body_within_the_cap_is_read(url: str, body: dict[str, Any]) -> None:
    content = json.dumps(body).encode()
    parts = (content[start : start + 1000] for start in range(0, len(content), 1000))
    response = httpx.post(f"{url}/predict", content=parts, headers={**AUTH, **JSON})
    assert response.status_code == 200, response.text


def _raw(url: str, *headers: str) -> socket.socket:
    address = urlsplit(url)
    connection = socket.create_connection((str(address.hostname), int(address.port or 0)), 60)
    head = "\r\n".join(["POST /predict HTTP/1.1", "Host: localhost", *headers, "", ""])
    connection.sendall(head.encode())
    return connection


def test_the_token_is_checked_before_the_body_is_read(url: str) -> None:
    with _raw(url, "Authorization: Bearer wrong", "Content-Length: 1000000000") as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 401")


def test_a_declared_size_is_checked_before_the_body_is_sent(url: str) -> None:
    with _raw(url, f"Authorization: Bearer {KEY}", "Content-Length: 1000000000") as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 413")


def test_a_body_that_never_ends_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentsync.server.middleware._LINGER_S", 0.1)
    head = f"Authorization: Bearer {KEY}", "Content-Length: 100"
    hasty = serving_engine(tmp_path, SquareEngine(), body_timeout_s=0.3)
    with hasty as url, _raw(url, *head) as connection:
        connection.sendall(b"{")
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"FETCH_TIMEOUT" in answer
    assert b"0.3 s" in answer


def test_the_cap_of_one_medium_holds_inside_the_body(tmp_path: Path, body: dict[str, Any]) -> None:
    with serving_engine(tmp_path, SquareEngine(), max_media_bytes=500) as url:
        error = post(url, body)
    assert (error.status_code, error.code) == (413, "TOO_MANY_BYTES")
    assert error.field == "video_base64"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/predict", 405, "METHOD_NOT_ALLOWED"),
        ("DELETE", "/health", 405, "METHOD_NOT_ALLOWED"),
        ("POST", "/nowhere", 404, "NOT_FOUND"),
        ("GET", "/../../etc/passwd", 404, "NOT_FOUND"),
    ],
)
def test_wrong_paths_and_methods_have_the_same_shape(
    url: str, method: str, path: str, status: int, code: str
) -> None:
    error = error_of(httpx.request(method, url + path))
    assert (error.status_code, error.code) == (status, code)
