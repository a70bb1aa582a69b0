"""OpenAPI documentation of the native API that FastAPI does not generate.

Bodies and some headers are parsed after authorization and under limits, so FastAPI does not know
them: they are declared here and added by :mod:`latentsync.server.openapi`.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Body
from fastapi.openapi.models import Example
from pydantic import BaseModel, ConfigDict, Field

from latentsync.errors import OutputNotReady
from latentsync.jobs.schemas import Prediction, PredictionList
from latentsync.schema.predict import PredictRequest
from latentsync.server import openapi
from latentsync.server.errors import problem_response
from latentsync.server.request_body import UnreadRequest
from latentsync.server.routes.submissions import BATCH_MAX, WebhookField


class PredictionRequest(PredictRequest):
    """A prediction to create."""

    webhook: WebhookField | str | None = Field(
        None,
        description="URL to call when the prediction ends, or an object with `url` and `events`.",
    )


def problems(*statuses: int) -> openapi.Responses:
    """Return the error responses with these statuses."""
    content = {"application/problem+json": {"schema": openapi.reference("Problem")}}
    return {
        status: {"description": openapi.MEANINGS[status], "content": content} for status in statuses
    }


_FILE = {"type": "string", "format": "binary"}
_EMPTY_BY_DEFAULT = {"examples": [""]}  # otherwise /docs fills in generated values


def form_schema() -> dict[str, Any]:
    """Return the schema of the form: the fields of the JSON body, and files."""
    described = openapi.schemas_of(PredictionRequest)["PredictionRequest"]["properties"]
    fields = {name: _as_form_field(schema) for name, schema in described.items()}
    audio, segments = {"required": ["audio"]}, {"required": ["segments"]}
    return {
        "type": "object",
        "title": "PredictionForm",
        "description": "A prediction to create, as a form: the fields of the JSON body, and files. "
        "Empty fields count as absent.",
        "properties": {
            "video": {**_FILE, "description": "The source video, as a file."},
            "audio": {**_FILE, "description": "The speech recording, as a file."},
            "segments.0.audio": {
                **_FILE,
                "description": "The recording of the first segment, as a file. The others "
                "are `segments.1.audio`, `segments.2.audio` and so on.",
            },
            **fields,
        },
        "patternProperties": {r"^segments\.(0|[1-9][0-9]?)\.audio$": _FILE},
        "additionalProperties": False,
        "allOf": [
            {"oneOf": [{"required": [f"video{form}"]} for form in ("", "_url", "_base64")]},
            {
                "anyOf": [
                    audio,
                    {"required": ["audio_url"]},
                    {"required": ["audio_base64"]},
                    segments,
                ]
            },
        ],
    }


def _as_form_field(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a JSON field to a form field: everything is text and nothing is null."""
    described = {name: value for name, value in schema.items() if name not in ("anyOf", "default")}
    kinds = [kind for kind in schema.get("anyOf", ()) if kind.get("type") != "null"]
    default = schema.get("default")
    if (
        described.get("type") == "boolean"
    ):  # explicit values, since languages format booleans differently
        spelled = {"enum": ["true", "false"], "default": str(default).lower()}
        return {**described, "type": "string", **spelled}
    if described.get("type") == "array" or len(kinds) > 1:
        about = {name: described[name] for name in ("title", "description")}
        # No contentMediaType: /docs would ask for a file.
        text = f"{about['description']} Objects and lists are JSON."
        return {**about, "description": text, "type": "string", **_EMPTY_BY_DEFAULT}
    filled = _EMPTY_BY_DEFAULT if default is None else {"default": default}
    return {**described, **(kinds[0] if kinds else {}), **filled}


class PredictionBatch(BaseModel):
    """Predictions to create, all or none."""

    model_config = ConfigDict(extra="forbid")

    predictions: list[PredictionRequest] = Field(
        min_length=1, max_length=BATCH_MAX, description="The predictions."
    )


def _segments() -> dict[str, Any]:
    video, audio = openapi.embedded_media()
    parts = [{"start_s": 0.0, "end_s": 0.4}, {"start_s": 0.6, "audio_start_s": 0.4}]
    # The segments exceed the video, so sync_mode must be given.
    fields = {"segments": parts, "sync_mode": "bounce"}
    return {**fields, "video_base64": video, "audio_base64": audio}


_FORM = {
    "requestBody": {
        "content": {
            "multipart/form-data": {
                "schema": openapi.reference("PredictionForm"),
                "examples": {
                    "files": {
                        "summary": "Two files and an option",
                        "value": {"video": "video.mp4", "audio": "audio.wav", "seed": 7},
                    },
                    "segments": {
                        "summary": "A segment with a recording of its own",
                        "value": {
                            "video": "video.mp4",
                            "segments.0.audio": "audio.wav",
                            "segments": '[{"start_s": 0.5}]',
                            "sync_mode": "bounce",
                        },
                    },
                },
            }
        }
    }
}
_EMBEDDED: Example = {"summary": "Embedded media", "value": openapi.embedded_request(seed=7)}
_UPLOADED: Example = {
    "summary": "Media stored with POST /v1/uploads",
    "value": {
        "seed": 7,
        "video_url": openapi.UPLOADED_VIDEO,
        "audio_url": openapi.UPLOADED_AUDIO,
    },
}
_SEGMENTS: Example = {"summary": "Two segments of one recording", "value": _segments()}
_TWO = {"predictions": [openapi.embedded_request(seed=seed) for seed in (1, 2)]}
One = Annotated[UnreadRequest[PredictionRequest], Body(openapi_examples={"embedded": _EMBEDDED})]
OneOrSeveral = Annotated[
    UnreadRequest[PredictionRequest | PredictionBatch],
    Body(openapi_examples={"embedded": _EMBEDDED, "uploads": _UPLOADED, "segments": _SEGMENTS}),
]
Several = Annotated[
    UnreadRequest[
        Annotated[list[PredictionRequest], Field(min_length=1, max_length=BATCH_MAX)]
        | PredictionBatch
    ],
    Body(openapi_examples=openapi.example("Two predictions", _TWO)),
]

_KEY = openapi.header_parameter(
    "Idempotency-Key",
    "Your key for this request, 1 to 200 printable characters. Repeating a request with the "
    "same key and body returns the first predictions; another body returns 409.",
    schema={"minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"},
)
_PREFER = openapi.header_parameter(
    "Prefer",
    "`wait=N` waits up to N seconds (at most 60) and returns 200 if the prediction has ended by "
    "then, else 202. Without it the response is immediate.",
    example="wait=60",
)
_LAST_EVENT_ID = openapi.header_parameter(
    "Last-Event-ID",
    "`id` of the last event received; the stream continues after it.",
    schema={"pattern": "^[0-9]+$"},
)
SUBMIT_PROBLEMS = problems(400, 403, 404, 408, 409, 413, 429, 507)
SUBMIT: dict[str, Any] = {"parameters": [_KEY, _PREFER], **_FORM}
SUBMIT_ONE: dict[str, Any] = {"parameters": [_PREFER], **_FORM}
BATCH: dict[str, Any] = {"parameters": [_KEY]}
_LOCATION = {
    "Location": openapi.header("Path of the prediction, if the request creates one."),
    "Preference-Applied": openapi.header("`wait=N`, if the request asked to wait."),
}
SUBMIT_ONE_RESPONSES: openapi.Responses = {
    200: {"model": Prediction, "description": "The prediction has ended", "headers": _LOCATION},
    202: {"model": Prediction, "description": "Accepted", "headers": _LOCATION},
}
SUBMIT_RESPONSES: openapi.Responses = {
    200: SUBMIT_ONE_RESPONSES[200],
    202: {
        "model": Prediction | PredictionList,
        "description": "Accepted: the prediction or predictions",
        "headers": _LOCATION,
    },
}
BATCH_RESPONSES: openapi.Responses = {
    202: {"model": PredictionList, "description": "All predictions are accepted"}
}
_EVENT_EXAMPLE = """\
id: 12
event: progress
data: {"stage": "generate", "fraction": 0.42, "frames_done": 68, "frames_total": 161}

"""
EVENTS: dict[str, Any] = {"parameters": [_LAST_EVENT_ID]}
EVENTS_RESPONSES: openapi.Responses = {
    200: {
        "description": "Events until the prediction has ended",
        "content": {"text/event-stream": {"example": _EVENT_EXAMPLE}},
    },
    204: {"description": "The prediction has ended and has no events after Last-Event-ID"},
}
ERASURE: openapi.Responses = {
    202: {"description": "Accepted: no longer accessible, and erased as soon as possible"},
    204: {"description": "Erased"},
}
REMOVED: openapi.Responses = {204: ERASURE[204]}
_NOT_READY = OutputNotReady("The prediction is processing: it has no output.")
NO_VIDEO: openapi.Responses = {
    409: {
        "description": "There is no video: `OUTPUT_NOT_READY` until the prediction has ended, "
        "`NO_OUTPUT` if it failed or was canceled",
        "content": {
            "application/problem+json": {
                "schema": openapi.reference("Problem"),
                "example": json.loads(bytes(problem_response(_NOT_READY).body)),
            }
        },
    },
    410: problems(410)[410],
}
UPLOAD_PROBLEMS = problems(400, 408, 413, 429, 507)
UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The file itself.",
        "content": {"application/octet-stream": {"schema": _FILE}},
    }
}
