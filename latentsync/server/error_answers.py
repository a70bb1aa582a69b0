"""Every error of the server in one shape: :class:`latentsync.schema.ErrorResponse`."""

from __future__ import annotations

import math
import uuid
from http import HTTPStatus

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from latentsync.door import as_own_error
from latentsync.errors import FetchTimeout, InvalidRequest, LatentSyncError, NotAuthorized
from latentsync.schema import ErrorResponse


def error_answer(error: LatentSyncError, run_id: str | None = None) -> JSONResponse:
    """Return the HTTP answer for an error: its status, its body, and the headers it calls for."""
    body = ErrorResponse(**error.to_dict(), run_id=run_id)
    return JSONResponse(body.model_dump(), status_code=error.status, headers=_headers(error))


def _headers(error: LatentSyncError) -> dict[str, str]:
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if isinstance(error, NotAuthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, FetchTimeout):
        headers["Connection"] = "close"  # the rest of a body that never comes is not waited for
    return headers


def add_error_handlers(app: FastAPI) -> None:
    """Answer our own errors, those of the framework and defects alike."""

    @app.exception_handler(LatentSyncError)
    async def own(request: Request, error: LatentSyncError) -> JSONResponse:
        return error_answer(error)

    @app.exception_handler(HTTPException)
    async def of_routing(request: Request, error: HTTPException) -> JSONResponse:
        status = HTTPStatus(error.status_code)
        message = f"{status.phrase}: {request.method} {request.url.path[:80]}."
        body = ErrorResponse(status_code=status, code=status.name, message=message)
        return JSONResponse(body.model_dump(), status_code=status, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def of_validation(request: Request, error: RequestValidationError) -> JSONResponse:
        problem = error.errors()[0]
        name = ".".join(str(part) for part in problem["loc"])
        return error_answer(InvalidRequest(f"{name}: {problem['msg']}.", field=name))

    @app.exception_handler(Exception)
    async def defect(request: Request, error: Exception) -> JSONResponse:
        reference = str(uuid.uuid4())
        return error_answer(as_own_error(error, reference), reference)
