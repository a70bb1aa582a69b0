"""Every example of the OpenAPI documents is sent to a real server as it stands, and succeeds.

The server has the draft engine, as a new installation has. Where a document can only stand for a
thing (a file, the address of an upload, the drawn name of a result), media cut from the demo's and
what the server answered take its place.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from latentsync.pipelines.registry import PipelineCache
from latentsync.server.app import build_app
from latentsync.server.openapi import PREDICTION_ID, RESULT_NAME, UPLOADED_AUDIO, UPLOADED_VIDEO
from latentsync.server.worker_supervisor import running_worker
from tests.demo_media import ASSETS
from tests.server.documents import Call, Document, example_calls, operations
from tests.server.live import AUTH, REAL_WORKER, serving, settings_for, wait_until, worker_command

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

VIDEO, AUDIO = ASSETS / "example_video.mp4", ASSETS / "example_audio.ogg"
FILES = {"video.mp4": VIDEO, "audio.wav": AUDIO}
NEEDS_A_WAITING_JOB = {"cancel_lipsync"}
_ID = re.compile(r'"(?:id|task_id|request_id)":\s*"([0-9a-f-]{36})"')


class Caller:
    """Sends calls; what stands for something is replaced by it.

    Args:
        client: of a server.
    """

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self.known: dict[str, str] = {}  # by what stands for it

    def send(self, call: Call) -> httpx.Response:
        """Send one call as the document has it."""
        return self._client.request(
            call.operation.method,
            self._replace(call.path),
            headers=call.headers,
            params=call.query,
            **self._body(call),
        )

    def _body(self, call: Call) -> dict[str, Any]:
        if call.content_type.startswith("multipart/"):
            form = call.body.items()
            files = {name: FILES[value] for name, value in form if value in FILES}
            fields = {name: str(value) for name, value in form if name not in files}
            opened = {name: (path.name, path.read_bytes()) for name, path in files.items()}
            return {"data": fields, "files": opened}
        if call.body is not None:
            return {"json": self._replace_all(call.body)}
        if call.content_type:
            return {"content": VIDEO.read_bytes()}
        return {}

    def _replace_all(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self._replace_all(one) for name, one in value.items()}
        if isinstance(value, list):
            return [self._replace_all(one) for one in value]
        return self._replace(value) if isinstance(value, str) else value

    def _replace(self, text: str) -> str:
        for stand_in, real in self.known.items():
            text = text.replace(stand_in, real)
        return text


@contextlib.contextmanager
def server_of_jobs(folder: Path, *, with_worker: bool) -> Iterator[tuple[Document, httpx.Client]]:
    settings = settings_for(folder, engine="draft", max_jobs_per_key=1000)
    app = build_app(settings)
    with contextlib.ExitStack() as running:
        if with_worker:
            running.enter_context(running_worker(worker_command(settings, "w", REAL_WORKER)))
        url = running.enter_context(serving(app))
        client = running.enter_context(httpx.Client(base_url=url, headers=AUTH, timeout=300))
        if with_worker:
            wait_until(lambda: client.get("/ready").status_code == 200, timeout_s=120)
        yield app.openapi(), client


def calls_in_order(document: Document) -> list[Call]:
    """Return every example: what makes the prediction of all the others first, deletions last."""
    order = {"put": 0, "delete": 2}
    found = sorted(operations(document), key=lambda one: order.get(one.method, 1))
    return [call for operation in found for call in example_calls(operation)]


def check(call: Call, response: httpx.Response) -> str | None:
    """Return what is wrong with an answer."""
    documented = call.operation.about["responses"].get(str(response.status_code))
    if not response.is_success or documented is None:
        return f"{response.status_code} {response.text[:300]}"
    kind = response.headers.get("content-type", "").split(";")[0]
    if response.content and kind not in documented["content"]:
        return f"the document does not name {kind}"
    return None


def test_every_example_of_a_server_of_jobs_succeeds(tmp_path: Path) -> None:
    with server_of_jobs(tmp_path, with_worker=True) as (document, client):
        caller = Caller(client)
        for stand_in, path in ((UPLOADED_VIDEO, VIDEO), (UPLOADED_AUDIO, AUDIO)):
            answer = client.post("/v1/uploads", content=path.read_bytes()).json()
            caller.known[stand_in] = answer["url"]
            caller.known[stand_in.removeprefix("upload://")] = answer["id"]
        failures, made, deleted = {}, set(), set()
        for call in calls_in_order(document):
            if call.operation.id in NEEDS_A_WAITING_JOB:
                continue
            if call.operation.method == "put" and RESULT_NAME in caller.known:
                call = replace(call, path=call.path.replace(PREDICTION_ID, str(uuid.uuid4())))
            response = caller.send(call)
            failures[call.name] = check(call, response)
            if RESULT_NAME not in caller.known:
                assert response.json()["status"] == "succeeded", response.text
                caller.known[RESULT_NAME] = result_name(client)
            if call.operation.method == "delete":
                deleted.add(PREDICTION_ID)
            made |= set(_ID.findall(response.text)) if "predictions" in call.path else set()
        assert {name: what for name, what in failures.items() if what is not None} == {}
        # The examples were really run: the faces were found, the speech was heard.
        for job_id in made - deleted:
            wait_until(lambda job_id=job_id: ended(client, job_id), timeout_s=300)
            job = client.get(f"/v1/predictions/{job_id}").json()
            assert job["status"] == "succeeded", job
        assert len(made) >= 8


def result_name(client: httpx.Client) -> str:
    """Return the drawn name of the example's result."""
    path = client.get(f"/task/{PREDICTION_ID}").json()["output_video_url"]
    return str(path.rsplit("/", 1)[-1])


def ended(client: httpx.Client, job_id: str) -> bool:
    status = client.get(f"/v1/predictions/{job_id}").json()["status"]
    return status not in ("queued", "processing")


def test_examples_about_a_waiting_job_succeed(tmp_path: Path) -> None:
    with server_of_jobs(tmp_path, with_worker=False) as (document, client):
        caller = Caller(client)
        calls = [call for call in calls_in_order(document) if call.body is not None]
        [first] = [call for call in calls if call.operation.method == "put"][:1]
        first.headers.clear()  # which ask to wait for the end
        assert caller.send(first).status_code == 202
        waiting = [call for call in calls if call.operation.id in NEEDS_A_WAITING_JOB]
        assert len(waiting) == len(NEEDS_A_WAITING_JOB)
        for call in waiting:
            assert check(call, caller.send(call)) is None, call.name


def test_every_example_of_a_server_with_an_engine_succeeds(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, engine="draft")
    app = build_app(settings, PipelineCache(settings))
    with serving(app) as url, httpx.Client(base_url=url, headers=AUTH, timeout=300) as client:
        wait_until(lambda: client.get("/ready").status_code == 200)
        caller = Caller(client)
        failures = {
            call.name: check(call, caller.send(call)) for call in calls_in_order(app.openapi())
        }
        assert failures
        assert {name: what for name, what in failures.items() if what is not None} == {}
