"""Modal's entry: what `modal deploy` sends, and what runs in the containers, without an account."""

from __future__ import annotations

import base64
import importlib
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from modal_proto import api_pb2

from latentsync import Client
from latentsync.schema.predict import PredictRequest
from latentsync.schema.responses import PredictDetails, PredictResult
from latentsync.settings import Settings
from latentsync.weights.catalog import CATALOG
from tests.demo_media import DEMO_VIDEO
from tests.engine_builders import replace_builders
from tests.modal_cloud import ControlPlane, control_plane
from tests.server.clips import write_speech
from tests.server.engines import SquareEngine
from tests.server.live import KEY, REPOSITORY, files_in, serving, small_body
from tests.weights.hub import running_hub
from tests.weights.tiny import ENGINE_FILES, path_on_hub, publish

# Modal says at each local call that the volume is not mounted, which is meant here.
pytestmark = [
    pytest.mark.processes,
    pytest.mark.filterwarnings(
        r"ignore:The LatentSync\.\w+ function is executing locally:UserWarning"
    ),
]

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
CEREBRIUM = tomllib.loads((REPOSITORY / "cerebrium.toml").read_text())["cerebrium"]
KEY_NAME = "LATENTSYNC_API_KEY"


# What is deployed


@pytest.fixture(scope="module")
def deployed() -> Iterator[ControlPlane]:
    """What the documented command has requested from Modal."""
    with control_plane() as (plane, url):
        done = run_modal(url, "-m", "modal", "deploy", "modal_app.py")
        assert done.returncode == 0, done.stdout + done.stderr
        yield plane


def run_modal(url: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with a token for this control plane."""
    account = {"MODAL_SERVER_URL": url, "MODAL_TOKEN_ID": "ak-1", "MODAL_TOKEN_SECRET": "as-1"}
    # A file may be edited meanwhile.
    own = {**account, "MODAL_BUILD_VALIDATION": "ignore", **environment}
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
    )


def function(plane: ControlPlane, name: str) -> Any:
    (found,) = [
        request.function
        for request in plane.of("FunctionCreate")
        if request.function.function_name == name
    ]
    return found


def test_the_app_has_one_class_and_one_function(deployed: ControlPlane) -> None:
    (published,) = deployed.of("AppPublish")
    assert published.name == "latentsync"
    assert list(published.class_ids) == ["LatentSync"]
    assert set(published.function_ids) == {"LatentSync.*", "download_weights"}
    assert set(function(deployed, "LatentSync.*").method_definitions) == {"predict", "web"}


def test_one_prediction_at_a_time_on_an_a10_as_on_cerebrium(deployed: ControlPlane) -> None:
    service, hardware = function(deployed, "LatentSync.*"), CEREBRIUM["hardware"]
    assert (service.resources.gpu_config.gpu_type, service.resources.gpu_config.count) == ("A10", 1)
    assert hardware["compute"] == "AMPERE_A10"
    assert service.resources.milli_cpu == 1000 * hardware["cpu"]
    assert service.resources.memory_mb == 1024 * hardware["memory"]
    assert service.max_concurrent_inputs == 0  # Modal's way to say one
    assert service.concurrency_limit == CEREBRIUM["scaling"]["max_replicas"]
    assert service.task_idle_timeout_secs == CEREBRIUM["scaling"]["cooldown"]
    assert service.checkpointing_enabled


def test_a_run_ends_before_the_platform_kills_it(deployed: ControlPlane) -> None:
    service = function(deployed, "LatentSync.*")
    assert Settings().deadline_s < service.timeout_secs < service.startup_timeout_secs


def test_fetching_weights_needs_no_gpu(deployed: ControlPlane) -> None:
    assert function(deployed, "download_weights").resources.gpu_config.count == 0


@pytest.mark.parametrize("name", ["LatentSync.*", "download_weights"])
def test_both_have_the_volume_and_the_secret(deployed: ControlPlane, name: str) -> None:
    (volume,) = deployed.of("VolumeGetOrCreate")
    assert volume.deployment_name == "latentsync-weights"
    assert volume.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING
    assert volume.version == api_pb2.VOLUME_FS_VERSION_V2
    (secret,) = [
        requested for requested in deployed.of("SecretGetOrCreate") if requested.deployment_name
    ]
    assert (secret.deployment_name, list(secret.required_keys)) == ("latentsync", [])
    (mounted,) = function(deployed, name).volume_mounts
    assert (mounted.volume_id, mounted.read_only) == ("vo-latentsync-weights", False)
    # The one that is made with the account comes last, so it wins over the defaults.
    assert list(function(deployed, name).secret_ids) == ["st-from_dict", "st-latentsync"]
    environment = defaults_in(deployed)
    assert environment["LATENTSYNC_WEIGHTS_DIR"] == mounted.mount_path
    assert environment["TORCH_HOME"].startswith(mounted.mount_path + "/")


def test_the_web_endpoint_has_an_address_of_its_own(deployed: ControlPlane) -> None:
    web = function(deployed, "LatentSync.*").method_definitions["web"].webhook_config
    assert (web.type, web.requested_suffix) == (api_pb2.WEBHOOK_TYPE_ASGI_APP, "latentsync")


def test_the_method_is_published_with_the_fields_of_contract_a(deployed: ControlPlane) -> None:
    schema = function(deployed, "LatentSync.*").method_definitions["predict"].function_schema
    names = [argument.name for argument in schema.arguments]
    assert names == [*PredictRequest.model_fields, "unknown"]


def build_lines(plane: ControlPlane, image_id: str) -> list[str]:
    """Return the lines of an image's build, its base first."""
    image = plane.image(image_id)
    before = [build_lines(plane, base.image_id) for base in image.base_images]
    return [*(line for lines in before for line in lines), *image.dockerfile_commands]


def test_the_image_has_all_that_the_package_and_its_networks_need(deployed: ControlPlane) -> None:
    lines = build_lines(deployed, function(deployed, "LatentSync.*").image_id)
    assert any(line.startswith("FROM python:3.11") for line in lines)
    (install,) = [line for line in lines if "pip install" in line and "torch" in line]
    words = shlex.split(install)
    start, end = words.index("install") + 1, words.index("--constraint")
    assert set(words[start:end]) == {
        *PROJECT["dependencies"],
        *PROJECT["optional-dependencies"]["models"],
    }
    assert words[end:] == ["--constraint", "/constraints.txt"]
    assert "index-url" not in install
    assert lines.index("COPY . /") < lines.index(install)  # the constraints come first


def defaults_in(plane: ControlPlane) -> dict[str, str]:
    """Return the environment that every container has, unless the account's secret differs."""
    (defaults,) = [
        requested for requested in plane.of("SecretGetOrCreate") if not requested.deployment_name
    ]
    return dict(defaults.env_dict)


def test_what_runs_is_latentsync_on_the_gpu_and_nothing_instead(
    deployed: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in defaults_in(deployed).items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert (settings.engine, settings.device) == ("latentsync-1.6", "cuda")
    known = {f"LATENTSYNC_{name.upper()}" for name in Settings.model_fields}
    assert set(defaults_in(deployed)) - {"TORCH_HOME"} <= known


def files_sent(plane: ControlPlane) -> dict[str, str]:
    """Return the path in the container and the sha256 of every file that goes there."""
    mounts = plane.of("MountGetOrCreate")
    return {file.filename: file.sha256_hex for mount in mounts for file in mount.files}


def test_sources_and_their_files_are_sent_and_nothing_else(deployed: ControlPlane) -> None:
    sources = (REPOSITORY / "latentsync").rglob("*.py")
    others = [path for name in ("configs", "assets") for path in (REPOSITORY / name).iterdir()]
    for_the_engines = [
        path for path in others if not path.name.startswith("demo_") and path.suffix != ".py"
    ]
    wanted = [REPOSITORY / "modal_app.py", *sources, *for_the_engines]
    assert set(files_sent(deployed)) == {
        "/constraints.txt",
        *(f"/root/{path.relative_to(REPOSITORY)}" for path in wanted),
    }


# What runs in the containers


@pytest.fixture
def container(deployed: ControlPlane, tmp_path: Path) -> Path:
    """A folder with what was sent, as a container has it under /root."""
    for path in files_sent(deployed):
        if path.startswith("/root/"):
            target = tmp_path / path.removeprefix("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / path.removeprefix("/root/"), target)
    return tmp_path / "root"


def run_in(container: Path, code: str, **environment: str) -> list[str]:
    """Run Python in the container's folder; returns the lines that it prints."""
    own = {"LATENTSYNC_WORK_DIR": str(container.parent / "work"), KEY_NAME: KEY, **environment}
    done = subprocess.run(
        [sys.executable, "-c", "import warnings; warnings.simplefilter('ignore')\n" + code],
        cwd=container,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_what_was_sent_is_enough_to_run_the_demo(container: Path, tmp_path: Path) -> None:
    speech = write_speech(tmp_path / "speech.wav")
    code = f"""
import base64, modal_app
def read(path): return base64.b64encode(open(path, "rb").read()).decode()
print(modal_app.serverless.__file__)
answer = modal_app.LatentSync().predict.local(
    video_base64=read({str(DEMO_VIDEO)!r}), audio_base64=read({str(speech)!r})
)
details = answer["details"]
print(details["engine"], details["faces_found"], details["frames_without_face"])
"""
    where, made = run_in(container, code, LATENTSYNC_ENGINE="draft")
    assert Path(where).is_relative_to(container)
    assert made == "draft 1 0"


def test_a_cold_start_imports_first_and_asks_for_the_gpu_later(container: Path) -> None:
    """What it asks before the snapshot, torch would answer alike for ever; here there is none."""
    code = """
import sys, torch, modal_app
from latentsync.errors import LatentSyncError
asked = []
for name in ("is_available", "device_count", "get_device_capability", "_lazy_init"):
    setattr(torch.cuda, name, lambda *a, name=name: asked.append(name))
build = modal_app.PipelineCache.get
def build_after_the_snapshot(self, name=None):
    print("latentsync.pipelines.lipsync_pipeline" in sys.modules, asked)
    return build(self, name)
modal_app.PipelineCache.get = build_after_the_snapshot
try:
    modal_app.LatentSync().predict.local()
except LatentSyncError as error:
    print(error.code, error.message)
"""
    imported, failed = run_in(
        container,
        code,
        LATENTSYNC_ENGINE="latentsync-1.6",
        LATENTSYNC_DEVICE="cpu",
        LATENTSYNC_OFFLINE="1",
        LATENTSYNC_WEIGHTS_DIR=str(container.parent / "weights"),
    )
    assert imported == "True []"
    assert failed.startswith("WEIGHTS_MISSING")
    assert "latentsync-1.6/latentsync_unet.pt in the weights folder" in failed


class Builder:
    """Builds small engines and counts them."""

    built = 0


def square_engine(_name: str, _settings: Settings, _check: object) -> SquareEngine:
    Builder.built += 1
    return SquareEngine()


@pytest.fixture
def modal_app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> types.ModuleType:
    """The module, with a small engine and settings as the secret would give them."""
    monkeypatch.setenv("LATENTSYNC_ENGINE", "draft")
    monkeypatch.setenv("LATENTSYNC_WORK_DIR", str(tmp_path / "work"))
    monkeypatch.setenv(KEY_NAME, KEY)
    replace_builders(monkeypatch, {"draft": ("tests.test_modal_app", "square_engine")})
    monkeypatch.setattr(Builder, "built", 0)
    return importlib.import_module("modal_app")


def test_predict_answers_the_inner_result(modal_app: types.ModuleType, tmp_path: Path) -> None:
    answer = modal_app.LatentSync().predict.local(**small_body(tmp_path), seed=9)
    assert list(answer) == ["video_base64", "details"]
    result = PredictResult.model_validate(answer)
    assert (result.details.seed, result.details.engine) == (9, "square")
    assert base64.b64decode(result.video_base64)[4:8] == b"ftyp"
    assert files_in(tmp_path / "work") == []


def test_predict_takes_segments(modal_app: types.ModuleType, tmp_path: Path) -> None:
    body = small_body(tmp_path)
    spoken = {"audio_base64": body.pop("audio_base64"), "start_s": 0.2, "end_s": 0.32}
    answer = modal_app.LatentSync().predict.local(**body, segments=[spoken], keep_sound=False)
    assert answer["details"]["segments"] == [{"start_s": 0.2, "end_s": 0.32}]


def test_its_defaults_are_those_of_contract_a(modal_app: types.ModuleType, tmp_path: Path) -> None:
    answer = modal_app.LatentSync().predict.local(**small_body(tmp_path))
    details = PredictResult.model_validate(answer).details
    shared = PredictRequest.model_fields.keys() & PredictDetails.model_fields.keys()
    assert {"guidance_scale", "inference_steps", "seed", "sync_mode"} <= shared
    for name in shared - {"engine", "segments"}:
        assert getattr(details, name) == PredictRequest.model_fields[name].default, name


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, "FIELD_MISSING"),
        ({"seed": -2}, "FIELD_INVALID"),
        ({"guidance": 2}, "FIELD_UNKNOWN"),
        ({"run_id": "mine"}, "FIELD_UNKNOWN"),
        ({"engine": "sora"}, "FIELD_INVALID"),
        ({"video_base64": "AAAA", "audio_base64": "AAAA"}, "MEDIA_UNREADABLE"),
    ],
)
def test_errors_are_objects_that_need_no_package_to_be_read(
    modal_app: types.ModuleType, fields: dict[str, Any], code: str
) -> None:
    answer = modal_app.LatentSync().predict.local(**fields)
    assert (answer["code"], answer["status_code"]) == (code, 422)
    assert set(answer) == {"status_code", "code", "message", "field", "run_id"}
    assert all(type(value) in (int, str, type(None)) for value in answer.values())


def test_the_web_endpoint_needs_a_key_and_shares_the_engine(
    modal_app: types.ModuleType, tmp_path: Path
) -> None:
    service, body = modal_app.LatentSync(), small_body(tmp_path)
    assert "details" in service.predict.local(**body)
    with serving(service.web.local()) as url:
        assert httpx.post(f"{url}/predict", json=body).status_code == 401
        wrong = {"Authorization": "Bearer wrong"}
        assert httpx.post(f"{url}/predict", json=body, headers=wrong).status_code == 401
        with Client(url, KEY) as client:
            assert client.predict(**media_of(tmp_path)).details.engine == "square"
    assert Builder.built == 1


@pytest.mark.parametrize("name", [KEY_NAME, "LATENTSYNC_API_KEYS", None])
def test_a_start_needs_a_key_under_either_name(
    modal_app: types.ModuleType, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    monkeypatch.delenv(KEY_NAME)
    if name is None:
        with pytest.raises(RuntimeError, match="no LATENTSYNC_API_KEY"):
            modal_app.LatentSync().web.local()
        return
    monkeypatch.setenv(name, KEY)
    with serving(modal_app.LatentSync().web.local()) as url:
        headers = {"Authorization": f"Bearer {KEY}"}
        assert httpx.post(f"{url}/predict", headers=headers, json={}).status_code == 422


def media_of(folder: Path) -> dict[str, Path]:
    return {"video": folder / "clip.mp4", "audio": folder / "speech.wav"}


def test_settings_are_read_after_the_snapshot(
    modal_app: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restored container has the secret of today, and the memory of the day of the snapshot."""
    imported: list[str] = []

    def import_engine(name: str) -> None:
        imported.append(name)
        monkeypatch.setenv(KEY_NAME, "of-today")

    monkeypatch.setenv("LATENTSYNC_ENGINE", "auto")
    monkeypatch.setattr(modal_app.registry, "import_engine", import_engine)
    monkeypatch.setattr(modal_app.PipelineCache, "get", lambda engines: SquareEngine())
    with serving(modal_app.LatentSync().web.local()) as url:
        answers = [
            httpx.post(f"{url}/predict", headers={"Authorization": f"Bearer {key}"}, json={})
            for key in (KEY, "of-today")
        ]
    assert [answer.status_code for answer in answers] == [401, 422]
    assert imported == ["latentsync-1.6"]


def download(plane_url: str, folder: Path, hub_url: str) -> subprocess.CompletedProcess[str]:
    """Run download_weights in a process of its own, with the hub's small files."""
    code = (
        "import sys, warnings; warnings.filterwarnings('ignore', 'The download_weights function')\n"
        "from latentsync.weights import catalog; from tests.weights.tiny import tiny_catalog\n"
        "catalog.CATALOG = tiny_catalog(sys.argv[1])\n"
        "import modal_app; modal_app.download_weights.local()"
    )
    environment = {
        "LATENTSYNC_WEIGHTS_DIR": str(folder / "weights"),
        "LATENTSYNC_WEIGHTS_MIRROR": hub_url,
        "TORCH_HOME": str(folder / "torch"),
    }
    return run_modal(plane_url, "-c", code, hub_url, **environment)


def files_below(folder: Path) -> set[str]:
    found = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {str(path) for path in found if not path.name.startswith(".")}


def test_download_weights_fills_the_volume_and_commits_it(tmp_path: Path) -> None:
    with control_plane() as (plane, url), running_hub() as hub:
        publish(hub)
        done = download(url, tmp_path, hub.url)
        assert done.returncode == 0, done.stderr
        (commit,) = plane.of("VolumeCommit")
        assert commit.volume_id == "vo-latentsync-weights"
    assert files_below(tmp_path) == {
        "torch/hub/checkpoints/vgg16-397923af.pth",
        *(f"weights/{CATALOG[name].path}" for name in ENGINE_FILES),
    }
    assert "latentsync-1.6/unet is at" in done.stderr


def test_a_failed_download_says_what_is_missing_and_keeps_what_has_come(tmp_path: Path) -> None:
    with control_plane() as (plane, url), running_hub() as hub:
        publish(hub)
        del hub.files[path_on_hub("latentsync-1.6/unet")]
        done = download(url, tmp_path, hub.url)
        assert done.returncode != 0
        assert len(plane.of("VolumeCommit")) == 1
    assert "latentsync-1.6/unet" in done.stderr.splitlines()[-1]
