"""Parts of the OpenAPI document that FastAPI does not generate.

Bodies are parsed by :func:`latentsync.schema.predict.parse_request`, after authorization and under
limits, so FastAPI does not know their models: they are declared here.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.models import Example
from fastapi.routing import APIRoute
from pydantic import BaseModel

from latentsync import errors
from latentsync.config import find_packaged
from latentsync.schema.responses import ErrorResponse
from latentsync.server.errors import ErrorShape, shape_at
from latentsync.server.middleware import AccessRules

REFERENCE = "#/components/schemas/{model}"
Responses = dict[int | str, dict[str, Any]]

MEANINGS = {
    400: "The body is not valid, or does not match its Content-Type",
    401: "The bearer key is missing or wrong",
    403: "A media URL that the server may not fetch",
    404: "Not found, or it belongs to another key",
    408: "The body or a media URL was too slow",
    409: "The id or the Idempotency-Key was used for another request",
    410: "The video is no longer stored",
    413: "The body or a media file is larger than allowed",
    422: "A field or a media file cannot be used",
    429: "Too much is waiting, arriving or stored; try again later",
    500: "Internal error, or the codec failed",
    503: "The engine, the file storage or the database is not ready; try again later",
    504: "The run did not finish before its deadline",
    507: "The disk of the server is full",
}
# Example of each status; shown in the format of the contract.
EXAMPLE_ERRORS: dict[int, errors.LatentSyncError] = {
    error.status: error
    for error in (
        errors.MalformedBody("The body is not JSON: Expecting value (at 0)."),
        errors.NotAuthorized("The bearer token is not known to this server."),
        errors.ForbiddenAddress("video_url points to a private address.", field="video_url"),
        errors.JobNotFound("There is no such job."),
        errors.FetchTimeout("The request body did not arrive within 300 s."),
        errors.IdempotencyConflict("This Idempotency-Key was used for another request."),
        errors.OutputGone("The output is no longer stored."),
        errors.TooManyBytes("The request body is larger than 268435456 bytes."),
        errors.InvalidField(
            "inference_steps is 51: input should be less than or equal to 50 (allowed: 1 to 50).",
            field="inference_steps",
        ),
        errors.LineFull("One prediction is running and 8 are waiting, which is the limit."),
        errors.InternalError("The run failed unexpectedly. Quote the reference 1b9d6bcd."),
        errors.EngineUnavailable("No worker is running; jobs stay queued."),
        errors.DeadlineExceeded("The run did not finish within 900 s."),
        errors.DiskFull("The disk has too little free space."),
    )
}

TAGS = {
    "predictions": "**Start here.** A prediction is a job: create it, follow its state, fetch the "
    "video. Jobs survive restarts of the server and of its workers.",
    "uploads": "Store a media file once, and use it in as many predictions as you like.",
    "models": "The available engines.",
    "predict": "One call that waits for the video and returns it as base64, with the field names "
    "and the response of the Cerebrium deployment.",
    "tasks": "A queue API by URL, for existing clients. It creates the same jobs as `/v1`; new "
    "clients should use `/v1/predictions`.",
    "lipsync": "A submit, status and cancel API with base64 media, for existing clients. It "
    "creates the same jobs as `/v1`; new clients should use `/v1/predictions`.",
    "health": "State of the server, for load balancers and monitoring.",
}
_INTRODUCTION = """\
Send a video and a speech recording; get the same video with lips that say the speech.

**Key.** Operations with a lock require a key of this server, sent as `Authorization: Bearer <key>`.
On `/docs`, press **Authorize** and paste the key alone, without the word `Bearer`. The
operator of the server gives you one (`LATENTSYNC_API_KEY`). Without the button, no key is needed.
"""
_WITH_JOBS = """
**First video.**

1. Open `PUT /v1/predictions/{job_id}` below and press **Execute**. The example contains a small
   picture and a second of speech, and waits for the result.
2. Open `GET /v1/predictions/{job_id}/output` and press **Execute**, then **Download file**.

**Your own media.** Send files as a form (choose `multipart/form-data` in `POST /v1/predictions`),
or store them with `POST /v1/uploads` and use the returned `url`, or give a URL, or embed
base64.

**State.** Poll `GET /v1/predictions/{job_id}` until `status` is `succeeded`, `failed` or
`canceled`, or follow `GET /v1/predictions/{job_id}/events`, or give a `webhook` in the request.
"""
_WITH_ENGINE = """
**First video.** Open `POST /predict` below and press **Execute**. The example contains a small
picture and a second of speech; the response contains the finished video as base64.
"""
_ERRORS = """
**Errors** have a stable `code` and one sentence that names the field, the value and the
allowed range. 429 and 503 may carry `Retry-After`, in seconds.
"""


def error_responses(*statuses: int, model: type[BaseModel] = ErrorResponse) -> Responses:
    """Return the error responses with these statuses, by default in contract A's format."""
    return {status: {"model": model, "description": MEANINGS[status]} for status in statuses}


ERROR_RESPONSES = error_responses(
    *sorted(MEANINGS.keys() - {404, 409, 410})
)  # 404, 409, 410: jobs only


def reference(model: str) -> dict[str, str]:
    """Return a reference to a schema of the document."""
    return {"$ref": REFERENCE.format(model=model)}


def introduction(*, with_jobs: bool) -> str:
    """Return the introduction of the document.

    Args:
        with_jobs: whether the server has jobs; otherwise it has ``/predict`` only.
    """
    return _INTRODUCTION + (_WITH_JOBS if with_jobs else _WITH_ENGINE) + _ERRORS


def operation_id(route: APIRoute) -> str:
    """Return the operation id: the short snake_case name of the route."""
    return route.name


def schemas_of(
    *models: type[BaseModel], mode: Literal["validation", "serialization"] = "validation"
) -> dict[str, Any]:
    """Return the schemas of models that FastAPI does not know, including nested models.

    Args:
        models: the models.
        mode: ``validation`` for requests, ``serialization`` for responses.
    """
    found: dict[str, Any] = {}
    for model in models:
        schema = model.model_json_schema(ref_template=REFERENCE, mode=mode)
        found |= schema.pop("$defs", {})
        found[model.__name__] = schema
    return found


def header(description: str, kind: str = "string") -> dict[str, Any]:
    """Return the documentation of a response header; ``kind`` is its JSON type."""
    return {"description": description, "schema": {"type": kind}}


def header_parameter(name: str, description: str, **more: Any) -> dict[str, Any]:
    """Return the documentation of an optional request header.

    Args:
        name: name of the header.
        description: its description.
        more: further keys of the OpenAPI parameter; ``schema`` extends that of a string.
    """
    about = {"name": name, "in": "header", "required": False, "description": description}
    return {**about, **more, "schema": {"type": "string", **more.get("schema", {})}}


# Example requests. Each runs as it is; those about one prediction use the id of the example of PUT.
PREDICTION_ID = "5f3a1c52-8d0e-4b7a-9a43-0c6a2f1e7d10"
UPLOADED_VIDEO = "upload://example-video"  # stands for the url that POST /v1/uploads answered
UPLOADED_AUDIO = "upload://example-audio"
RESULT_NAME = "3q2-7wZk.mp4"  # stands for the drawn name in the address of a result
ABOUT_EXAMPLE: dict[str, Example] = {
    "example": {
        "summary": "The prediction of the PUT example; 409 if another key has used the id",
        "value": PREDICTION_ID,
    }
}
ABOUT_UPLOAD: dict[str, Example] = {
    "example": {
        "summary": "The part of an upload's url after upload://",
        "value": UPLOADED_VIDEO.removeprefix("upload://"),
    }
}


@cache
def embedded_media() -> tuple[str, str]:
    """Return the video and the speech as ``data:`` URIs."""
    return (
        _data_uri("video/mp4", "assets/example_video.mp4"),
        _data_uri("audio/ogg", "assets/example_audio.ogg"),
    )


def embedded_request(**options: Any) -> dict[str, Any]:
    """Return a request with these options and embedded media."""
    video, audio = embedded_media()
    return {**options, "video_base64": video, "audio_base64": audio}


def example(summary: str, value: Any) -> dict[str, Example]:
    """Return the only example of a body, as OpenAPI examples."""
    return {"example": {"summary": summary, "value": value}}


def _data_uri(media_type: str, name: str) -> str:
    content = base64.b64encode(find_packaged(name).read_bytes()).decode("ascii")
    return f"data:{media_type};base64,{content}"


_VIDEO = {"video/mp4": {"schema": {"type": "string", "format": "binary"}}}
VIDEO_RESPONSES: Responses = {
    200: {"description": "The whole video", "content": _VIDEO},
    206: {
        "description": "The requested range",
        "content": _VIDEO,
        "headers": {"Content-Range": header("Range of the bytes, and the total size.")},
    },
    304: {"description": "The video has not changed"},
    416: {"description": "The range is outside the file"},
}
VIDEO: dict[str, Any] = {
    "parameters": [
        header_parameter(
            "Range", "Part of the file: `bytes=first-last`, `bytes=first-` or `bytes=-count`."
        ),
        header_parameter(
            "If-None-Match",
            "`ETag` of the video that you have; if it is unchanged, the response is 304.",
        ),
    ]
}

_RETRY = {"Retry-After": header("Seconds after which to try again, if known.", "integer")}
_ERROR_HEADERS = {"401": {"WWW-Authenticate": header("`Bearer`.")}, "429": _RETRY, "503": _RETRY}


_BEARER = {"type": "http", "scheme": "bearer", "description": "A key of this server."}


def add_openapi(
    app: FastAPI,
    schemas: Mapping[str, Any],
    shapes: Mapping[str, ErrorShape],
    rules: AccessRules,
) -> None:
    """Make the application's document complete.

    Args:
        app: the application.
        schemas: those of bodies that FastAPI never sees, by name.
        shapes: formats of errors, by path.
        rules: say which paths need a key.
    """
    generate = app.openapi

    def document() -> dict[str, Any]:
        is_new = app.openapi_schema is None  # FastAPI caches the document
        generated = generate()
        if is_new:
            _complete(generated, schemas, shapes, rules)
        return generated

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's documented hook


def _complete(
    document: dict[str, Any],
    schemas: Mapping[str, Any],
    shapes: Mapping[str, ErrorShape],
    rules: AccessRules,
) -> None:
    components = document["components"]["schemas"]
    components.update(schemas)
    for name in ("HTTPValidationError", "ValidationError"):
        components.pop(name, None)  # of FastAPI's own error response, which is not used
    for path, operation in _operations(document):
        responses = operation["responses"]
        if "HTTPValidationError" in str(responses.get("422")):
            del responses["422"]  # its parameters take any text
        if rules.needs_key(path):
            operation["security"] = [{"bearer": []}]
            document["components"]["securitySchemes"] = {"bearer": _BEARER}
        else:
            responses.pop("401", None)
        for status in responses.keys() & _ERROR_HEADERS:
            responses[status]["headers"] = _ERROR_HEADERS[status]
        _add_error_examples(responses, shape_at(path, shapes))
    used = {tag for _, operation in _operations(document) for tag in operation.get("tags", ())}
    document["tags"] = [
        {"name": name, "description": text} for name, text in TAGS.items() if name in used
    ]


def _add_error_examples(responses: Mapping[str, Any], shape: ErrorShape) -> None:
    """Add examples to error responses. FastAPI itself would omit null fields."""
    for status, response in responses.items():
        error = EXAMPLE_ERRORS.get(int(status))
        if error is not None:
            for content in response.get("content", {}).values():
                content.setdefault("example", json.loads(bytes(shape(error, None).body)))


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            yield path, operation
