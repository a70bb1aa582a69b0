"""Cerebrium's entry file, run as a platform would run it: imported, then called with JSON keys."""

from __future__ import annotations

import base64
import importlib
import inspect
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from latentsync.pipelines import base
from latentsync.schema import PredictRequest, PredictResult
from latentsync.settings import Settings
from tests.server.live import files_in, small_body


def square_engine(_name: str, _settings: Settings) -> Any:
    from tests.server.engines import SquareEngine

    return SquareEngine()


def load(monkeypatch: pytest.MonkeyPatch, work: Path) -> types.ModuleType:
    """Import main.py afresh with a small engine, in a work folder of its own."""
    monkeypatch.setenv("LATENTSYNC_WORK_DIR", str(work))
    monkeypatch.setattr(base, "_ENGINES", {"draft": ("tests.test_main", "square_engine")})
    monkeypatch.delitem(sys.modules, "main", raising=False)
    return importlib.import_module("main")


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[types.ModuleType]:
    yield load(monkeypatch, tmp_path / "work")
    sys.modules.pop("main", None)


def test_predict_is_the_only_endpoint(main: types.ModuleType) -> None:
    public = {name for name, value in vars(main).items() if not name.startswith("_")}
    callables = {name for name in public if callable(getattr(main, name))}
    assert callables == {"predict"}


def test_its_parameters_are_the_fields_of_contract_a_with_their_defaults(
    main: types.ModuleType,
) -> None:
    parameters = dict(inspect.signature(main.predict).parameters)
    assert parameters.pop("run_id").default is None
    assert list(parameters) == list(PredictRequest.model_fields)
    for name, parameter in parameters.items():
        assert parameter.default == PredictRequest.model_fields[name].default, name


def test_it_answers_the_inner_result_as_plain_json(main: types.ModuleType, tmp_path: Path) -> None:
    answer = main.predict(**small_body(tmp_path), seed=9, run_id="r")
    assert list(answer) == ["video_base64", "details"]
    result = PredictResult.model_validate(json.loads(json.dumps(answer)))
    assert (result.details.seed, result.details.engine) == (9, "square")
    assert base64.b64decode(result.video_base64)[4:8] == b"ftyp"
    assert files_in(tmp_path / "work") == []


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, "FIELD_MISSING"),
        ({"seed": -2}, "FIELD_INVALID"),
        ({"guidance": 2}, "FIELD_UNKNOWN"),
        ({"video_base64": "AAAA", "audio_base64": "AAAA"}, "MEDIA_UNREADABLE"),
    ],
)
def test_errors_carry_the_status_for_the_platform(
    main: types.ModuleType, fields: dict[str, Any], code: str
) -> None:
    answer = main.predict(**fields, run_id="r-9")
    assert (answer["code"], answer["status_code"], answer["run_id"]) == (code, 422, "r-9")


def test_weights_go_to_the_persistent_volume_unless_a_secret_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mounted = Path("/persistent-storage")
    real = Path.is_dir
    monkeypatch.setattr(Path, "is_dir", lambda path: path == mounted or real(path))
    monkeypatch.setenv("LATENTSYNC_WEIGHTS_DIR", "kept")
    assert load(monkeypatch, tmp_path)._settings.weights_dir == Path("kept")
    monkeypatch.delenv("LATENTSYNC_WEIGHTS_DIR")
    settings = load(monkeypatch, tmp_path)._settings
    assert settings.weights_dir == mounted / "latentsync"
    sys.modules.pop("main", None)
