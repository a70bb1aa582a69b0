"""A client generated from the server's own document is complete, compiles and works."""

from __future__ import annotations

import compileall
import importlib
import io
import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from latentsync.server.app import build_app
from tests.jobs.square_runner import PLAIN
from tests.server.clips import write_clip, write_speech
from tests.server.documents import operations
from tests.server.live import KEY, REPOSITORY, serving_jobs, settings_for, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

PACKAGE = "generated_latentsync_client"


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = build_app(settings_for(tmp_path_factory.mktemp("app"))).openapi()
    return found


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]) -> Path:
    """The folder of a client, generated without a single warning."""
    folder = tmp_path_factory.mktemp("client")
    (folder / "openapi.json").write_text(json.dumps(document))
    config = (REPOSITORY / "docs/openapi-python-client.yml").read_text()
    (folder / "config.yml").write_text(config + "post_hooks: []\n")  # they only lay out the text
    generate = ["-m", "openapi_python_client", "generate", "--fail-on-warning", "--meta", "none"]
    waiting_slots = ["--path", "openapi.json", "--config", "config.yml", "--output-path", PACKAGE]
    done = subprocess.run(
        [sys.executable, *generate, *waiting_slots], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in (done.stdout + done.stderr).lower(), done.stdout
    return folder / PACKAGE


@pytest.fixture(scope="module")
def client(package: Path) -> Iterator[ModuleType]:
    """The client, imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(package.parent))
        yield importlib.import_module(PACKAGE)
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


def call_of(name: str) -> Any:
    """Return the module of one call, such as ``predictions.get_prediction``."""
    return importlib.import_module(f"{PACKAGE}.api.{name}")


def test_it_has_a_call_for_every_operation_and_compiles(
    package: Path, client: ModuleType, document: dict[str, Any]
) -> None:
    assert compileall.compile_dir(package, quiet=1, force=True)
    for operation in operations(document):
        [tag] = operation.about["tags"]
        assert callable(call_of(f"{tag}.{operation.id}").sync_detailed)


def test_its_types_are_right(package: Path) -> None:
    api = pytest.importorskip("mypy.api", reason="mypy comes with make check")
    arguments = [str(package), "--config-file", "", "--cache-dir", str(package.parent / "cache")]
    report, trouble, code = api.run(arguments)
    assert code == 0, report + trouble


def test_it_makes_a_video_from_uploads_and_from_files(client: ModuleType, tmp_path: Path) -> None:
    models: Any = importlib.import_module(f"{PACKAGE}.models")
    types: Any = importlib.import_module(f"{PACKAGE}.types")
    clip = write_clip(tmp_path / "clip.mp4").read_bytes()
    speech = write_speech(tmp_path / "speech.wav").read_bytes()
    with (
        serving_jobs(settings_for(tmp_path)) as url,
        client.AuthenticatedClient(base_url=url, token=KEY, timeout=120.0) as caller,
    ):
        video, audio = (
            call_of("uploads.create_upload").sync(
                client=caller, body=types.File(payload=io.BytesIO(content))
            )
            for content in (clip, speech)
        )
        created = call_of("predictions.create_prediction").sync(
            client=caller,
            body=models.PredictionRequest(video_url=video.url, audio_url=audio.url, seed=PLAIN),
        )
        get = call_of("predictions.get_prediction").sync

        def has_ended(job_id: str) -> bool:
            return get(job_id, client=caller).status not in ("queued", "processing")

        wait_until(lambda: has_ended(created.id), timeout_s=300)
        assert get(created.id, client=caller).status == "succeeded"
        output = call_of("predictions.prediction_output").sync(created.id, client=caller)
        assert output.payload.read()[4:8] == b"ftyp"

        form = models.PredictionForm(
            video=types.File(io.BytesIO(clip), "clip.mp4"),
            audio=types.File(io.BytesIO(speech), "speech.wav"),
            seed=PLAIN,
        )
        own_id = str(uuid.uuid4())
        ended = call_of("predictions.put_prediction").sync(
            own_id, client=caller, body=form, prefer="wait=60"
        )
        assert (ended.id, ended.status) == (own_id, "succeeded")

        batch = models.PredictionBatch(
            [models.PredictionRequest(video_url=video.url, audio_url=audio.url, seed=PLAIN)] * 2
        )
        several = call_of("predictions.create_prediction").sync(client=caller, body=batch)
        assert len(several.predictions) == 2
        missing = call_of("predictions.get_prediction").sync(str(uuid.uuid4()), client=caller)
        assert (missing.status, missing.code) == (404, "JOB_NOT_FOUND")
        page = call_of("predictions.list_predictions").sync(client=caller, limit=1)
        assert len(page.predictions) == 1
        assert page.next_cursor
