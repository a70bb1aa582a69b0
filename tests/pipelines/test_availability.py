"""Which engines can run here, as far as it shows without importing what they are made of."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from latentsync import config
from latentsync.errors import EngineUnavailable, WeightsMissing
from latentsync.pipelines import requirements
from latentsync.pipelines.registry import (
    PipelineCache,
    build_pipeline,
    find_obstacle,
    require_any_engine,
    survey_engines,
)
from latentsync.schema.engines import ENGINES, EngineSurvey
from latentsync.settings import Settings
from latentsync.weights.catalog import CATALOG, weights_for
from latentsync.weights.ensure import ensure
from latentsync.weights.paths import path_of
from tests.engine_builders import replace_builders
from tests.without_packages import hide

GPU = "latentsync-1.6"
COMMAND = "pip install -e '.[models]'"


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "_NVIDIA_FILES", "/none/nvidia*")
    monkeypatch.setattr(requirements, "_OTHER_GPU_FILES", ())
    monkeypatch.setattr(requirements, "_BOARD_FILES", ())


@pytest.fixture
def nvidia(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(requirements, "_NVIDIA_FILES", str(tmp_path / "nvidia[0-9]*"))


@pytest.fixture
def cuda_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "version", lambda _: "2.9.0")


def reason(name: str, **settings: Any) -> str:
    """Return why an engine cannot run, which it must not."""
    found = find_obstacle(name, Settings(**settings))
    assert found is not None
    return found.reason


def test_with_all_packages_and_a_network_every_engine_may_run() -> None:
    found = survey_engines(Settings())
    assert found.runnable == list(ENGINES)
    assert (found.default, found.auto) == ("auto", "draft")
    for name in (None, "auto", *ENGINES):
        found.require(name)


def test_without_its_packages_an_engine_is_refused_with_the_command_and_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hide(monkeypatch)
    with pytest.raises(EngineUnavailable) as at_the_door:
        survey_engines(Settings()).require(GPU)
    assert at_the_door.value.message == (
        f"The engine {GPU} cannot run here. It needs torch, diffusers, accelerate and "
        f"safetensors, which are not installed: {COMMAND}. Engines that can run here: draft."
    )
    assert at_the_door.value.field == "engine"
    with pytest.raises(EngineUnavailable) as built:
        build_pipeline(GPU, Settings())
    assert built.value.message == at_the_door.value.message
    with pytest.raises(EngineUnavailable, match="which are not installed"):
        PipelineCache(Settings(engine=GPU)).require()


def test_a_default_engine_that_cannot_run_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hide(monkeypatch, ("diffusers",))
    found = survey_engines(Settings(engine="latentsync-1.5"))
    with pytest.raises(EngineUnavailable, match="engine latentsync-1.5 cannot run .* diffusers, "):
        found.require(None)
    found.require("draft")


def test_the_draft_engine_needs_the_core_and_its_embedded_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        hide(patch, ("pocketsphinx",))
        assert "pocketsphinx, which is not installed: pip install -e ." in reason("draft")
    monkeypatch.setattr(config, "_ROOTS", (tmp_path,))
    assert "The file configs/draft.yaml of the package is missing" in reason("draft")
    with pytest.raises(EngineUnavailable, match="No engine can run here"):
        require_any_engine(Settings())


def test_offline_missing_weights_are_reported_as_by_a_cold_start(tmp_path: Path) -> None:
    settings = Settings(weights_dir=tmp_path, offline=True, face_landmarks="mesh")
    found = find_obstacle(GPU, settings)
    assert found is not None
    assert found.code == WeightsMissing.code
    with pytest.raises(WeightsMissing) as fetched:
        ensure(weights_for(GPU, settings), settings=settings)
    assert found.reason == fetched.value.message
    for name in weights_for(GPU, settings):
        path = path_of(CATALOG[name], settings)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(CATALOG[name].size_bytes)  # a hole: it takes no room
    assert find_obstacle(GPU, settings) is None
    path.unlink()
    assert path.name in reason(GPU, weights_dir=tmp_path, offline=True, face_landmarks="mesh")


@pytest.mark.usefixtures("nvidia", "cuda_build")
def test_on_a_gpu_machine_auto_is_latentsync_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = survey_engines(Settings())
    assert (found.auto, found.obstacle("auto")) == (GPU, None)
    offline = survey_engines(Settings(offline=True, weights_dir=tmp_path / "none"))
    assert offline.auto == GPU
    with pytest.raises(WeightsMissing):  # no silent fallback to the draft
        offline.require(None)
    hide(monkeypatch)
    with pytest.raises(EngineUnavailable, match="NVIDIA GPU, but torch is not installed: pip"):
        survey_engines(Settings()).require(None)


@pytest.mark.usefixtures("nvidia")
def test_a_torch_for_cpus_does_not_drive_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "version", lambda _: "2.9.0+cpu")
    assert "NVIDIA GPU, but the installed torch cannot use it" in reason(GPU)
    assert "built for CPUs only" in reason(GPU, device="cuda:0")
    assert survey_engines(Settings()).obstacle("auto") is not None
    assert find_obstacle(GPU, Settings(device="cpu")) is None


@pytest.mark.usefixtures("cuda_build")
def test_a_device_that_cannot_be_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reason(GPU, device="cuda") == "There is no device cuda here: this machine has no GPU."
    monkeypatch.setattr(sys, "platform", "linux")
    assert reason(GPU, device="mps") == "There is no device mps here."
    assert "float32 on the CPU, not in float16" in reason(GPU, device="cpu", dtype="float16")
    monkeypatch.setattr(requirements, "_BOARD_FILES", ("/dev/null",))
    assert find_obstacle(GPU, Settings(device="cuda")) is None
    assert find_obstacle("draft", Settings(device="mps")) is None  # it asks for none


def test_where_only_torch_knows_auto_may_be_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "_OTHER_GPU_FILES", ("/dev/null",))
    found = survey_engines(Settings())
    assert (found.auto, found.obstacle("auto")) == (None, None)


def test_a_survey_can_be_written_down_and_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch)
    found = survey_engines(Settings())
    recorded = json.loads(json.dumps(found.to_json()))
    assert EngineSurvey.from_json(recorded) == found
    recorded["obstacles"][GPU]["since"] = recorded["speed"] = 1  # of a later version
    assert EngineSurvey.from_json(recorded) == found


def test_an_engine_of_a_later_version_is_refused() -> None:
    with pytest.raises(EngineUnavailable, match="engine ditto cannot run here. No running"):
        survey_engines(Settings()).require("ditto")


def test_an_engine_whose_packages_are_broken_is_unavailable_with_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "brokennet.py").write_text(
        "raise OSError('/opt/lib/libcudart.so.12: cannot open shared object file')"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    replace_builders(monkeypatch, {GPU: ("brokennet", "build"), "draft": ("os", "none")})
    caplog.set_level("INFO", "latentsync")
    with pytest.raises(EngineUnavailable) as caught:
        build_pipeline(GPU, Settings())
    assert caught.value.message == (
        f"The engine {GPU} cannot run here. It needs brokennet, which is installed but cannot be "
        "imported (OSError: libcudart.so.12: cannot open shared object file). Reinstall it or its "
        "dependencies. Engines that can run here: draft."
    )
    assert "/opt/lib/libcudart.so.12" in caplog.text
    with pytest.raises(AttributeError):  # a defect of the engine's own stays one
        build_pipeline("draft", Settings())


def test_a_broken_torch_on_a_gpu_machine_is_no_crash_and_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nvidia: None, cuda_build: None
) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.12: cannot open')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with pytest.raises(EngineUnavailable, match="needs torch, .* cannot be imported .*libcudart"):
        requirements.has_cuda()


def test_an_import_that_fails_while_an_engine_is_built_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replace_builders(monkeypatch, {"draft": (__name__, "build_late")})
    with pytest.raises(EngineUnavailable, match="needs no_such_package, which is not installed"):
        build_pipeline("draft", Settings())


def build_late(*_: object) -> None:
    import no_such_package  # type: ignore[import-not-found]

    no_such_package.build()


def test_an_engine_that_is_built_needs_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = PipelineCache(Settings(engine="draft"))
    replace_builders(monkeypatch, {"draft": (__name__, "build_nothing")})
    engines.get()
    hide(monkeypatch, ENGINES["draft"].packages)
    engines.require()
    with pytest.raises(EngineUnavailable):
        PipelineCache(Settings(engine="draft")).require()


def build_nothing(*_: object) -> object:
    return object()
