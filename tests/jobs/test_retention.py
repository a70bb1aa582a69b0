"""What is removed when, and what is never removed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from latentsync.jobs.database import open_database
from latentsync.jobs.disk_space import stored_bytes
from latentsync.jobs.models import Job, JobStatus
from latentsync.jobs.queue import JobQueue
from latentsync.jobs.retention import STRAY_S, Retention
from latentsync.jobs.storage import INPUTS, RESULTS, UPLOADS, Storage
from latentsync.jobs.store import Finished, JobStore
from latentsync.settings import Settings
from tests.jobs.records import Clock, new_job, record

KEEP_S = 86_400.0


class House:
    """A record, files and what keeps them in order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engine = open_database(f"sqlite:///{folder / 'jobs.db'}")
        self.queue = JobQueue(self.engine)
        self.clock = Clock()
        self.store = JobStore(self.engine, self.clock)
        self.files = Storage(str(folder / "files"))

    def cleanup(self, **settings: Any) -> None:
        changed = Settings(keep_results_s=KEEP_S, **settings)
        Retention(self.store, self.queue, self.files, changed, self.clock).cleanup()

    def put(self, key: str, size_bytes: int = 10) -> str:
        """Store a file that is as old as the clock says."""
        source = self.folder / "source"
        source.write_bytes(b"x" * size_bytes)
        self.files.put(source, key)
        path = self.folder / "files" / key
        for part in (path, path.parent):
            os.utime(part, (self.clock.now, self.clock.now))
        return key

    def submit(self, size_bytes: int = 10) -> Job:
        """Record a job with a stored video."""
        new = new_job(input_bytes=size_bytes)
        new.request["video"] = {"key": f"{INPUTS}/in-{new.id}/video", "name": "video_url"}
        self.put(new.request["video"]["key"], size_bytes)
        return record(self.store, new, alongside=self.queue.put)[0]

    def finish(self, job: Job, size_bytes: int = 10) -> Job:
        """End a job with a result; its media stay, as if the worker had died right after."""
        key = self.put(f"{RESULTS}/{job.id}/result.mp4", size_bytes)
        begun = self.store.begin(job.id, "host")
        assert begun is not None
        done = Finished(JobStatus.SUCCEEDED, result_key=key, result_bytes=size_bytes)
        assert self.store.finish(begun, done)
        return job

    def all_files(self) -> list[str]:
        root = self.folder / "files"
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())

    def knows(self, job: Job) -> bool:
        return self.store.get(job.id) is not None


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    one = House(tmp_path)
    yield one
    one.queue.close()
    one.engine.dispose()


def test_ended_jobs_are_forgotten_with_all_their_files(house: House) -> None:
    job, waiting = house.finish(house.submit()), house.submit()
    house.clock.now += KEEP_S - 1
    house.cleanup()
    assert house.knows(job)
    house.clock.now += 2
    house.cleanup()
    assert not house.knows(job)
    assert house.store.events(job.id) == []
    assert house.all_files() == [waiting.request["video"]["key"]]
    assert house.knows(waiting)


def test_the_line_forgets_with_the_record(house: House) -> None:
    house.finish(house.submit())
    waiting = house.submit()
    house.clock.now += KEEP_S + 1
    house.cleanup()
    with house.engine.connect() as connection:
        known = connection.execute(sa.text("SELECT workflow_uuid FROM workflow_status"))
        assert known.scalars().all() == [waiting.id]


def test_a_job_whose_files_are_gone_already_is_forgotten(house: House) -> None:
    job = house.finish(house.submit())
    house.files.remove(f"{RESULTS}/{job.id}")
    house.clock.now += KEEP_S + 1
    house.cleanup()
    assert not house.knows(job)


def test_unused_uploads_are_removed_when_they_are_old(house: House) -> None:
    house.put(f"{UPLOADS}/old/owner")
    house.clock.now += KEEP_S + 1
    kept = house.put(f"{UPLOADS}/young/owner")
    house.cleanup()
    assert house.all_files() == [kept]


def test_too_many_bytes_take_the_results_that_ended_first(house: House) -> None:
    jobs = []
    for _ in range(4):
        jobs.append(house.finish(house.submit(), 100))
        house.clock.now += 1
    waiting = house.submit(50)
    house.put(f"{UPLOADS}/one/owner", 30)
    assert stored_bytes(house.store, house.files) == 4 * 100 + 50 + 30
    house.cleanup(max_stored_bytes=480)
    assert [house.knows(job) for job in jobs] == [True] * 4
    house.cleanup(max_stored_bytes=479)
    assert [house.knows(job) for job in jobs] == [False, True, True, True]
    house.cleanup(max_stored_bytes=200)
    assert [house.knows(job) for job in jobs] == [False, False, False, True]
    house.cleanup(max_stored_bytes=1)
    assert house.knows(waiting)  # accepted work is never thrown away
    assert waiting.request["video"]["key"] in house.all_files()
    assert f"{UPLOADS}/one/owner" in house.all_files()


def test_files_that_belong_to_no_job_are_removed_after_a_while(house: House) -> None:
    job, waiting = house.finish(house.submit()), house.submit()
    house.put(f"{INPUTS}/lost/video")  # the process died before it recorded the job
    house.put(f"{RESULTS}/forgotten/result.mp4.part")
    house.clock.now += STRAY_S - 1
    house.cleanup()
    assert len(house.all_files()) == 5
    house.clock.now += 2
    house.cleanup()
    mine = [f"{RESULTS}/{job.id}/result.mp4", waiting.request["video"]["key"]]
    assert house.all_files() == sorted(mine)
