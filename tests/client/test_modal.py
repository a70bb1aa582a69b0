"""The client of a deployment on Modal: the real package, and a control plane on this machine."""

from __future__ import annotations

import base64
import importlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from modal_proto import api_pb2

from latentsync import Client
from latentsync.client import ModalClient, Segment
from latentsync.errors import (
    Canceled,
    FetchTimeout,
    InvalidField,
    InvalidRequest,
    JobNotFound,
    ServerError,
)
from latentsync.settings import Settings
from tests.client.modal_runs import RunningPlane
from tests.engine_builders import replace_builders
from tests.modal_cloud import control_plane
from tests.server.clips import write_clip, write_speech
from tests.server.engines import SquareEngine
from tests.test_client import DETAILS

# Modal says at each local call that the volume is not mounted, which is meant here.
pytestmark = [
    pytest.mark.processes,
    pytest.mark.filterwarnings(
        r"ignore:The LatentSync\.\w+ function is executing locally:UserWarning"
    ),
]

VIDEO = b"....ftyp"
RESULT = {"video_base64": base64.b64encode(VIDEO).decode(), "details": DETAILS}


@pytest.fixture
def plane(monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningPlane]:
    """A control plane to which this process has a token."""
    import modal

    running = RunningPlane()
    with control_plane(running) as (_, url):
        monkeypatch.setenv("MODAL_SERVER_URL", url)
        monkeypatch.setenv("MODAL_TOKEN_ID", "ak-1")
        monkeypatch.setenv("MODAL_TOKEN_SECRET", "as-1")
        yield running
        modal.Client.from_env().close()


@pytest.fixture
def client(plane: RunningPlane) -> ModalClient:
    plane.predict = lambda **fields: RESULT
    return Client.modal()


@pytest.fixture
def gate(plane: RunningPlane, client: ModalClient) -> Iterator[threading.Event]:
    """Runs wait until it is set."""
    opened = threading.Event()

    def predict(**fields: Any) -> Any:
        opened.wait(20)
        return RESULT

    plane.predict = predict
    yield opened
    opened.set()


def square_engine(_name: str, _settings: Settings, _check: object) -> SquareEngine:
    return SquareEngine()


def test_what_is_deployed_runs_what_is_submitted(
    plane: RunningPlane, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LATENTSYNC_API_KEY", "my-key")  # without one the container does not start
    monkeypatch.setenv("LATENTSYNC_ENGINE", "draft")
    monkeypatch.setenv("LATENTSYNC_WORK_DIR", str(tmp_path / "work"))
    replace_builders(monkeypatch, {"draft": (__name__, "square_engine")})
    service = importlib.import_module("modal_app").LatentSync()
    plane.predict = service.predict.local
    media = write_clip(tmp_path / "clip.mp4", width=97), write_speech(tmp_path / "speech.wav")
    with Client.modal() as client:
        job = client.submit(*media, seed=9, sync_mode="loop", speaker={"frame": 0, "point": [3, 4]})
        done = client.wait(job).raise_for_status()
        assert done.details is not None
        assert (done.details.seed, done.details.engine) == (9, "square")
        assert [one.code for one in done.details.warnings] == ["SIZE_ROUNDED"]
        target = client.download(job, tmp_path / "new" / "o.mp4")
        assert target.read_bytes()[4:8] == b"ftyp"
        said = [Segment(media[1], start_s=0.2, end_s=0.32)]
        parts = client.predict(media[0], segments=said, keep_sound=False).details.segments
        assert [(one.start_s, one.end_s) for one in parts] == [(0.2, 0.32)]
        failed = client.wait(client.submit(b"not a video", media[1]))
    assert failed.error is not None
    assert (failed.error.code, failed.error.field) == ("MEDIA_UNREADABLE", "video_base64")
    assert [request.app_name for request in plane.of("ClassGet")] == ["latentsync"]


def test_a_job_is_found_again_by_its_id(client: ModalClient, tmp_path: Path) -> None:
    job = client.submit(b"v", b"a")
    assert (job.id, job.status) == ("fc-0", "processing")
    later = Client.modal()
    assert later.wait(job.id).status == "succeeded"
    reported: list[tuple[int, int | None]] = []
    later.download(job.id, tmp_path / "o.mp4", lambda here, whole: reported.append((here, whole)))
    assert (tmp_path / "o.mp4").read_bytes() == VIDEO
    assert reported == [(len(VIDEO), len(VIDEO))]


def test_waiting_reports_the_states_and_ends_in_time(
    client: ModalClient, gate: threading.Event, tmp_path: Path
) -> None:
    job = client.submit(b"v", b"a")
    with pytest.raises(FetchTimeout, match="fc-0 has not ended"):
        client.wait(job, timeout_s=0.3)
    with pytest.raises(JobNotFound, match="no output"):
        client.download(job, tmp_path / "o.mp4")
    seen: list[str] = []
    events = client.events(job)
    assert next(events).data["status"] == "processing"
    gate.set()
    assert [event.data["status"] for event in events] == ["succeeded"]
    client.wait(job, on_progress=lambda one: seen.append(one.status))
    assert seen == ["succeeded"]


def test_a_running_job_is_canceled(client: ModalClient, gate: threading.Event) -> None:
    job = client.submit(b"v", b"a")
    assert client.cancel(job).status == "canceled"
    with pytest.raises(Canceled):
        client.wait(job).raise_for_status()
    assert client.cancel(job).status == "canceled"


def test_predict_waits(client: ModalClient) -> None:
    prediction = client.predict(b"v", b"a")
    assert (prediction.video, prediction.run_id) == (VIDEO, "fc-0")
    assert prediction.run_time_ms > 0


def result_with(status: str) -> Any:
    return api_pb2.GenericResult(
        status=getattr(api_pb2.GenericResult, f"GENERIC_STATUS_{status}"), exception="/srv/x.py"
    )


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("TIMEOUT", "DEADLINE_EXCEEDED"),
        ("INTERNAL_FAILURE", "WORKER_LOST"),
        ("FAILURE", "INTERNAL_ERROR"),
        ("KERNEL_OOM_KILL", "INTERNAL_ERROR"),
    ],
)
def test_what_the_platform_does_to_a_run_is_reported(
    client: ModalClient, plane: RunningPlane, status: str, code: str
) -> None:
    plane.predict = lambda **fields: result_with(status)
    failed = client.wait(client.submit(b"v", b"a"))
    assert failed.error is not None
    assert (failed.status, failed.error.code) == ("failed", code)
    assert "/srv" not in failed.error.message


def test_a_container_that_does_not_start_is_reported(
    client: ModalClient, plane: RunningPlane
) -> None:
    def predict(**fields: Any) -> None:
        raise RuntimeError("secret detail in /srv/private/engine.py")

    plane.predict = predict
    failed = client.wait(client.submit(b"v", b"a"))
    assert failed.error is not None
    assert failed.error.message.startswith("The container failed with RuntimeError")


def test_a_result_that_is_kept_no_more_is_not_found(
    client: ModalClient, plane: RunningPlane
) -> None:
    job = client.submit(b"v", b"a")
    plane.forgotten.add(job.id)
    with pytest.raises(JobNotFound, match="fc-0"):
        client.get(job)


def test_an_answer_of_another_kind_is_refused(client: ModalClient, plane: RunningPlane) -> None:
    plane.predict = lambda **fields: ["no", "video"]
    with pytest.raises(ServerError, match="did not return a video"):
        client.wait(client.submit(b"v", b"a"))


def test_unsupported_arguments_are_refused_on_modal(
    client: ModalClient, plane: RunningPlane
) -> None:
    with pytest.raises(InvalidField, match="webhook_url"):
        client.submit(b"v", b"a", webhook_url="https://a.example")
    with pytest.raises(InvalidField, match="idempotency_key"):
        client.submit(b"v", b"a", idempotency_key="k")
    with pytest.raises(InvalidRequest, match="cannot list"):
        client.list()
    with pytest.raises(InvalidField, match="inference_steps"):
        client.submit(b"v", b"a", inference_steps=51)
    assert plane.of("FunctionMap") == []


def test_an_app_that_is_not_deployed_is_reported(plane: RunningPlane) -> None:
    with pytest.raises(ServerError) as refused:
        Client.modal(app="other").submit(b"v", b"a")
    assert refused.value.server_code == "NOT_FOUND"
