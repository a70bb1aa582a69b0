"""What the OpenAPI document says of the native API beyond what FastAPI finds out by itself.

Bodies are read after authorization and under limits, so FastAPI never sees their models: they are
declared here, and added to the document by :mod:`latentsync.server.openapi`.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from latentsync.jobs.representation import Prediction
from latentsync.schema import PredictRequest
from latentsync.server.openapi import MEANINGS, REFERENCE
from latentsync.server.v1.representation import Predictions
from latentsync.server.v1.webhook import WebhookField

Responses = dict[int | str, dict[str, Any]]


class PredictionRequest(PredictRequest):
    """A prediction to make: contract A's fields, with ``upload://…`` as a further address."""

    webhook: WebhookField | str | None = Field(None, description="whom to tell how it ended")


def problems(*statuses: int) -> Responses:
    """Return the error answers with these statuses."""
    return {status: {"description": MEANINGS[status], "content": _PROBLEM} for status in statuses}


def _schema(model: str) -> dict[str, str]:
    return {"$ref": REFERENCE.format(model=model)}


_PROBLEM = {"application/problem+json": {"schema": _schema("Problem")}}


def _parameter(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": {"type": "string", **schema},
    }


def _json_body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


_ONE = _schema("PredictionRequest")
_LIST = {"type": "array", "items": _ONE, "minItems": 1, "maxItems": 100}
_WRAPPED = {
    "type": "object",
    "properties": {"predictions": _LIST},
    "required": ["predictions"],
    "additionalProperties": False,
}
_FILE = {"type": "string", "format": "binary"}
_FORM = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "description": "The same fields, values as in JSON; video and audio may be files, and "
            "the recording of the first segment a file named segments.0.audio.",
            "properties": {
                "video": _FILE,
                "audio": _FILE,
                "segments": {
                    "type": "string",
                    "contentMediaType": "application/json",
                    "contentSchema": {"type": "array", "items": _schema("SegmentFields")},
                },
            },
            "patternProperties": {r"^segments\.(0|[1-9][0-9]?)\.audio$": _FILE},
            "required": ["video"],
            "anyOf": [{"required": ["audio"]}, {"required": ["segments"]}],
        }
    }
}
_KEY = _parameter(
    "Idempotency-Key",
    "names this submission; a repeated one returns the first",
    minLength=1,
    maxLength=200,
    pattern="^[!-~]+$",
)
_PREFER = _parameter("Prefer", "wait=N answers when it is done, or after N seconds (60 at most)")

SUBMIT_PROBLEMS = problems(400, 403, 408, 409, 413, 429, 507)
SUBMIT: dict[str, Any] = {
    "parameters": [_KEY, _PREFER],
    "requestBody": {
        "required": True,
        "content": {**_json_body({"oneOf": [_ONE, _LIST, _WRAPPED]}), **_FORM},
    },
}
SUBMIT_ONE: dict[str, Any] = {
    "parameters": [_PREFER],
    "requestBody": {"required": True, "content": {**_json_body(_ONE), **_FORM}},
}
BATCH: dict[str, Any] = {
    "parameters": [_KEY],
    "requestBody": {"required": True, "content": _json_body({"oneOf": [_LIST, _WRAPPED]})},
}
SUBMIT_ONE_RESPONSES: Responses = {
    200: {"model": Prediction, "description": "It has ended"},
    202: {"model": Prediction, "description": "It is recorded; Location says where to ask"},
}
SUBMIT_RESPONSES: Responses = {
    200: SUBMIT_ONE_RESPONSES[200],
    202: {"model": Prediction | Predictions, "description": "Recorded"},
}
BATCH_RESPONSES: Responses = {202: {"model": Predictions, "description": "All are recorded"}}
EVENTS: Responses = {
    200: {
        "description": "status, progress, log and position events until it has ended; "
        "webhook events are told to those who come later",
        "content": {"text/event-stream": {}},
    },
    204: {"description": "It has ended and there is nothing after Last-Event-ID"},
}
ERASURE: Responses = {
    202: {"description": "It is nobody's any more and goes as soon as its run or a store allows"},
    204: {"description": "It is gone"},
}
REMOVED: Responses = {204: ERASURE[204]}
_VIDEO = {"video/mp4": {"schema": {"type": "string", "format": "binary"}}}
OUTPUT: Responses = {
    200: {"description": "The whole video", "content": _VIDEO},
    206: {"description": "The range asked for", "content": _VIDEO},
    304: {"description": "The caller has it already"},
    409: {
        "description": "There is no video: OUTPUT_NOT_READY until the prediction has ended, "
        "NO_OUTPUT if it failed or was canceled",
        "content": _PROBLEM,
    },
    416: {"description": "There is nothing in this range"},
}
UPLOAD_PROBLEMS = problems(400, 408, 413, 429, 507)
UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "the file itself",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
