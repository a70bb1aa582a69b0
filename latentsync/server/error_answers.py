"""Errors in the shape of the contract that a call belongs to.

The native API answers problem details, :class:`latentsync.answers.Problem`; everything else answers
:class:`latentsync.answers.ErrorResponse`.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from latentsync.answers import ErrorResponse, Problem
from latentsync.door import as_own_error
from latentsync.errors import (
    Canceled,
    InvalidRequest,
    LatentSyncError,
    NotAuthorized,
)

NATIVE_PATHS = "/v1/"
PROBLEM_TYPE = "application/problem+json"
_URN = "urn:latentsync:error:"


def error_answer(error: LatentSyncError, run_id: str | None = None) -> JSONResponse:
    """Return the HTTP answer for an error: its status, its body, and the headers it calls for."""
    body = ErrorResponse(**error.to_dict(), run_id=run_id)
    return JSONResponse(body.model_dump(), status_code=error.status, headers=error_headers(error))


def _answer(
    request: Request, body: ErrorResponse, headers: Mapping[str, str] | None
) -> JSONResponse:
    if not request.url.path.startswith(NATIVE_PATHS):
        return JSONResponse(body.model_dump(), body.status_code, headers)
    problem = as_problem(body)
    return JSONResponse(problem.model_dump(), body.status_code, headers, media_type=PROBLEM_TYPE)


def as_problem(error: ErrorResponse) -> Problem:
    """Return an error as the native API tells it."""
    return Problem(
        type=_URN + error.code.lower().replace("_", "-"),
        title=_title(error.status_code),
        status=error.status_code,
        detail=error.message,
        code=error.code,
        field=error.field,
        run_id=error.run_id,
    )


def _title(status_code: int) -> str:
    if status_code == Canceled.status:
        return "Canceled"  # no registered status
    return HTTPStatus(status_code).phrase


def error_headers(error: LatentSyncError) -> dict[str, str]:
    """Return the HTTP headers that an error calls for."""
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if isinstance(error, NotAuthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def add_error_handlers(app: FastAPI) -> None:
    """Answer our own errors, those of the framework and defects alike."""

    def answer(request: Request, error: LatentSyncError, run_id: str | None = None) -> JSONResponse:
        body = ErrorResponse(**error.to_dict(), run_id=run_id)
        return _answer(request, body, error_headers(error))

    @app.exception_handler(LatentSyncError)
    async def own(request: Request, error: LatentSyncError) -> JSONResponse:
        return answer(request, error)

    @app.exception_handler(HTTPException)
    async def of_routing(request: Request, error: HTTPException) -> JSONResponse:
        status = HTTPStatus(error.status_code)
        message = f"{status.phrase}: {request.method} {request.url.path[:80]}."
        body = ErrorResponse(status_code=status, code=status.name, message=message)
        return _answer(request, body, error.headers)

    @app.exception_handler(RequestValidationError)
    async def of_validation(request: Request, error: RequestValidationError) -> JSONResponse:
        problem = error.errors()[0]
        name = ".".join(str(part) for part in problem["loc"])
        return answer(request, InvalidRequest(f"{name}: {problem['msg']}.", field=name))

    @app.exception_handler(Exception)
    async def defect(request: Request, error: Exception) -> JSONResponse:
        reference = str(uuid.uuid4())
        return answer(request, as_own_error(error, reference), reference)
