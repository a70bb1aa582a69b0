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

from latentsync.pipelines.registry import PipelineCache
from latentsync.schema.predict import PredictRequest
from latentsync.schema.responses import PredictResult
from latentsync.settings import Settings
from latentsync.weights.catalog import CATALOG
from latentsync.weights.paths import path_of
from tests.engine_builders import replace_builders
from tests.server.clips import as_base64, write_clip
from tests.server.live import files_in, process, small_body
from tests.without_packages import hide

pytestmark = pytest.mark.processes


def square_engine(_name: str, _settings: Settings, _check: object) -> Any:
    from tests.server.engines import SquareEngine

    return SquareEngine()


def load(monkeypatch: pytest.MonkeyPatch, work: Path) -> types.ModuleType:
    """Import main.py afresh with a small engine, in a work folder of its own."""
    monkeypatch.setenv("LATENTSYNC_WORK_DIR", str(work))
    replace_builders(monkeypatch, {"draft": ("tests.test_main", "square_engine")})
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
    assert parameters.pop("sync_mode").default is None  # the default, not an explicit choice
    for name, parameter in parameters.items():
        assert parameter.default == PredictRequest.model_fields[name].default, name


def test_it_answers_the_inner_result_as_plain_json(main: types.ModuleType, tmp_path: Path) -> None:
    answer = main.predict(**small_body(tmp_path), seed=9, run_id="r")
    assert list(answer) == ["video_base64", "details"]
    result = PredictResult.model_validate(json.loads(json.dumps(answer)))
    assert (result.details.seed, result.details.engine) == (9, "square")
    assert base64.b64decode(result.video_base64)[4:8] == b"ftyp"
    assert files_in(tmp_path / "work") == []


def test_warnings_of_the_run_are_in_its_details(main: types.ModuleType, tmp_path: Path) -> None:
    body = small_body(tmp_path)
    body["video_base64"] = as_base64(write_clip(tmp_path / "odd.mp4", width=97))
    [warning] = main.predict(**body, run_id="r")["details"]["warnings"]
    assert warning == {
        "code": "SIZE_ROUNDED",
        "message": "video_base64 is 97x64 pixels; its frames were extended to 98x64, because "
        "H.264 needs even sides.",
    }


def test_it_takes_segments(main: types.ModuleType, tmp_path: Path) -> None:
    body = small_body(tmp_path)
    spoken = {"audio_base64": body.pop("audio_base64"), "start_s": 0.2, "end_s": 0.32}
    answer = main.predict(**body, segments=[spoken], keep_sound=False, run_id="r")
    assert answer["details"]["segments"] == [{"start_s": 0.2, "end_s": 0.32}]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, "FIELD_MISSING"),
        ({"seed": -2}, "FIELD_INVALID"),
        ({"segments": "x"}, "FIELD_INVALID"),
        ({"keep_sound": 1}, "FIELD_INVALID"),
        ({"guidance": 2}, "FIELD_UNKNOWN"),
        ({"video_base64": "AAAA", "audio_base64": "AAAA"}, "MEDIA_UNREADABLE"),
    ],
)
def test_errors_carry_the_status_for_the_platform(
    main: types.ModuleType, fields: dict[str, Any], code: str
) -> None:
    answer = main.predict(**fields, run_id="r-9")
    assert (answer["code"], answer["status_code"], answer["run_id"]) == (code, 422, "r-9")


def test_an_engine_that_is_not_installed_is_an_answer_with_a_code(
    main: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch)
    nowhere = {"video_url": "http://127.0.0.1:9/v.mp4", "audio_url": "http://127.0.0.1:9/a.wav"}
    answer = main.predict(**nowhere, engine="latentsync-1.6", run_id="r-9")
    reported = (answer["status_code"], answer["code"], answer["field"])
    assert reported == (503, "ENGINE_UNAVAILABLE", "engine")
    assert "pip install -e '.[models]'" in answer["message"]


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The platform's volume; what main.py writes into the environment is undone afterwards."""
    volume, real = Path("/persistent-storage"), Path.is_dir
    monkeypatch.setattr(Path, "is_dir", lambda path: path == volume or real(path))
    for name in ("LATENTSYNC_WEIGHTS_DIR", "TORCH_HOME"):
        monkeypatch.setenv(name, "so that it is restored")
        monkeypatch.delenv(name)
    yield volume
    sys.modules.pop("main", None)


def test_weights_go_to_the_persistent_volume(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mounted: Path
) -> None:
    settings = load(monkeypatch, tmp_path)._configured
    assert path_of(CATALOG["latentsync-1.6/unet"], settings).is_relative_to(mounted)
    assert path_of(CATALOG["vgg16"], settings).is_relative_to(mounted)


def test_a_secret_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mounted: Path
) -> None:
    monkeypatch.setenv("LATENTSYNC_WEIGHTS_DIR", "kept")
    monkeypatch.setenv("TORCH_HOME", "kept, too")
    settings = load(monkeypatch, tmp_path)._configured
    assert path_of(CATALOG["latentsync-1.6/unet"], settings).is_relative_to("kept")
    assert path_of(CATALOG["vgg16"], settings).is_relative_to("kept, too")


def test_the_engine_is_built_once_and_before_the_first_request(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built: list[str] = []
    monkeypatch.setattr(PipelineCache, "_build", lambda _engines, name, _check: built.append(name))
    load(monkeypatch, tmp_path)
    assert built == ["draft"]
    sys.modules.pop("main", None)


def test_a_replica_without_its_weights_does_not_start_and_says_which_file(tmp_path: Path) -> None:
    """With the real engine, in a process of its own, as the platform imports it."""
    settings = {"ENGINE": "latentsync-1.6", "DEVICE": "cpu", "OFFLINE": "1"}
    own = {f"LATENTSYNC_{name}": value for name, value in settings.items()}
    folders = {"LATENTSYNC_WEIGHTS_DIR": str(tmp_path), "LATENTSYNC_WORK_DIR": str(tmp_path / "w")}
    with process("-c", "import main", **own, **folders) as replica:
        assert replica.stdout is not None
        said = replica.stdout.read().splitlines()
        assert replica.wait() != 0
    (error,) = [line for line in said if line.startswith("latentsync.errors.WeightsMissing: ")]
    assert "latentsync-1.6/latentsync_unet.pt in the weights folder" in error


def test_a_misspelt_secret_is_in_the_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LATENTSYNC_MAX_FSP", "60")
    load(monkeypatch, tmp_path / "work")
    sys.modules.pop("main", None)
    assert "LATENTSYNC_MAX_FSP is not a setting of latentsync" in caplog.text
