"""Errors in the shape of the contract that a call belongs to.

Those of a path that no contract knows are told as contract A tells them.
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
]  # the str: the log's reference
NATIVE_PATHS = "/v1"
_PROBLEM_TYPE = "application/problem+json"
_URN = "urn:latentsync:error:"
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")
_OF_ROUTING = {kind.status: kind for kind in (errors.NoSuchPath, errors.MethodNotAllowed)}


def error_response(error: errors.LatentSyncError, run_id: str | None = None) -> JSONResponse:
    """Return the HTTP answer for an error: its status, its body, and the headers it calls for."""
    body = ErrorResponse(**error.to_dict(), run_id=run_id)
    return JSONResponse(body.model_dump(), status_code=error.status, headers=error_headers(error))


def problem_response(error: errors.LatentSyncError, run_id: str | None = None) -> JSONResponse:
    """Return an error as the native API tells it."""
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
        return "Canceled"  # no registered status
    return HTTPStatus(status_code).phrase


def error_headers(error: errors.LatentSyncError) -> dict[str, str]:
    """Return the HTTP headers that an error calls for."""
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if isinstance(error, errors.NotAuthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def add_error_handlers(app: FastAPI, shapes: Mapping[str, ErrorShape]) -> None:
    """Answer our own errors, those of the framework and defects alike.

    Args:
        app: the application.
        shapes: how errors are told below paths; contract A's way everywhere else.
    """

    def answer(
        request: Request, error: errors.LatentSyncError, run_id: str | None = None
    ) -> JSONResponse:
        return shape_at(request.url.path, shapes)(error, run_id)

    @app.exception_handler(errors.LatentSyncError)
    async def own(request: Request, error: errors.LatentSyncError) -> JSONResponse:
        return answer(request, error)

    @app.exception_handler(HTTPException)
    async def of_routing(request: Request, error: HTTPException) -> JSONResponse:
        kind = _OF_ROUTING.get(error.status_code)
        if kind is None:
            return await defect(request, error)
        phrase = HTTPStatus(error.status_code).phrase
        told = answer(request, kind(f"{phrase}: {request.method} {request.url.path[:80]}."))
        if kind is errors.MethodNotAllowed:
            told.headers["Allow"] = _allowed(request)
        return told

    @app.exception_handler(RequestValidationError)
    async def of_validation(request: Request, error: RequestValidationError) -> JSONResponse:
        problem = error.errors()[0]
        place, *parts = (str(part) for part in problem["loc"])
        if place == "query":
            name, allowed = ".".join(parts), problem["msg"].replace("Input should", "it must")
            said = f"{name} is {errors.shorten(problem['input'])}: {allowed}."
            return answer(request, errors.InvalidField(said, field=name))
        name = ".".join((place, *parts))
        return answer(request, errors.InvalidRequest(f"{name}: {problem['msg']}.", field=name))

    @app.exception_handler(SQLAlchemyError)  # of its own, because what is no defect is not raised
    async def of_record(request: Request, error: SQLAlchemyError) -> JSONResponse:
        fault = log_database_error(error)
        if fault is None:
            raise error
        return answer(request, fault)

    @app.exception_handler(Exception)
    async def defect(request: Request, error: Exception) -> JSONResponse:
        reference = str(uuid.uuid4())
        return answer(request, to_public_error(error, reference), reference)


def _allowed(request: Request) -> str:
    """Return the methods of a request's path; each route knows only its own."""
    routes: list[BaseRoute] = request.app.routes
    kinds = [{**request.scope, "method": method} for method in _METHODS]
    return ", ".join(
        scope["method"]
        for scope in kinds
        if any(route.matches(scope)[0] is Match.FULL for route in routes)
    )


def shape_at(path: str, shapes: Mapping[str, ErrorShape]) -> ErrorShape:
    """Return how errors are answered at a path; ``shapes`` has those of contracts, by path."""
    for beginning, shape in shapes.items():
        if path == beginning or path.startswith(f"{beginning}/"):
            return shape
    return error_response
