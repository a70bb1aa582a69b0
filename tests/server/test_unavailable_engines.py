"""A real server with its worker, and a command line, where LatentSync's packages are missing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from latentsync.jobs.models import JobStatus
from tests.jobs.farm import farm
from tests.ports import free_port
from tests.server.clips import as_base64, write_clip, write_speech
from tests.server.live import REPOSITORY, wait_until
from tests.without_packages import NETWORKS, children_without

pytestmark = pytest.mark.processes

GPU = "latentsync-1.6"
SAID = (
    "cannot run here. It needs torch, diffusers, accelerate and safetensors, which are not "
    "installed: pip install -e '.[models]'. "
    "Engines that can run here: draft."
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a clip without a face, and speech."""
    folder = tmp_path_factory.mktemp("engines")
    write_clip(folder / "clip.mp4")
    write_speech(folder / "speech.wav")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[httpx.Client]:
    """A caller of a server whose default engine cannot run, nor on its worker."""
    with pytest.MonkeyPatch.context() as patch:
        children_without(folder / "site", patch)
        own = {
            "LATENTSYNC_ENGINE": GPU,
            "LATENTSYNC_DATA_DIR": str(folder / "data"),
            "LATENTSYNC_WORK_DIR": str(folder / "work"),
            "LATENTSYNC_MIN_FREE_BYTES": "0",
        }
        port = str(free_port())
        command = [sys.executable, "-m", "latentsync", "serve", "--no-auth", "--port", port]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                command, cwd=REPOSITORY, env={**os.environ, **own}, stdout=log, stderr=log
            )
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=url, timeout=60) as client:
            wait_until(lambda: "No worker" not in said_of(client), timeout_s=100)
            yield client
    finally:
        process.terminate()
        process.wait(60)


def said_of(client: httpx.Client) -> str:
    """Return what /ready says; "No worker" as long as there is no server either."""
    try:
        return client.get("/ready").text
    except httpx.TransportError:
        return "No worker"


@pytest.fixture(scope="module")
def body(folder: Path) -> dict[str, str]:
    video, audio = folder / "clip.mp4", folder / "speech.wav"
    return {"video_base64": as_base64(video), "audio_base64": as_base64(audio)}


def test_a_default_engine_that_cannot_run_is_not_ready_with_a_reason(
    server: httpx.Client, folder: Path
) -> None:
    ready = server.get("/ready")
    assert (ready.status_code, ready.json()["code"]) == (503, "ENGINE_UNAVAILABLE")
    assert ready.json()["message"] == f"The engine {GPU} {SAID}"
    assert server.get("/health").json() == {"status": "ok"}
    lines = (folder / "log").read_text().splitlines()
    (reported,) = [line for line in lines if "cannot run" in line]
    assert f"ERROR latentsync.worker.worker: the default engine {GPU} cannot run" in reported
    assert "pip install" in reported


def test_the_models_say_which_can_run(server: httpx.Client) -> None:
    listed = {model["id"]: model for model in server.get("/v1/models").json()["models"]}
    assert {name: model["available"] for name, model in listed.items()} == {
        GPU: False,
        "latentsync-1.5": False,
        "draft": True,
    }
    assert listed[GPU]["reason"].startswith("It needs torch, diffusers")
    assert (listed[GPU]["is_default"], listed["draft"]["reason"]) == (True, None)


@pytest.mark.parametrize("engine", [None, GPU, "latentsync-1.5"])
def test_contract_a_refuses_at_once(
    server: httpx.Client, body: dict[str, str], engine: str | None, folder: Path
) -> None:
    requested = body if engine is None else {**body, "engine": engine}
    for path in ("/predict", "/v4/p-1/latentsync/predict"):
        answer = server.post(path, json=requested)
        reported = answer.json()
        assert answer.status_code == reported["status_code"] == 503
        assert (reported["code"], reported["field"]) == ("ENGINE_UNAVAILABLE", "engine")
        assert reported["message"] == f"The engine {engine or GPU} {SAID}"
    assert_nothing_is_kept(server, folder)


@pytest.mark.parametrize("how", ["json", "form", "put", "list", "batch", "page"])
def test_the_native_api_refuses_at_once(
    server: httpx.Client, body: dict[str, str], how: str, folder: Path
) -> None:
    answer = _ways(server, body, folder)[how]()
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (503, "ENGINE_UNAVAILABLE")
    is_list = how in ("list", "batch")
    assert problem["field"] == ("predictions.1.engine" if is_list else "engine")
    assert problem["detail"].endswith(SAID)
    assert_nothing_is_kept(server, folder)


def _ways(server: httpx.Client, body: dict[str, str], folder: Path) -> dict[str, Any]:
    """Return the ways to submit what cannot run."""
    two = [{**body, "engine": "draft"}, {**body, "engine": GPU}]

    def form(**fields: str) -> httpx.Response:
        with (folder / "clip.mp4").open("rb") as video, (folder / "speech.wav").open("rb") as audio:
            files = {"video": video, "audio": audio}
            return server.post("/v1/predictions", files=files, data=fields)

    return {
        "json": lambda: server.post("/v1/predictions", json=body),
        "form": lambda: form(engine=GPU),
        "page": form,  # which sends no engine where the server's own is chosen
        "put": lambda: server.put(f"/v1/predictions/{'0' * 32}", json=two[1]),
        "list": lambda: server.post("/v1/predictions", json=two),
        "batch": lambda: server.post("/v1/predictions/batch", json={"predictions": two}),
    }


@pytest.mark.parametrize("checkpoint", [None, "latentsync_unet.pt"])
def test_contract_b_refuses_in_its_own_shape(
    server: httpx.Client, checkpoint: str | None, folder: Path
) -> None:
    media = {name: f"https://example.com/{name}" for name in ("video_url", "audio_url")}
    requested = media if checkpoint is None else {**media, "inference_ckpt_path": checkpoint}
    answer = server.post("/sync", json=requested)
    assert answer.status_code == 503
    reported = answer.json()
    assert reported["detail"] == reported["message"] == f"The engine {GPU} {SAID}"
    assert reported["code"] == "ENGINE_UNAVAILABLE"
    assert_nothing_is_kept(server, folder)


def test_contract_c_refuses_in_its_own_shape(
    server: httpx.Client, body: dict[str, str], folder: Path
) -> None:
    media = {name.replace("base64", "source"): value for name, value in body.items()}
    answer = server.post("/lipsync/submit", json=media)
    assert answer.status_code == 503
    assert answer.json() == {
        "status": "Failed",
        "reason": f"The engine {GPU} {SAID}",
        "code": "ENGINE_UNAVAILABLE",
    }
    assert_nothing_is_kept(server, folder)


def assert_nothing_is_kept(server: httpx.Client, folder: Path) -> None:
    waiting = server.get("/v1/predictions", params={"status": "queued"}).json()["predictions"]
    assert waiting == []
    kept = [*(folder / "data" / "files").rglob("*"), *(folder / "work").glob("*/*/*")]
    assert [path for path in kept if path.is_file()] == []


def test_a_runnable_engine_runs(server: httpx.Client, body: dict[str, str]) -> None:
    wait = {"Prefer": "wait=60"}
    answer = server.post("/v1/predictions", json={**body, "engine": "draft"}, headers=wait)
    assert answer.status_code == 200, answer.text
    assert answer.json()["error"]["code"] == "NO_FACE"  # which the draft engine looked for


def test_a_job_that_was_taken_before_fails_with_the_same_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with farm(tmp_path, engine="draft") as lent:
        taken = lent.submit(engine=GPU)  # no worker is running that could report that it cannot
        children_without(tmp_path / "site", monkeypatch)
        lent.start(command=("latentsync", "worker"))
        (ended,) = lent.wait_until_ended([taken])
    assert ended.status is JobStatus.FAILED
    assert ended.error is not None
    assert (ended.error.code, ended.error.field) == ("ENGINE_UNAVAILABLE", "engine")
    assert ended.error.message == f"The engine {GPU} {SAID}"


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let processes find a torch that misses a library; returns what is said of it."""
    package = tmp_path / "site" / "torch"
    package.mkdir(parents=True)
    library = tmp_path / "lib" / "libcudart.so.12"
    (package / "__init__.py").write_text(f"import ctypes\nctypes.CDLL({str(library)!r})\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    return (
        f"The engine {GPU} cannot run here. It needs torch, which is installed but cannot be "
        "imported (OSError: libcudart.so.12: cannot open shared object file: No such file or "
        "directory). Reinstall it or its dependencies. Engines that can run here: draft."
    )


def test_a_broken_installation_is_reported_with_its_cause_and_no_folder(
    tmp_path: Path, broken: str
) -> None:
    media = ("--video", "no such file.mp4", "--audio", "no such file.wav")
    done = command("run", "--engine", GPU, *media, "--output", str(tmp_path / "o.mp4"))
    assert (done.returncode, done.stderr) == (1, f"Error: {broken}\n")
    with farm(tmp_path, engine="draft", offline=False) as lent:
        taken = lent.submit(engine=GPU)
        lent.start(command=("latentsync", "worker"))
        (ended,) = lent.wait_until_ended([taken])
        assert "Traceback" in lent.log()  # for the operator
    assert ended.error is not None
    assert (ended.error.code, ended.error.message) == ("ENGINE_UNAVAILABLE", broken)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "latentsync", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_the_command_line_reports_it_in_one_line_before_it_reads_the_media(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children_without(tmp_path / "site", monkeypatch)
    media = ("--video", "no such file.mp4", "--audio", "no such file.wav")
    done = command("run", "--engine", GPU, *media, "--output", str(tmp_path / "o.mp4"))
    assert (done.returncode, done.stderr) == (1, f"Error: The engine {GPU} {SAID}\n")


@pytest.mark.parametrize("name", ["serve", "worker"])
def test_a_worker_without_any_runnable_engine_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    children_without(tmp_path / "site", monkeypatch, (*NETWORKS, "pocketsphinx"))
    monkeypatch.setenv("LATENTSYNC_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("LATENTSYNC_WORK_DIR", str(tmp_path / "work"))
    done = command(*([name, "--no-auth", "--port", "0"] if name == "serve" else [name]))
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "pocketsphinx, which is not installed" in done.stderr
    assert "No engine can run here." in done.stderr
