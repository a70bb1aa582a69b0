"""What the OpenAPI document says beyond what FastAPI finds out by itself.

Bodies are parsed by :func:`latentsync.schema.parse_request`, after authorization and under limits,
so FastAPI never sees their model: it is declared here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from latentsync.answers import ErrorResponse

REFERENCE = "#/components/schemas/{model}"

MEANINGS = {
    400: "The body is not a JSON object",
    401: "The bearer token is missing or wrong",
    403: "A media address or path that this server must not read",
    404: "There is no such thing, or it is somebody else's",
    408: "The body or a media address was too slow",
    409: "The id or Idempotency-Key was used for another request",
    410: "The video is no longer kept",
    413: "The body or a medium is larger than allowed",
    422: "A field or a medium cannot be used",
    429: "The line is full; Retry-After says when to try again",
    500: "A defect of the server or a codec failure",
    503: "The engine, the store of files or the record of jobs is not ready",
    504: "The run did not end before its deadline",
    507: "The server's disk is full",
}

ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": meaning}
    for status, meaning in MEANINGS.items()
    if status not in (404, 409, 410)  # of jobs
}

PREDICT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": REFERENCE.format(model="PredictRequest")}}
        },
    }
}


def add_openapi(app: FastAPI, *models: type[BaseModel]) -> None:
    """Make the application's document carry the models of bodies that FastAPI never sees."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _build(app, models)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's documented hook


def _build(app: FastAPI, models: Iterable[type[BaseModel]]) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    for model in models:
        schema = model.model_json_schema(ref_template=REFERENCE)
        parts = schema.pop("$defs", {})
        document["components"]["schemas"].update({**parts, model.__name__: schema})
    return document
