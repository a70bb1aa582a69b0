"""The OpenAPI documents: valid, complete, in plain words, and true of keys.

Whatever is added to the server is held to this, too: a new operation needs a short id, a
description and an example (see ``latentsync/server/openapi.py``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from starlette.testclient import TestClient

from latentsync.server.app import build_app
from tests.server.documents import Document, example_calls, examples_of, is_file, operations
from tests.server.engines import SquareEngine
from tests.server.live import app_with, settings_for

_ID = re.compile(r"[a-z]+(_[a-z0-9]+)*")
_ID_CHARACTERS_MAX = 30
# Words that mean nothing to API users.
_PRIVATE = re.compile(
    r"\b(beside|desk|door|hand(ed)? in|line|nobody|one's|somebody|taken in|told|whom)\b", re.I
)
# All that JSON Schema and OpenAPI have and pydantic uses; "ge" is none, for example.
_KEYWORDS = {
    *("$ref", "type", "const", "enum", "allOf", "anyOf", "oneOf", "not"),
    *("title", "description", "default", "examples"),
    *("format", "pattern", "minLength", "maxLength", "contentMediaType", "contentSchema"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    *("items", "prefixItems", "minItems", "maxItems"),
    *("properties", "patternProperties", "additionalProperties", "required"),
}


def _build(kind: str, folder: Path) -> FastAPI:
    if kind == "engines":
        return app_with(SquareEngine(), settings_for(folder))
    settings = settings_for(folder, tasks_without_key=kind == "jobs with open tasks")
    return build_app(settings, require_key=kind != "jobs without keys")


@pytest.fixture(scope="module", params=["engines", "jobs"])
def app(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    return _build(request.param, tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="module")
def document(app: FastAPI) -> Document:
    found: Document = app.openapi()
    return found


def test_the_document_is_valid(document: Document) -> None:
    validate(document)
    assert document["info"]["license"]["identifier"] == "Apache-2.0"
    assert document["servers"][0]["url"] == "/"


def test_operations_have_short_unique_ids(document: Document) -> None:
    ids = Counter(operation.id for operation in operations(document))
    assert [name for name, times in ids.items() if times > 1] == []
    for operation in operations(document):
        assert _ID.fullmatch(operation.id), f"{operation}: {operation.id!r} is not snake_case"
        assert len(operation.id) <= _ID_CHARACTERS_MAX, (
            f"{operation}: {operation.id!r} is no short id; name the function of the route after "
            "what it does, like create_prediction"
        )


def test_operations_say_what_they_do(document: Document) -> None:
    described = {tag["name"] for tag in document["tags"] if tag["description"]}
    for operation in operations(document):
        about = operation.about
        assert about.get("summary"), f"{operation} has no summary"
        text = about.get("description", "")
        assert text.endswith((".", "`.")), f"{operation} has no description: its docstring"
        assert text != about["summary"], f"{operation}: the description repeats the summary"
        assert set(about.get("tags", [])) & described, f"{operation} has no described tag"
    used = {tag for operation in operations(document) for tag in operation.about["tags"]}
    assert described == used


def test_parameters_are_described_and_those_of_paths_have_an_example(document: Document) -> None:
    for operation in operations(document):
        for parameter in operation.parameters:
            name = f"{operation}: the parameter {parameter['name']}"
            assert parameter.get("description"), f"{name} has no description"
            if parameter["in"] == "path":
                assert examples_of(parameter), f"{name} has no example"
    names = {parameter["name"] for one in operations(document) for parameter in one.parameters}
    if "/v1/predictions" in document["paths"]:
        assert names >= {"job_id", "limit", "cursor", "status", "Prefer"}
        assert names >= {"Idempotency-Key", "Last-Event-ID", "Range"}


def test_bodies_have_examples(document: Document) -> None:
    for operation in operations(document):
        for kind, media_type in operation.bodies.items():
            assert is_file(media_type) or examples_of(media_type), (
                f"{operation}: its {kind} body has no example"
            )


def _with_components(schema: dict[str, Any], document: Document) -> dict[str, Any]:
    return {"allOf": [schema], "components": document["components"]}


def test_examples_fit_their_schemas(document: Document) -> None:
    seen = 0
    for about in _nodes(document):
        if "schema" in about:
            for value in examples_of(about).values():
                Draft202012Validator(_with_components(about["schema"], document)).validate(value)
                seen += 1
    for schema in document["components"]["schemas"].values():
        for value in schema.get("examples", []):
            Draft202012Validator(_with_components(schema, document)).validate(value)
            seen += 1
    assert seen > len(operations(document)) / 2


def test_errors_have_bodies_and_only_those_that_are_answered(document: Document) -> None:
    assert "HTTPValidationError" not in document["components"]["schemas"]
    for operation in operations(document):
        for status, response in operation.about["responses"].items():
            assert response.get("description"), f"{operation}: {status} has no description"
            if status.startswith(("4", "5")) and status != "416":
                assert response.get("content"), f"{operation}: {status} has no body"
                for about in response["content"].values():
                    assert examples_of(about), (
                        f"{operation}: {status} has no example; EXAMPLE_ERRORS in "
                        "latentsync/server/openapi.py has none of this status"
                    )


def test_errors_of_the_native_api_are_problem_documents(document: Document) -> None:
    shapes = {
        "/v1/": ("application/problem+json", "Problem"),
        "/lipsync/": (None, "LipsyncFailure"),
    }
    for operation in operations(document):
        for beginning, (kind, model) in shapes.items():
            if not operation.path.startswith(beginning):
                continue
            for status, response in operation.about["responses"].items():
                if status[0] in "45" and "content" in response:
                    [(got, content)] = response["content"].items()
                    assert got == (kind or "application/json"), f"{operation}: {status}"
                    assert content["schema"]["$ref"].endswith(f"/{model}"), f"{operation}: {status}"


def test_properties_are_described(document: Document) -> None:
    schemas = document["components"]["schemas"]
    for name, schema in schemas.items():
        assert schema.get("description"), f"{name} has no description: its docstring"
        for field, about in schema.get("properties", {}).items():
            named = about.get("items", about).get("$ref", "")
            behind = schemas.get(named.rsplit("/", 1)[-1], {})
            assert about.get("description") or behind.get("description"), f"{name}.{field}"


def test_schemas_use_keywords_that_exist(document: Document) -> None:
    for name, schema in document["components"]["schemas"].items():
        for node in _schemas(schema):
            assert node.keys() <= _KEYWORDS, f"{name}: {sorted(node.keys() - _KEYWORDS)}"
    steps = document["components"]["schemas"]["PredictRequest"]["properties"]["inference_steps"]
    assert (steps["minimum"], steps["maximum"]) == (1, 50)


def test_texts_hold_no_private_words(document: Document) -> None:
    for node in _nodes(document):
        for name in ("description", "summary"):
            text = node.get(name)
            if isinstance(text, str):
                assert _PRIVATE.search(text) is None, f"{text!r}: {_PRIVATE.search(text)}"


def test_the_form_has_every_field_of_the_json_body_and_the_files(document: Document) -> None:
    if "/v1/predictions" not in document["paths"]:
        return
    schemas = document["components"]["schemas"]
    form = schemas["PredictionForm"]["properties"]
    files = {name for name, about in form.items() if about.get("format") == "binary"}
    assert files == {"video", "audio", "segments.0.audio"}
    assert form.keys() - files == schemas["PredictionRequest"]["properties"].keys()
    for name, about in form.items():
        kind = schemas["SyncMode"] if "$ref" in about else about
        assert kind["type"] not in ("object", "array"), f"{name} cannot be a part of a form"


@pytest.mark.parametrize("kind", ["engines", "jobs", "jobs with open tasks", "jobs without keys"])
def test_a_key_is_required_where_the_document_says_so(kind: str, tmp_path: Path) -> None:
    app = _build(kind, tmp_path)
    client = TestClient(app, raise_server_exceptions=False)
    for operation in operations(app.openapi()):
        has_key = "security" in operation.about
        assert has_key == ("401" in operation.about["responses"]), f"{operation}: 401"
        for call in example_calls(operation):
            # Without a body: whether a key is required is known before it is read.
            response = client.request(operation.method, call.path, headers=call.headers)
            assert (response.status_code == 401) == has_key, call.name


def test_the_ids_that_clients_are_generated_from_stay(tmp_path: Path) -> None:
    names = """create_prediction create_prediction_batch put_prediction list_predictions
        get_prediction cancel_prediction prediction_events prediction_output create_upload
        list_models predict predict_on_cerebrium_path sync get_task get_queue task_output
        submit_lipsync get_lipsync_status cancel_lipsync lipsync_result health ready get_metrics"""
    assert set(names.split()) <= {
        operation.id for operation in operations(_build("jobs", tmp_path).openapi())
    }


def _nodes(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every object of a document."""
    if isinstance(node, dict):
        yield node
    if isinstance(node, dict | list):
        for value in node.values() if isinstance(node, dict) else node:
            yield from _nodes(value)


def _schemas(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a schema and those inside it."""
    yield schema
    for name in ("items", "additionalProperties", "contentSchema", "not"):
        if isinstance(schema.get(name), dict):
            yield from _schemas(schema[name])
    for name in ("allOf", "anyOf", "oneOf", "prefixItems"):
        for part in schema.get(name, []):
            yield from _schemas(part)
    for name in ("properties", "patternProperties"):
        for part in schema.get(name, {}).values():
            yield from _schemas(part)
