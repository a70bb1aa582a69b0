"""Exception handlers that return errors in the format of each contract.

Errors of other paths have the format of contract A.
"""

import math
import uuid
from collections.abc import Callable, Mapping
from http import HTTPStatus

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Match

from latentsync import errors
from latentsync.public_errors import log_database_error, to_public_error
from latentsync.schema.responses import ErrorResponse, Problem

ErrorShape = Callable[
    [errors.LatentSyncError, str | None], JSONResponse
]  # the str: reference of the log entry
NATIVE_PATHS = "/v1"
_PROBLEM_TYPE = "application/problem+json"
_URN = "urn:latentsync:error:"
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")
_ROUTING_ERRORS = {kind.status: kind for kind in (errors.NoSuchPath, errors.MethodNotAllowed)}


def error_response(error: errors.LatentSyncError, run_id: str | None = None) -> JSONResponse:
    """Return the HTTP response of an error in the format of contract A."""
    body = ErrorResponse(**error.to_dict(), run_id=run_id)
    return JSONResponse(body.model_dump(), status_code=error.status, headers=error_headers(error))


def problem_response(error: errors.LatentSyncError, run_id: str | None = None) -> JSONResponse:
    """Return the HTTP response of an error in the format of the native API (RFC 9457)."""
    problem = as_problem(ErrorResponse(**error.to_dict(), run_id=run_id))
    headers = error_headers(error)
    return JSONResponse(problem.model_dump(), error.status, headers, media_type=_PROBLEM_TYPE)


def as_problem(error: ErrorResponse) -> Problem:
    """Return an error as a problem document."""
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
    if status_code == errors.Canceled.status:
        return "Canceled"  # 499 is not a registered status
    return HTTPStatus(status_code).phrase


def error_headers(error: errors.LatentSyncError) -> dict[str, str]:
    """Return the HTTP headers of an error."""
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if isinstance(error, errors.NotAuthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def add_error_handlers(app: FastAPI, shapes: Mapping[str, ErrorShape]) -> None:
    """Add handlers for our errors, the framework's errors and unexpected exceptions.

    Args:
        app: the application.
        shapes: error formats by path prefix; contract A's format everywhere else.
    """

    def answer(
        request: Request, error: errors.LatentSyncError, run_id: str | None = None
    ) -> JSONResponse:
        return shape_at(request.url.path, shapes)(error, run_id)

    @app.exception_handler(errors.LatentSyncError)
    async def package_error(request: Request, error: errors.LatentSyncError) -> JSONResponse:
        return answer(request, error)

    @app.exception_handler(HTTPException)
    async def routing_error(request: Request, error: HTTPException) -> JSONResponse:
        kind = _ROUTING_ERRORS.get(error.status_code)
        if kind is None:
            return await unexpected_error(request, error)
        phrase = HTTPStatus(error.status_code).phrase
        response = answer(request, kind(f"{phrase}: {request.method} {request.url.path[:80]}."))
        if kind is errors.MethodNotAllowed:
            response.headers["Allow"] = _allowed(request)
        return response

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
        problem = error.errors()[0]
        place, *parts = (str(part) for part in problem["loc"])
        if place == "query":
            name, allowed = ".".join(parts), problem["msg"].replace("Input should", "it must")
            message = f"{name} is {errors.shorten(problem['input'])}: {allowed}."
            return answer(request, errors.InvalidField(message, field=name))
        name = ".".join((place, *parts))
        return answer(request, errors.InvalidRequest(f"{name}: {problem['msg']}.", field=name))

    @app.exception_handler(
        SQLAlchemyError
    )  # separate: Starlette re-raises after Exception handlers
    async def database_error(request: Request, error: SQLAlchemyError) -> JSONResponse:
        fault = log_database_error(error)
        if fault is None:
            raise error
        return answer(request, fault)

    @app.exception_handler(Exception)
    async def unexpected_error(request: Request, error: Exception) -> JSONResponse:
        reference = str(uuid.uuid4())
        return answer(request, to_public_error(error, reference), reference)


def _allowed(request: Request) -> str:
    """Return the methods of a path, collected over all routes."""
    routes: list[BaseRoute] = request.app.routes
    kinds = [{**request.scope, "method": method} for method in _METHODS]
    return ", ".join(
        scope["method"]
        for scope in kinds
        if any(route.matches(scope)[0] is Match.FULL for route in routes)
    )


def shape_at(path: str, shapes: Mapping[str, ErrorShape]) -> ErrorShape:
    """Return the error format of a path."""
    for beginning, shape in shapes.items():
        if path == beginning or path.startswith(f"{beginning}/"):
            return shape
    return error_response
