"""What servers answer, read without trust in its shape."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import httpx
from pydantic import ValidationError

from latentsync.answers import PredictResponse
from latentsync.client.job import Job, JobPage
from latentsync.client.prediction import Prediction
from latentsync.errors import ServerError

_UNKNOWN = "UNKNOWN"


def read_prediction(response: httpx.Response) -> Prediction:
    """Read contract A's answer; raises ServerError."""
    body = json_object(response)
    result = body.get("result")
    failure = result if isinstance(result, dict) and is_error(result) else body
    if not response.is_success or is_error(failure):
        raise server_error(response, failure)
    try:
        answer = PredictResponse.model_validate(body)
        video = base64.b64decode(answer.result.video_base64, validate=True)
    except (ValidationError, binascii.Error) as error:
        raise unexpected(response, "a video") from error
    return Prediction(answer.run_id, answer.run_time_ms, answer.result.details, video)


def read_job(response: httpx.Response) -> Job:
    """Read the native API's answer with one job; raises ServerError."""
    try:
        return Job.model_validate(json_object(response))
    except ValidationError as error:
        raise unexpected(response, "a job") from error


def read_page(response: httpx.Response) -> JobPage:
    """Read the native API's answer with several jobs; raises ServerError."""
    body = json_object(response)
    jobs, cursor = body.get("predictions"), body.get("next_cursor")
    if not isinstance(jobs, list) or not isinstance(cursor, str | None):
        raise unexpected(response, "a list of jobs")
    try:
        return JobPage(tuple(Job.model_validate(job) for job in jobs), cursor)
    except ValidationError as error:
        raise unexpected(response, "a list of jobs") from error


def json_object(response: httpx.Response) -> Mapping[str, Any]:
    """Return the body's JSON object; an empty one for HTML of a proxy, bytes or nothing at all."""
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def is_error(body: Mapping[str, Any]) -> bool:
    """Tell whether a body says by itself that it is an error, as Cerebrium's do."""
    status = body.get("status_code")
    return isinstance(status, int) and status >= 400


def server_error(response: httpx.Response, body: Mapping[str, Any]) -> ServerError:
    """Return what can be read from an error body of any shape."""
    status = body["status_code"] if is_error(body) else response.status_code
    said = body.get("message") or body.get("detail") or body.get("error") or body.get("reason")
    message = said if isinstance(said, str) else f"The server answered with status {status}."
    code, at_fault = body.get("code"), body.get("field")
    return ServerError(
        message,
        server_status=status,
        server_code=code if isinstance(code, str) else _UNKNOWN,
        field=at_fault if isinstance(at_fault, str) else None,
        retry_after_s=_retry_after_s(response),
    )


def native_error(response: httpx.Response) -> ServerError:
    """Return the error of a call to the native API, which not every server has."""
    error = server_error(response, json_object(response))
    no_such_route = error.server_code in (_UNKNOWN, "NOT_FOUND", "METHOD_NOT_ALLOWED")
    if response.status_code not in (404, 405) or not no_such_route:
        return error
    return ServerError(
        f"{shown(response)} takes no jobs. Call predict, which waits for the video.",
        server_status=response.status_code,
        server_code=error.server_code,
        field="url",
    )


def unexpected(response: httpx.Response, wanted: str) -> ServerError:
    """Return the error of an answer that is no error, but not what was asked for either."""
    return ServerError(
        f"The server answered with status {response.status_code}, but not with {wanted}.",
        server_status=response.status_code,
        server_code="UNEXPECTED_ANSWER",
    )


def shown(response: httpx.Response) -> str:
    """Return the address of the server that answered, for messages."""
    url = response.request.url
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def _retry_after_s(response: httpx.Response) -> float | None:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdecimal() else None  # the form with a date is not used here
