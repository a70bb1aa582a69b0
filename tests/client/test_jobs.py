"""Jobs through both clients, against a real server with a real worker."""

from __future__ import annotations

import asyncio
import inspect
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from latentsync import AsyncClient, Client, Job, JobEvent
from latentsync.client import JobStatus, ModalClient, Options, Segment
from latentsync.errors import Canceled, FetchTimeout, InvalidField, ServerError, UnknownField
from latentsync.jobs import models as record
from latentsync.jobs import schemas
from latentsync.monitor import Progress
from latentsync.schema.predict import PredictRequest
from tests.client.either import KINDS, client_of
from tests.client.service import OTHER_KEY, Service
from tests.jobs import square_runner
from tests.server.live import KEY

pytestmark = pytest.mark.processes

LONG = square_runner.SLOW + 60_000


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, service: Service) -> Iterator[Any]:
    with client_of(request.param, service.url, KEY) as lent:
        yield lent


def test_a_job_is_submitted_followed_and_downloaded(
    client: Any, service: Service, tmp_path: Path
) -> None:
    job = client.submit(*service.media, seed=square_runner.SLOW + 300)
    assert (job.status, job.is_final) == ("queued", False)
    seen: list[Job] = []
    done = client.wait(job, on_progress=seen.append)
    assert done.status == "succeeded"
    assert done.details.seed == square_runner.SLOW + 300
    assert (done.progress.fraction, done.queue_position, done.error) == (1.0, None, None)
    assert done.created_at <= done.started_at <= done.finished_at
    assert seen[-1] == done
    target = tmp_path / "new" / "result.mp4"
    reported: list[tuple[int, int | None]] = []
    assert client.download(job, str(target), lambda here, whole: reported.append((here, whole)))
    size_bytes = target.stat().st_size
    assert reported[-1] == (size_bytes, size_bytes)
    assert target.read_bytes()[4:8] == b"ftyp"
    assert list(target.parent.iterdir()) == [target]


def test_a_download_never_leads_the_key_to_another_host(
    client: Any, service: Service, tmp_path: Path
) -> None:
    job = client.wait(client.submit(*service.media))
    assert job.output_url == f"{service.url}/v1/predictions/{job.id}/output"
    reported = [f"/v1/predictions/{job.id}/output", "http://127.0.0.1:1/elsewhere", None]
    for number, url in enumerate(reported):
        one = job.model_copy(update={"output_url": url})
        path = client.download(one, tmp_path / f"{number}.mp4")
        assert path.read_bytes()[4:8] == b"ftyp"


def test_progress_never_decreases_in_a_late_stream(client: Any, service: Service) -> None:
    job = client.submit(*service.media, seed=square_runner.SLOW + 1200)
    for event in client.events(job):
        if event.kind == "progress":
            break
    seen: list[Job] = []
    client.wait(job.id, on_progress=seen.append)
    fractions = [one.progress.fraction for one in seen]
    assert fractions == sorted(fractions)
    assert "queued" not in [one.status for one in seen]
    assert len(set(map(repr, seen))) == len(seen)


def test_events_tell_the_whole_story_in_order(client: Any, service: Service) -> None:
    job = client.submit(*service.media)
    events = [event for event in client.events(job) if event.number is not None]
    states = [event.data["status"] for event in events if event.kind == "status"]
    assert states == ["queued", "processing", "succeeded"]
    numbers = [event.number for event in events]
    assert numbers == sorted(set(numbers))
    assert {event.kind for event in events} >= {"status", "progress"}
    assert events[-1].ends_job
    assert list(client.events(job, numbers[1])) == events[2:]
    assert list(client.events(job, numbers[-1])) == []


def test_media_may_be_names_or_bytes(client: Any, service: Service) -> None:
    video, audio = service.media
    job = client.submit(
        str(video),
        audio.read_bytes(),
        guidance_scale=2.0,
        sync_mode="loop",
        speaker={"frame": 0, "point": [3, 4]},
        guidance_interval=(0.25, 1.0),
        deadline_s=60.0,
        engine=None,
    )
    details = client.wait(job).raise_for_status().details
    assert (details.guidance_scale, details.sync_mode) == (2.0, "loop")
    assert details.guidance_interval == (0.25, 1.0)


def test_a_medium_may_be_a_url_and_the_other_a_file(client: Any, service: Service) -> None:
    job = client.submit("http://127.0.0.1:1/clip.mp4", service.audio)
    failed = client.wait(job)
    assert (failed.status, failed.error.code) == ("failed", "URL_UNREACHABLE")
    with pytest.raises(ServerError, match="video_url") as raised:
        failed.raise_for_status()
    assert raised.value.server_code == "URL_UNREACHABLE"
    assert raised.value.field == "video_url"
    both = client.submit("http://127.0.0.1:1/clip.mp4", "http://127.0.0.1:1/speech.wav")
    assert client.wait(both).error.code == "URL_UNREACHABLE"


def test_segments_have_files_or_share_one(client: Any, service: Service, tmp_path: Path) -> None:
    video, audio = service.media
    own = [
        Segment(audio, end_s=0.2, speaker={"frame": 0, "point": [3, 4]}),
        Segment(audio.read_bytes(), start_s=0.24, audio_start_s=0.28),
    ]
    job = client.submit(video, segments=own, keep_sound=False)
    details = client.wait(job).raise_for_status().details
    assert [(one.start_s, one.end_s) for one in details.segments] == [(0.0, 0.2), (0.24, 0.36)]
    assert details.frames == 10
    assert client.download(job, tmp_path / "o.mp4").read_bytes()[4:8] == b"ftyp"
    shared = [Segment(end_s=0.2), Segment(start_s=0.2)]
    details = client.predict(video, audio, segments=shared).details
    assert [(one.start_s, one.end_s) for one in details.segments] == [(0.0, 0.2), (0.2, 0.6)]


def test_a_running_job_is_canceled(client: Any, service: Service, tmp_path: Path) -> None:
    job = client.submit(*service.media, seed=LONG)
    behind = client.submit(*service.media, seed=LONG)
    assert client.get(behind).queue_position is not None
    assert client.cancel(behind).status == "canceled"
    for event in client.events(job):
        if event.kind == "progress":
            break
    client.cancel(job)
    ended = client.wait(job, timeout_s=60)
    assert ended.status == "canceled"
    with pytest.raises(Canceled, match=job.id):
        ended.raise_for_status()
    with pytest.raises(ServerError, match="no output") as refused:
        client.download(job, tmp_path / "o.mp4")
    assert (refused.value.server_status, refused.value.server_code) == (409, "NO_OUTPUT")
    assert list(tmp_path.iterdir()) == []


def test_waiting_ends_in_time_and_the_job_continues(client: Any, service: Service) -> None:
    job = client.submit(*service.media, seed=LONG)
    with pytest.raises(FetchTimeout, match=r"after 0\.3 s") as late:
        client.wait(job, timeout_s=0.3)
    assert late.value.field == "timeout_s"
    assert not client.get(job).is_final
    client.cancel(job)


def test_any_number_may_wait_at_once(service: Service) -> None:
    async def wait_together() -> list[Job]:
        async with AsyncClient(service.url, KEY) as client:
            job = await client.submit(*service.media, seed=LONG)
            reached: set[int] = set()
            waiting = [
                asyncio.create_task(client.wait(job, on_progress=lambda _job, n=n: reached.add(n)))
                for n in range(120)
            ]
            while len(reached) < len(waiting):
                await asyncio.sleep(0.05)
            await client.cancel(job)
            return await asyncio.gather(*waiting)

    ended = asyncio.run(wait_together())
    assert {job.status for job in ended} == {"canceled"}


def test_the_same_key_is_the_same_job(client: Any, service: Service) -> None:
    key = f"order {uuid.uuid4()}"
    first = client.submit(*service.media, idempotency_key=key)
    with client_of("blocking", service.url, KEY) as later:
        assert later.submit(*service.media, idempotency_key=key).id == first.id
        with pytest.raises(ServerError) as other:
            later.submit(*service.media, seed=3, idempotency_key=key)
    assert (other.value.server_status, other.value.server_code) == (409, "IDEMPOTENCY_CONFLICT")
    assert client.submit(*service.media).id != first.id


def test_an_erased_job_is_no_more(client: Any, service: Service) -> None:
    job = client.submit(*service.media, seed=LONG)
    assert client.delete(job) is True
    assert job.id not in [one.id for one in client.list(limit=100).jobs]
    with pytest.raises(ServerError) as refused:
        client.get(job.id)
    assert refused.value.server_code == "JOB_NOT_FOUND"
    assert inspect.signature(AsyncClient.delete) == inspect.signature(Client.delete)


def test_the_list_comes_in_pages(client: Any, service: Service) -> None:
    jobs = [client.submit(*service.media).id for _ in range(3)]
    page = client.list(limit=2)
    assert [job.id for job in page] == [job.id for job in page.jobs] == jobs[:0:-1]
    assert len(page) == 2
    assert client.list(limit=1, cursor=page.next_cursor).jobs[0].id == jobs[0]
    for job in jobs:
        client.wait(job)
    assert {job.status for job in client.list("succeeded").jobs} == {"succeeded"}


def test_a_job_of_another_key_is_not_found(client: Any, service: Service, tmp_path: Path) -> None:
    job = client.submit(*service.media)
    client.wait(job)
    with client_of("blocking", service.url, OTHER_KEY) as other:
        assert job.id not in [one.id for one in other.list(limit=100).jobs]
        for call in (
            other.get,
            other.cancel,
            other.delete,
            other.wait,
            lambda one: list(other.events(one)),
        ):
            with pytest.raises(ServerError) as refused:
                call(job)
            assert refused.value.server_code == "JOB_NOT_FOUND"
        with pytest.raises(ServerError):
            other.download(job, tmp_path / "o.mp4")
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_server_keeps_its_code_and_field(client: Any, service: Service) -> None:
    with pytest.raises(ServerError) as refused:
        client.submit(b"not a video", service.audio)
    assert refused.value.server_status == 422
    assert (refused.value.server_code, refused.value.field) == ("MEDIA_UNREADABLE", "video")
    with pytest.raises(ServerError) as refused:
        client.submit(*service.media, webhook_url="gopher://a.example")
    assert refused.value.field == "webhook"


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"video": "no.mp4"}, "video"),
        ({"audio": Path("/")}, "audio"),
        ({"video": "/dev/null"}, "video"),
        ({"inference_steps": 51}, "inference_steps"),
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"idempotency_key": "ключ"}, "idempotency_key"),
        ({"idempotency_key": "a\nb"}, "idempotency_key"),
    ],
)
def test_invalid_requests_are_refused_before_anything_is_sent(
    client: Any, changed: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidField) as refused:
        client.submit(**{"video": b"v", "audio": b"a", **changed})
    assert refused.value.field == field


def test_a_misspelt_option_is_named(client: Any) -> None:
    with pytest.raises(UnknownField, match="guidance"):
        client.submit(b"v", b"a", guidance=2.0)


@pytest.mark.parametrize("job_id", ["", "../x", "a/b", "x?y", "ä"])
def test_an_id_that_cannot_be_one_is_not_asked_for(client: Any, job_id: str) -> None:
    with pytest.raises(InvalidField, match="job is"):
        client.get(job_id)


def test_jobs_are_parsed_as_the_server_sends_them() -> None:
    assert Job.model_fields.keys() == schemas.Prediction.model_fields.keys()
    assert set(get_args(JobStatus)) == {status.value for status in record.JobStatus}
    for status in record.JobStatus:
        assert Job(id="x", status=status.value).is_final is status.is_final


def test_the_options_are_those_of_the_request() -> None:
    media = {"video_url", "video_base64", "audio_url", "audio_base64", "segments"}
    assert set(Options.__annotations__) == PredictRequest.model_fields.keys() - media


@pytest.mark.parametrize("other", [AsyncClient, ModalClient])
@pytest.mark.parametrize(
    "verb", ["predict", "submit", "wait", "events", "get", "list", "cancel", "download", "close"]
)
def test_every_client_has_the_same_verbs(other: type, verb: str) -> None:
    expected = inspect.signature(getattr(Client, verb)).parameters
    assert inspect.signature(getattr(other, verb)).parameters == expected


def test_a_job_that_is_in_its_first_stage_is_not_begun_again_by_its_past() -> None:
    fetching = Job(id="x", status="processing", attempts=1, progress=Progress("fetch", 0.0))
    begun = JobEvent("status", {"status": "processing", "attempt": 1}, 2)
    assert fetching.after(begun) == fetching
    again = fetching.after(JobEvent("status", {"status": "processing", "attempt": 2}, 9))
    assert (again.attempts, again.progress.stage) == (2, "")


def test_an_event_that_a_newer_server_adds_changes_nothing() -> None:
    job = Job(id="x", status="processing", attempts=1)
    assert job.after(JobEvent("weather", {"status": "sunny"}, 7)) == job
