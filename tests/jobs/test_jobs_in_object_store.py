"""Whole jobs whose files lie in S3: no process shares a folder, and the store may fail."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from latentsync.errors import StorageUnavailable
from latentsync.jobs.models import Job, JobStatus
from latentsync.jobs.service import Submission
from latentsync.schema.run import RunOptions, RunRequest, UrlSource
from tests.jobs.farm import OWNER, Farm, farm, kill
from tests.jobs.object_store import BUCKET, ObjectStore, forget_clients, object_store
from tests.jobs.square_runner import PLAIN, SLOW
from tests.ports import free_port
from tests.server.live import answers
from tests.server.queues import offering, plays

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

STORAGE = f"s3://{BUCKET}/a/prefix"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    with object_store() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        forget_clients()
        yield server


@pytest.fixture
def lent(tmp_path: Path, store: ObjectStore) -> Iterator[Farm]:
    with farm(tmp_path, storage_url=STORAGE, allow_private_addresses=True) as one:
        yield one


def logged(lent: Farm, job: Job) -> str:
    return json.dumps([event.data for event in lent.service.store.events(job.id)])


def result_key(lent: Farm, job: Job) -> str:
    """Return where in the bucket the job's video must lie."""
    return f"a/prefix/{lent.job(job).result_key}"


def test_a_job_over_http_whose_processes_share_no_folder(
    lent: Farm, store: ObjectStore, tmp_path: Path
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    api = ("latentsync", "serve", "--no-worker", "--no-auth", "--port", str(port))
    lent.start("api", command=api, work_dir=tmp_path / "api")
    lent.start("w", work_dir=tmp_path / "worker")
    lent.wait_for(lambda: answers(url))
    with httpx.Client(base_url=f"{url}/v1", timeout=60) as caller:
        video = (tmp_path / "clip.mp4").read_bytes()
        upload = caller.post("/uploads", content=video).json()
        assert (upload["size_bytes"], len(store.stored())) == (len(video), 1)
        job = caller.post(
            "/predictions",
            data={"video_url": upload["url"]},
            files={"audio": ("speech.wav", (tmp_path / "speech.wav").read_bytes())},
            headers={"Prefer": "wait=60"},
        ).json()
        assert job["status"] == "succeeded", job
        output = f"/predictions/{job['id']}/output"
        whole = caller.get(output)
        part = caller.get(output, headers={"Range": "bytes=100-299"})
        end = caller.get(output, headers={"Range": "bytes=-50"})
    (tmp_path / "result.mp4").write_bytes(whole.content)
    assert plays(tmp_path / "result.mp4")
    assert (part.status_code, part.content) == (206, whole.content[100:300])
    assert (end.status_code, end.content) == (206, whole.content[-50:])
    lent.wait_for(lambda: len(store.stored()) == 2)  # the media are gone
    folders = {key.rsplit("/", 2)[0] for key in store.stored()}
    assert folders == {"a/prefix/uploads", "a/prefix/results"}
    assert [path.name for path in lent.settings.data_dir.iterdir() if path.is_dir()] == []
    assert [list((tmp_path / name).glob("*/*")) for name in ("api", "worker")] == [[], []]


def test_an_erased_job_and_a_removed_upload_leave_nothing(lent: Farm, store: ObjectStore) -> None:
    lent.start()
    upload = lent.service.store_upload(lent.folder / "clip.mp4", OWNER)
    done, running, waiting = (lent.submit(seed) for seed in (PLAIN, SLOW + 60_000, PLAIN))
    lent.wait_until_ended([done])
    lent.wait_for(lambda: lent.job(running).status is JobStatus.PROCESSING)
    assert len(store.stored()) >= 6
    for job in (done, running, waiting):
        number = lent.service.begin_erasure(job.id, OWNER)
        lent.wait_for(lambda number=number: lent.service.finish_erasure(number))
    lent.service.remove_upload(upload.removeprefix("upload://"), OWNER)
    assert store.stored() == set()


def test_a_finished_video_waits_for_a_store_that_is_away(lent: Farm, store: ObjectStore) -> None:
    with offering(lent.folder) as media:  # by address: the store is first needed at the end
        sources = UrlSource(f"{media}/clip.mp4", "video"), UrlSource(f"{media}/speech.wav", "audio")
        request = RunRequest(*sources, RunOptions(seed=PLAIN))
        (job,) = lent.service.submit([Submission(request, "asked")], OWNER)
        store.go_away()
        lent.start()
        lent.wait_for(lambda: "the store of files failed" in lent.log())
        store.come_back()
        (ended,) = lent.wait_until_ended([job])
    assert (ended.status, ended.attempts) == (JobStatus.SUCCEEDED, 1)
    lent.wait_for(lambda: store.stored() == {result_key(lent, job)})


def test_a_job_waits_while_its_media_cannot_be_read(lent: Farm, store: ObjectStore) -> None:
    job = lent.submit(PLAIN)
    store.go_away()
    lent.start()
    lent.wait_for(lambda: "could not reach the store" in logged(lent, job))
    store.come_back()
    (ended,) = lent.wait_until_ended([job])
    assert (ended.status, ended.attempts) == (JobStatus.SUCCEEDED, 2)


def test_a_job_that_waits_for_the_store_can_be_canceled(lent: Farm, store: ObjectStore) -> None:
    job = lent.submit(PLAIN)
    store.go_away()
    lent.start()
    lent.wait_for(lambda: "could not reach the store" in logged(lent, job))
    lent.service.cancel(job.id, OWNER)
    lent.wait_for(lambda: lent.job(job).status is JobStatus.CANCELED)


def test_a_worker_that_is_refused_costs_no_job(
    lent: Farm, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = lent.submit(PLAIN)
    with monkeypatch.context() as patched:
        patched.setenv("AWS_SECRET_ACCESS_KEY", "one-that-was-mistyped")
        refused = lent.start()
    lent.wait_for(lambda: "could not reach the store" in logged(lent, job))
    kill(refused)
    lent.start()
    (ended,) = lent.wait_until_ended([job])
    assert ended.status is JobStatus.SUCCEEDED
    assert "one-that-was-mistyped" not in lent.log()
    lent.wait_for(lambda: store.stored() == {result_key(lent, job)})


def test_nothing_is_accepted_that_cannot_be_stored(lent: Farm, store: ObjectStore) -> None:
    store.go_away()
    with pytest.raises(StorageUnavailable):
        lent.submit(PLAIN)
    assert lent.service.store.waiting() == []
    store.come_back()
    job = lent.submit(PLAIN)
    lent.start()
    (ended,) = lent.wait_until_ended([job])
    assert ended.status is JobStatus.SUCCEEDED
