"""Answers of any shape to calls about jobs: each is an error that says what came."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from latentsync.client._http import native_error, read_job, read_page
from latentsync.client.models import JobEvent
from latentsync.errors import ServerError

JOB = {"id": "x", "status": "queued"}


def answer(status: int, body: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = httpx.Request("GET", "http://a.example:8000/v1/predictions/x")
    return httpx.Response(status, content=content, request=request)


@pytest.mark.parametrize(
    "body",
    [b"<html></html>", b"", b"\xff", [], {}, {**JOB, "status": "dreaming"}, {"id": "x"}],
)
def test_what_is_no_job_is_refused(body: Any) -> None:
    with pytest.raises(ServerError, match="not with a job") as refused:
        read_job(answer(200, body))
    assert refused.value.server_code == "UNEXPECTED_ANSWER"


@pytest.mark.parametrize(
    "body",
    [b"", {}, {"predictions": None}, {"predictions": [{}], "next_cursor": None}]
    + [{"predictions": [], "next_cursor": 3}],
)
def test_what_is_no_list_is_refused(body: Any) -> None:
    with pytest.raises(ServerError, match="not with a list of jobs"):
        read_page(answer(200, body))


def test_fields_that_a_newer_server_adds_are_ignored() -> None:
    assert read_job(answer(200, {**JOB, "new": 1})).status == "queued"
    assert read_page(answer(200, {"predictions": [JOB], "next_cursor": None, "new": 1})).jobs


@pytest.mark.parametrize("reported", ["2023-11-14T22:13:22.500000Z", 1_700_000_002.5])
def test_the_time_of_an_event_is_read_in_the_old_form_too(reported: str | float) -> None:
    moment = datetime(2023, 11, 14, 22, 13, 22, 500_000, UTC)
    assert JobEvent("log", {"at": reported, "line": "x"}).at == moment
    for strange in (None, "yesterday", [], 1e300, float("nan")):
        assert JobEvent("log", {"at": strange}).at is None


@pytest.mark.parametrize("body", [b"<html></html>", {"code": "NOT_FOUND", "detail": "Not Found."}])
@pytest.mark.parametrize("status", [404, 405])
def test_a_server_without_jobs_is_distinguished_from_one_without_this_job(
    status: int, body: Any
) -> None:
    assert native_error(answer(status, body)).message == (
        "http://a.example:8000 takes no jobs. Call predict, which waits for the video."
    )
    unknown = native_error(answer(404, {"code": "JOB_NOT_FOUND", "detail": "There is no job 'x'."}))
    assert unknown.message == "There is no job 'x'."
