"""Erasing jobs: what is gone, for whom, and who finishes what was begun."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from latentsync.errors import JobNotFound, OutputGone, StorageUnavailable, UploadNotFound
from latentsync.jobs.database import erasures, events, jobs
from latentsync.jobs.erasure import Erasure, is_erased
from latentsync.jobs.models import Job, JobStatus, Webhook
from latentsync.jobs.notifier import JobNotifier
from latentsync.jobs.queue import LOST_S, JobQueue
from latentsync.jobs.service import JobService, Submission, owner_of
from latentsync.jobs.storage import RESULTS
from latentsync.jobs.store import Finished
from latentsync.schema.run import PathSource, RunRequest, UrlSource
from latentsync.server.routes.predict import QueuedHandler, WaitingSlots
from latentsync.settings import Settings
from latentsync.worker.membership import WorkerRegistry
from tests.jobs.receiver import SECRET
from tests.jobs.records import Clock
from tests.server.clips import write_clip

ME, OTHER = owner_of("my key"), owner_of("another key")
PERSONAL = "passport-of-jane-doe"
WORKER = "w"


class Office:
    """A desk, and what a worker has: an erasure that finishes what others began."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = Settings(
            data_dir=folder / "data",
            work_dir=folder / "work",
            min_free_bytes=0,
            webhook_secret=SECRET,
        )
        self.service = JobService(self.settings)
        self.store, self.files = self.service.store, self.service.files
        self.clip = write_clip(folder / "clip.mp4")
        self._entrance = JobQueue(self.store.engine)
        self.clock = Clock()
        self.housekeeping = Erasure(self.store, self._entrance, self.files, self.clock)
        self.registry = WorkerRegistry(self.store.engine, WORKER)

    def submit(self, **names: Any) -> Job:
        """Hand in a job with a stored video and much that is personal."""
        request = RunRequest(
            PathSource(self.clip, "video"),
            UrlSource(f"https://example.com/{PERSONAL}.wav", "audio_url"),
        )
        webhook = Webhook(f"https://receiver.example/{PERSONAL}")
        (job,) = self.service.submit(
            [Submission(request, "asked", webhook=webhook, **names)],
            ME,
        )
        return job

    def begin(self, job: Job) -> Job:
        begun = self.store.begin(job.id, WORKER)
        assert begun is not None
        self.store.log(begun, f"fetch: brought {PERSONAL} here")
        return begun

    def succeed(self, job: Job) -> Job:
        """Run a job; its webhook's notice is in the line afterwards."""
        begun = self.begin(job)
        key = f"{RESULTS}/{job.id}/{uuid.uuid4().hex}.mp4"
        self.files.put(self.clip, key)
        details = {"engine": PERSONAL}
        done = Finished(JobStatus.SUCCEEDED, result_key=key, result_bytes=9, details=details)
        assert self.store.finish(begun, done)
        return begun

    def erase(self, job: Job) -> bool:
        return self.service.finish_erasure(self.service.begin_erasure(job.id, ME))

    def stored(self) -> list[Path]:
        root = self.folder / "data" / "files"
        return sorted(path for path in root.rglob("*") if path.is_file())

    def rows(self, told: str = "") -> dict[str, int]:
        """Return how many rows of each table hold a text."""
        tables = sa.MetaData()
        tables.reflect(self.store.engine)
        with self.store.engine.connect() as connection:
            return {
                table.name: number
                for table in tables.sorted_tables
                if (
                    number := sum(
                        told in json.dumps(tuple(row), default=str)
                        for row in connection.execute(sa.select(table))
                    )
                )
            }

    def notices(self, job: Job) -> dict[str, int]:
        """Return how many rows of each table are of a notice of the job; what it says is packed."""
        return self.rows(f"msg_{job.number}_{job.id}_")

    def close(self) -> None:
        self._entrance.close()
        self.service.close()


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    one = Office(tmp_path)
    yield one
    one.close()


def test_nothing_of_an_erased_job_is_left(office: Office) -> None:
    job = office.submit(idempotency_key=f"order of {PERSONAL}")
    office.succeed(job)
    assert office.rows(PERSONAL).keys() == {"latentsync_jobs", "latentsync_job_events"}
    assert len(office.notices(job)) >= 2  # the attempt, and what it is to send
    assert len(office.stored()) == 2
    assert office.erase(job)
    assert (office.rows(PERSONAL), office.notices(job), office.stored()) == ({}, {}, [])
    assert office.rows(job.id).keys() == {"latentsync_erasures"}
    with pytest.raises(JobNotFound):
        office.service.begin_erasure(job.id, ME)
    office.close()  # the last connection writes everything into the one file
    files = [path for path in (office.folder / "data").rglob("*") if path.is_file()]
    assert [path.name for path in files if PERSONAL.encode() in path.read_bytes()] == []


def test_a_job_that_waits_is_gone_at_once_and_no_webhook_tells_of_it(office: Office) -> None:
    job = office.submit()
    assert office.erase(job)
    assert (office.rows(PERSONAL), office.stored()) == ({}, [])
    assert office.store.begin(job.id, WORKER) is None


def test_only_its_owner_erases_a_job(office: Office) -> None:
    job = office.submit()
    for job_id, owner in ((job.id, OTHER), (str(uuid.uuid4()), ME), ("nothing", ME)):
        with pytest.raises(JobNotFound):
            office.service.begin_erasure(job_id, owner)
    assert office.service.job(job.id, ME).status is JobStatus.QUEUED


def test_the_names_of_an_erased_job_are_free_again(office: Office) -> None:
    names = {"id": str(uuid.uuid4()), "idempotency_key": "mine"}
    first = office.submit(**names)
    office.succeed(first)
    assert office.erase(first)
    second = office.submit(**names)
    assert (second.id, second.status) == (first.id, JobStatus.QUEUED)
    assert second.number > first.number
    office.housekeeping.resume()
    office.clock.now += 1e9
    office.housekeeping.resume()
    assert office.service.job(second.id, ME) == second
    assert len(office.stored()) == 1


def test_a_job_at_work_is_nobodys_at_once_and_goes_when_its_run_has_stopped(
    office: Office,
) -> None:
    assert office.registry.join("me", lambda _seconds: False)
    job = office.submit(idempotency_key="mine")
    begun = office.begin(job)
    number = office.service.begin_erasure(job.id, ME)
    assert not office.service.finish_erasure(number)
    with pytest.raises(JobNotFound):
        office.service.job(job.id, ME)
    assert office.store.list_of(ME) == []
    assert not office.store.is_wanted(begun)
    assert office.submit(idempotency_key="mine").id != job.id
    key = f"{RESULTS}/{job.id}/late.mp4"
    office.files.put(office.clip, key)
    assert office.store.finish(begun, Finished(JobStatus.SUCCEEDED, result_key=key))
    assert office.notices(job) == {}  # nobody is told
    assert office.service.finish_erasure(number)
    assert office.rows(job.id).keys() == {"latentsync_erasures"}
    assert len(office.stored()) == 1  # of the new job


def test_a_job_whose_worker_is_gone_does_not_wait_for_it(office: Office) -> None:
    job = office.submit()
    begun = office.begin(job)
    assert office.erase(job)
    assert office.rows(PERSONAL) == {}
    assert not office.store.report(begun, "generate", 0.5, 1, 2)


def test_an_erasure_that_was_broken_off_is_finished_by_a_worker(office: Office) -> None:
    made = [office.submit() for _ in range(3)]
    office.succeed(made[0])
    office.clock.now = 0.0
    numbers = [office.service.begin_erasure(job.id, ME) for job in made[:2]]
    office.housekeeping.resume()  # by its clock they were begun in the future: somebody is at it
    assert len(office.stored()) == 4
    office.clock.now = 1e12
    office.housekeeping.resume()
    assert all(is_erased(office.store.engine, number) for number in numbers)
    assert office.store.get(made[0].id) is office.store.get(made[1].id) is None
    assert len(office.stored()) == 1
    assert office.service.job(made[2].id, ME) == made[2]


@pytest.mark.parametrize("fault", [StorageUnavailable("away"), PermissionError("not yours")])
def test_files_that_cannot_go_delay_the_erasure_and_hide_nothing_less(
    office: Office, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    job = office.submit()
    office.succeed(job)

    def is_away(_key: str) -> None:
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr(office.files, "remove", is_away)
        assert not office.erase(job)
        office.clock.now = 1e12
        office.housekeeping.resume()
    recorded = office.store.get(job.id)
    assert recorded is not None
    assert (recorded.result_key, recorded.webhook) == (None, None)
    with pytest.raises(JobNotFound):
        office.service.job(job.id, ME)
    office.housekeeping.resume()
    assert (office.rows(PERSONAL), office.stored()) == ({}, [])


def test_what_was_written_just_after_goes_later(office: Office) -> None:
    job, other = office.submit(), office.submit()
    office.succeed(job)
    number = office.service.begin_erasure(job.id, ME)
    office.clock.now = 1e12
    office.housekeeping.finish(number)
    ended = Job(
        number, job.id, ME, JobStatus.SUCCEEDED, {}, "f", 1.0, finished_at=2.0, webhook=job.webhook
    )
    with office.store.engine.begin() as connection:
        office._entrance.webhooks.announce(connection, ended)
        for one in (job, other):
            late = {"job_id": one.id, "at": 3.0, "kind": "log", "data": {"line": "late"}}
            connection.execute(events.insert().values(late))
    assert office.notices(job) != {}
    office.clock.now += LOST_S - 1
    office.housekeeping.resume()
    assert is_erased(office.store.engine, number)
    office.clock.now += 2
    office.housekeeping.resume()
    assert (office.notices(job), office.rows(job.id)) == ({}, {})
    assert [event.kind for event in office.store.events(other.id)] == ["status", "log"]


def test_a_record_of_an_earlier_version_can_be_erased(office: Office) -> None:
    job = office.submit()
    webhook = {"url": f"https://receiver.example/{PERSONAL}", "events": ["failed"]}
    with office.store.engine.begin() as connection:
        erasures.drop(connection)
        connection.execute(jobs.update().values(webhook=webhook))
    later = JobService(office.settings)
    assert later.job(job.id, ME).webhook == Webhook(webhook["url"], ("failed",), None)
    assert later.finish_erasure(later.begin_erasure(job.id, ME))
    later.close()
    assert office.rows(PERSONAL) == {}


def test_a_video_that_was_erased_before_predict_could_send_it_is_gone(office: Office) -> None:
    job = office.submit()
    office.succeed(job)
    ended = office.service.job(job.id, ME)
    assert office.erase(job)
    door = QueuedHandler(office.service, JobNotifier(office.store.engine), WaitingSlots(1))
    with pytest.raises(OutputGone):
        door._finished(ended)


def test_an_upload_that_goes_while_it_is_used_is_not_there(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = office.service.store_upload(office.clip, ME)
    key = office.service.uploads.find(address, ME)
    monkeypatch.setattr(office.service.uploads, "find", lambda _address, _owner: key)
    office.files.remove(str(key))
    request = RunRequest(UrlSource(address, "video_url"), UrlSource("http://a.example/a", "audio"))
    with pytest.raises(UploadNotFound) as refused:
        office.service.submit([Submission(request, "asked")], ME)
    assert refused.value.field == "video_url"


def test_an_upload_is_removed_by_its_owner_alone(office: Office) -> None:
    address = office.service.store_upload(office.clip, ME)
    name = address.removeprefix("upload://")
    request = RunRequest(UrlSource(address, "video_url"), UrlSource(address, "audio_url"))
    for upload_id, owner in ((name, OTHER), ("0" * 32, ME), ("..", ME)):
        with pytest.raises(UploadNotFound):
            office.service.remove_upload(upload_id, owner)
    job = office.submit()
    office.service.remove_upload(name, ME)
    assert [path.parent.parent.name for path in office.stored()] == ["inputs"]
    assert office.service.job(job.id, ME) == job
    with pytest.raises(UploadNotFound):
        office.service.remove_upload(name, ME)
    with pytest.raises(UploadNotFound) as refused:
        office.service.submit([Submission(request, "asked")], ME)
    assert refused.value.field == "video_url"
