"""Calls drawn from the OpenAPI documents, most of them wrong: none may be a defect (500).

Every operation of every contract is drawn from. Every other case is aimed: its ids are those of a
finished job and its media are real ones, so that it comes further than to "there is no such thing".
``LATENTSYNC_FUZZ_CASES`` sets how many cases are sent in all (default 2000).
"""

from __future__ import annotations

import base64
import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants
from hypothesis.strategies import booleans
from schemathesis import GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from latentsync.server.app import build_app
from latentsync.server.worker_supervisor import running_worker
from tests.jobs.square_runner import PLAIN
from tests.server.clips import write_clip, write_speech
from tests.server.engines import SquareEngine
from tests.server.live import AUTH, app_with, serving, settings_for, worker_command

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

CASES = int(os.environ.get("LATENTSYNC_FUZZ_CASES", "2000"))
RIGHT, WRONG = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
PREDICT = [("/predict", "POST"), ("/v4/{project}/{app}/predict", "POST")]
HEALTH = [("/health", "GET"), ("/ready", "GET")]
OPERATIONS = {
    "engines": [*PREDICT, *HEALTH],
    "jobs": [
        *PREDICT,
        *HEALTH,
        ("/metrics", "GET"),
        ("/v1/predictions", "POST"),
        ("/v1/predictions", "GET"),
        ("/v1/predictions/batch", "POST"),
        ("/v1/predictions/{job_id}", "PUT"),
        ("/v1/predictions/{job_id}", "GET"),
        ("/v1/predictions/{job_id}/cancel", "POST"),
        ("/v1/predictions/{job_id}/events", "GET"),
        ("/v1/predictions/{job_id}/output", "GET"),
        ("/v1/uploads", "POST"),
        ("/v1/models", "GET"),
        ("/sync", "POST"),
        ("/task/{task_id}", "GET"),
        ("/queue", "GET"),
        ("/outputs/{task_id}/{name}", "GET"),
        ("/lipsync/submit", "POST"),
        ("/lipsync/status", "POST"),
        ("/lipsync/cancel", "POST"),
        ("/static/results/{request_id}/{name}", "GET"),
        ("/v1/uploads/{upload_id}", "DELETE"),  # last, for they take away what others aim at
        ("/v1/predictions/{job_id}", "DELETE"),
    ],
}
# Of these calls nothing can be wrong: they have no parameters, or any text is one.
NEVER_WRONG = {
    "/health",
    "/ready",
    "/metrics",
    "/v1/models",
    "/queue",
    "/task/{task_id}",
    "/outputs/{task_id}/{name}",
    "/static/results/{request_id}/{name}",
    "/v1/uploads/{upload_id}",
}
CALLS = [
    (name, path, method, mode)
    for name, operations in OPERATIONS.items()
    for path, method in operations
    for mode in (RIGHT, WRONG)
    if mode is RIGHT or path not in NEVER_WRONG
]
CASES_EACH = math.ceil(CASES / sum(path not in ("/health", "/ready") for _, path, *_ in CALLS))
CHECKS = [
    status_code_conformance,  # the document names every status that is answered
    response_schema_conformance,
    content_type_conformance,
]


@dataclass(frozen=True)
class Aim:
    """What exists, for cases that shall hit it.

    Attributes:
        clip, speech: tiny media.
        uploads: their addresses on the server of jobs.
        job_id: of a job that has succeeded there.
        name: of its result.
    """

    clip: bytes
    speech: bytes
    uploads: tuple[str, str] = ("", "")
    job_id: str = ""
    name: str = ""

    def take(self, case: schemathesis.Case) -> None:
        """Change a case that is right as it is, so that it hits."""
        known = dict.fromkeys(("job_id", "task_id", "request_id"), self.job_id)
        known["upload_id"] = self.uploads[0].removeprefix("upload://")
        if case.method != "PUT":  # which makes new ones
            for name in case.path_parameters.keys() & {*known, "name"}:
                case.path_parameters[name] = known.get(name, self.name)
        if (case.media_type or "").startswith("multipart"):
            case.body = {"video": self.clip, "audio": self.speech}
        elif case.path in ("/lipsync/status", "/lipsync/cancel"):
            case.body = {"request_id": self.job_id}
        elif case.method == "POST" or case.method == "PUT":
            for entry in _entries(case.body):
                _be_exact(entry)
                self._give_media(entry, case.path)

    def _give_media(self, body: dict[str, Any], path: str) -> None:
        for name in ("video_url", "video_base64", "audio_url", "audio_base64"):
            body.pop(name, None)
        clip, speech = (base64.b64encode(one).decode() for one in (self.clip, self.speech))
        if path == "/sync":
            body["video_url"], body["audio_url"] = self.uploads
            return
        form = "source" if path == "/lipsync/submit" else "base64"
        body |= {f"video_{form}": clip, f"audio_{form}": speech, "seed": PLAIN}


def _be_exact(body: dict[str, Any]) -> None:
    """Keep a case to what the document cannot say: integers without a point, no odd speakers."""
    for name in ("speaker", "guidance_interval", "webhook", "inference_ckpt_path"):
        body.pop(name, None)
    for name, value in body.items():
        if isinstance(value, float) and value.is_integer():
            body[name] = int(value)


def _entries(body: Any) -> list[dict[str, Any]]:
    """Return the objects of a body that each ask for a video."""
    if isinstance(body, dict) and "predictions" in body:
        body = body["predictions"]
    return [one for one in (body if isinstance(body, list) else [body]) if isinstance(one, dict)]


@dataclass(frozen=True)
class Served:
    """A server."""

    url: str
    document: dict[str, Any]
    aim: Aim


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """A clip and a recording."""
    folder = tmp_path_factory.mktemp("media")
    clip, speech = write_clip(folder / "clip.mp4"), write_speech(folder / "speech.wav")
    return clip.read_bytes(), speech.read_bytes()


@pytest.fixture(scope="module")
def servers(
    tmp_path_factory: pytest.TempPathFactory, media: tuple[bytes, bytes]
) -> Iterator[dict[str, Served]]:
    """A server with an engine, and one of jobs with a worker."""
    own = settings_for(tmp_path_factory.mktemp("engines"), fetch_timeout_s=0.2)
    shared = settings_for(
        tmp_path_factory.mktemp("jobs"),
        fetch_timeout_s=0.2,
        max_jobs_per_key=20,
        body_timeout_s=5.0,
    )
    with_engine, with_jobs = app_with(SquareEngine(), own), build_app(shared)
    with (
        serving(with_engine) as one,
        serving(with_jobs) as other,
        running_worker(worker_command(shared, "w")),
    ):
        yield {
            "engines": Served(one, with_engine.openapi(), Aim(*media)),
            "jobs": Served(other, with_jobs.openapi(), _finished(other, media)),
        }


def _finished(url: str, media: tuple[bytes, bytes]) -> Aim:
    """Have a job made."""
    with httpx.Client(base_url=url, headers=AUTH, timeout=60) as client:
        video, audio = (client.post("/v1/uploads", content=one).json()["url"] for one in media)
        requested = {"video_url": video, "audio_url": audio, "seed": PLAIN}
        headers = {"Prefer": "wait=60"}
        job_id = client.post("/v1/predictions", json=requested, headers=headers).json()["id"]
        path = client.get(f"/task/{job_id}").json()["output_video_url"]
    return Aim(*media, (video, audio), job_id, path.rsplit("/", 1)[-1])


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_drawn_from(servers: dict[str, Served], name: str) -> None:
    documented = {
        (path, method.upper())
        for path, methods in servers[name].document["paths"].items()
        for method in methods
    }
    assert documented == set(OPERATIONS[name])


@pytest.fixture
def nothing_read_from_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep hypothesis from drawing constants of whatever modules earlier tests have loaded."""
    monkeypatch.setattr(providers, "_get_local_constants", Constants)


@pytest.mark.usefixtures("nothing_read_from_modules")
@pytest.mark.parametrize(
    ("name", "path", "method", "mode"),
    CALLS,
    ids=[f"{name} {method} {path} {mode.value}" for name, path, method, mode in CALLS],
)
def test_no_call_drawn_from_the_document_is_a_defect(
    servers: dict[str, Served], name: str, path: str, method: str, mode: GenerationMode
) -> None:
    server = servers[name]
    operation = schemathesis.openapi.from_dict(server.document)[path][method]
    seen: Counter[int] = Counter()

    @seed(20)  # the same cases on every machine
    @settings(
        max_examples=CASES_EACH,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), aimed=booleans())
    def send(case: schemathesis.Case, aimed: bool) -> None:
        if aimed and mode is RIGHT:
            server.aim.take(case)
        response = case.call(base_url=server.url, headers=AUTH, timeout=60)
        seen[response.status_code] += 1
        assert response.status_code != 500, response.text
        case.validate_response(response, checks=CHECKS)

    send()
    assert seen.total() > 0
    if mode is RIGHT:
        assert seen.keys() - {404, 422}, f"no case was right: {seen}"
    elif method == "POST" and not path.endswith("/cancel"):
        assert seen[400] + seen[422] > 0, f"no case came as far as its fields: {seen}"
