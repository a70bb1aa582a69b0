"""What the OpenAPI document says beyond what FastAPI finds out by itself.

Bodies are parsed by :func:`latentsync.schema.parse_request`, after authorization and under limits,
so FastAPI never sees their model: it is declared here.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from latentsync.schema import ErrorResponse, PredictRequest

_REFERENCE = "#/components/schemas/{model}"

_MEANINGS = {
    400: "The body is not a JSON object",
    401: "The bearer token is missing or wrong",
    403: "A media address or path that this server must not read",
    408: "The body or a media address was too slow",
    413: "The body or a medium is larger than allowed",
    422: "A field or a medium cannot be used",
    429: "The line is full; Retry-After says when to try again",
    500: "A defect of the server or a codec failure",
    503: "The engine is not ready",
    504: "The run did not end before its deadline",
    507: "The server's disk is full",
}

ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": meaning}
    for status, meaning in _MEANINGS.items()
}

PREDICT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": _REFERENCE.format(model="PredictRequest")}}
        },
    }
}


def add_openapi(app: FastAPI) -> None:
    """Make the application's document carry the schema of the request bodies."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _build(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's documented hook


def _build(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    request_schema = PredictRequest.model_json_schema(ref_template=_REFERENCE)
    parts = request_schema.pop("$defs", {})
    document["components"]["schemas"].update({**parts, "PredictRequest": request_schema})
    return document
