"""The application around the contract: health, readiness, framework errors, the document."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

import latentsync
from latentsync.errors import EngineUnavailable, NotAuthorized, WeightsMissing
from latentsync.jobs.service import owner_of
from latentsync.pipelines.registry import PipelineCache
from latentsync.schema.predict import PredictRequest
from latentsync.server.app import build_app
from latentsync.server.middleware import BearerAuth
from latentsync.server.routes.predict_inline import Engine
from latentsync.settings import Settings
from tests.engine_builders import replace_builders
from tests.server.engines import SquareEngine
from tests.server.live import (
    AUTH,
    app_with,
    serving,
    serving_engine,
    settings_for,
    small_body,
    wait_until,
)


def test_health_answers_while_the_engine_is_being_built_and_ready_only_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = threading.Event()

    def build(_name: str, _settings: Settings, _check: object) -> SquareEngine:
        assert built.wait(60)
        return SquareEngine()

    replace_builders(monkeypatch, {"draft": ("tests.server.test_app", "late_engine")})
    monkeypatch.setattr("tests.server.test_app.late_engine", build, raising=False)
    settings = settings_for(tmp_path)
    with serving(build_app(settings, PipelineCache(settings))) as url:
        assert httpx.get(f"{url}/health").json() == {"status": "ok"}
        waiting = httpx.get(f"{url}/ready")
        assert (waiting.status_code, waiting.json()["code"]) == (503, "ENGINE_UNAVAILABLE")
        assert int(waiting.headers["Retry-After"]) > 0
        built.set()
        wait_until(lambda: httpx.get(f"{url}/ready").status_code == 200)
        assert httpx.get(f"{url}/ready").json() == {
            "status": "ready",
            "engine": "square",
            "model_version": "1",
        }


def test_an_engine_that_cannot_be_built_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_builders(monkeypatch, {"draft": ("tests.server.engines", "no_such_name")})
    body = small_body(tmp_path)
    settings = settings_for(tmp_path)
    with serving(build_app(settings, PipelineCache(settings))) as url:
        response = httpx.post(f"{url}/predict", json=body, headers=AUTH)
        assert httpx.get(f"{url}/health").status_code == 200
        assert httpx.get(f"{url}/ready").status_code == 503
    assert (response.status_code, response.json()["code"]) == (503, "ENGINE_UNAVAILABLE")
    assert "no_such_name" not in response.text


def test_an_engine_that_could_not_be_built_is_tried_again_and_keeps_no_reference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there: list[SquareEngine] = []

    def build(_name: str, _settings: Settings, _check: object) -> SquareEngine:
        if not there:
            raise WeightsMissing("A file is missing.")
        return there[0]

    replace_builders(monkeypatch, {"draft": ("tests.server.test_app", "late_engine")})
    monkeypatch.setattr("tests.server.test_app.late_engine", build, raising=False)
    holder = Engine("draft", PipelineCache(Settings(engine="draft")))
    holder.build()
    for _ in range(5):
        with pytest.raises(WeightsMissing, match="is missing") as caught:
            holder.default()
        assert len(caught.traceback) <= 3
    there.append(SquareEngine())
    assert holder.pipeline(None) is there[0]


def test_an_engine_given_ready_is_used_as_it_is() -> None:
    engine = SquareEngine()
    holder = Engine("draft", PipelineCache(Settings(), default=engine))
    holder.build()
    assert holder.default() is holder.pipeline(None) is engine


def test_an_engine_not_built_yet_is_unavailable() -> None:
    with pytest.raises(EngineUnavailable, match="draft is being built"):
        Engine("draft", PipelineCache(Settings(engine="draft"))).default()


def test_without_the_key_requirement_no_key_is_needed(tmp_path: Path) -> None:
    body = small_body(tmp_path)
    app = app_with(SquareEngine(), settings_for(tmp_path, api_keys=()), require_key=False)
    with serving(app) as url:
        assert httpx.post(f"{url}/predict", json=body).status_code == 200
        assert "security" not in httpx.get(f"{url}/openapi.json").text


def test_without_keys_every_request_is_refused(tmp_path: Path) -> None:
    with serving_engine(tmp_path, SquareEngine(), api_keys=()) as url:
        assert httpx.post(f"{url}/predict", json={}, headers=AUTH).status_code == 401


def test_a_key_stands_for_its_owner_and_an_empty_one_opens_nothing() -> None:
    def ask(header: bytes) -> str:
        scope = {"type": "http", "headers": [(b"authorization", header)]}
        return BearerAuth(["", "key", "other"]).owner_of(scope)

    assert ask(b"Bearer key") == owner_of("key")
    assert ask(b"bearer other") == owner_of("other")
    for header in (b"Bearer ", b"Bearer   "):
        with pytest.raises(NotAuthorized):
            ask(header)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """An application with three keys, and with a route of its own that divides by a number."""
    keys = ("first", "second", "schlüssel-ключ")
    app = app_with(SquareEngine(), settings_for(tmp_path_factory.mktemp("app"), api_keys=keys))

    @app.get("/number/{number}")
    async def number(number: int) -> int:
        return 1 // number

    return app


@pytest.fixture(scope="module")
def url(app: FastAPI) -> Iterator[str]:
    """Where it is served."""
    with serving(app) as url:
        yield url


@pytest.mark.parametrize("key", ["second", "schlüssel-ключ"])
def test_each_of_several_keys_is_accepted(url: str, key: str) -> None:
    headers = {b"Authorization": b"Bearer " + key.encode()}
    assert httpx.post(f"{url}/predict", json={}, headers=headers).status_code == 422


def test_errors_of_the_framework_itself_have_the_same_shape(url: str) -> None:
    key = {"Authorization": "Bearer first"}
    wrong = httpx.get(f"{url}/number/x", headers=key)
    broken = httpx.get(f"{url}/number/0", headers=key)
    assert httpx.get(f"{url}/number/1").status_code == 401  # whatever route is added needs a key
    assert (wrong.status_code, wrong.json()["code"]) == (422, "INVALID_REQUEST")
    assert wrong.json()["field"] == "path.number"
    assert (broken.status_code, broken.json()["code"]) == (500, "INTERNAL_ERROR")
    assert broken.json()["run_id"] in broken.json()["message"]
    assert "ZeroDivision" not in broken.text


@pytest.fixture(scope="module")
def document(app: FastAPI) -> dict[str, Any]:
    document: dict[str, Any] = app.openapi()
    return document


def test_the_document_describes_contract_a(document: dict[str, Any]) -> None:
    assert document["info"]["version"] == latentsync.__version__
    for path in ("/predict", "/v4/{project}/{app}/predict"):
        call = document["paths"][path]["post"]
        assert call["security"] == [{"bearer": []}]
        schema = call["requestBody"]["content"]["application/json"]["schema"]
        assert schema == {"$ref": "#/components/schemas/PredictRequest"}
        errors = {"400", "401", "403", "408", "413", "422", "429", "500", "503", "504", "507"}
        assert set(call["responses"]) == {"200", *errors}
        for status in errors:
            content = call["responses"][status]["content"]["application/json"]
            assert content["schema"] == {"$ref": "#/components/schemas/ErrorResponse"}
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"


def test_the_document_knows_every_field_and_every_reference_resolves(
    document: dict[str, Any],
) -> None:
    schemas = document["components"]["schemas"]
    assert set(schemas["PredictRequest"]["properties"]) == set(PredictRequest.model_fields)

    def references(node: object) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return own + [found for value in node.values() for found in references(value)]
        if isinstance(node, list):
            return [found for value in node for found in references(value)]
        return []

    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas


def test_the_pages_of_the_document_are_served(url: str) -> None:
    docs = httpx.get(f"{url}/docs").text
    assert "swagger" in docs
    assert "://" not in docs.replace(url, "")  # nothing is loaded from an outside host
    assert httpx.get(f"{url}/openapi.json").json()["openapi"].startswith("3.")


def test_the_pages_about_the_api_may_load_nothing_from_other_hosts(url: str) -> None:
    for page in ("docs", "redoc"):
        answer = httpx.get(f"{url}/{page}")
        assert answer.status_code == 200
        assert "img-src 'self' data:;" in answer.headers["Content-Security-Policy"]
        assert not re.search(r"""(src|href)=["']?(https?:)?//""", answer.text)
    assert "Content-Security-Policy" not in httpx.get(f"{url}/health").headers
