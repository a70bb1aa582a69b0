"""The record: what each change allows, refuses, and leaves behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from latentsync.errors import DiskFull
from latentsync.jobs.database import jobs, open_database, translate_database_full
from latentsync.jobs.models import Job, JobError, JobStatus, NewJob, Webhook
from latentsync.jobs.store import Finished, JobStore
from tests.jobs.farm import REPOSITORY
from tests.jobs.records import OWNER, Clock, add, new_job, record

DONE = Finished(JobStatus.SUCCEEDED, result_key="results/x", result_bytes=7, details={"frames": 2})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[JobStore]:
    engine = open_database(f"sqlite:///{tmp_path / 'jobs.db'}")
    yield JobStore(engine, clock)
    engine.dispose()


def begin(store: JobStore, job: Job) -> Job:
    begun = store.begin(job.id, "host")
    assert begun is not None
    return begun


def get(store: JobStore, job: Job) -> Job:
    found = store.get(job.id)
    assert found is not None
    return found


def test_a_job_is_read_as_it_was_recorded(store: JobStore, clock: Clock) -> None:
    hook = Webhook("https://example.com/hook", ("failed",))
    job = add(store, idempotency_key="key", webhook=hook, input_bytes=5)
    assert store.get(job.id) == job == store.find_submission(OWNER, "key")
    assert (job.status, job.webhook, job.created_at) == (JobStatus.QUEUED, hook, clock.now)
    assert store.get("none") is None
    assert store.find_submission("other", "key") is None


def test_jobs_are_recorded_all_or_none_with_what_is_written_alongside(store: JobStore) -> None:
    one = new_job(idempotency_key="key")
    with pytest.raises(IntegrityError):
        record(store, one, new_job(idempotency_key="key"))
    assert store.get(one.id) is None

    def fail(_connection: sa.Connection, _job: NewJob, _number: int) -> None:
        raise RuntimeError("no line")

    with pytest.raises(RuntimeError):
        record(store, one, alongside=fail)
    assert store.get(one.id) is None


def test_the_same_idempotency_key_may_serve_two_owners(store: JobStore) -> None:
    assert add(store, idempotency_key="key").id != add(store, "b", idempotency_key="key").id


def test_numbers_rise_and_are_told_alongside(store: JobStore) -> None:
    told: list[int] = []
    jobs = record(
        store, new_job(), new_job(), alongside=lambda _c, _job, number: told.append(number)
    )
    assert [job.number for job in jobs] == told == sorted(told)


def test_the_place_in_the_line_is_exact(store: JobStore) -> None:
    jobs = [add(store) for _ in range(3)]
    assert [store.position(job) for job in jobs] == [0, 1, 2]
    begin(store, jobs[0])
    assert store.position(get(store, jobs[0])) is None
    assert [store.position(job) for job in jobs[1:]] == [0, 1]
    assert [job.id for job in store.waiting()] == [job.id for job in jobs[1:]]


def test_lists_show_an_owners_jobs_latest_first_page_by_page(store: JobStore) -> None:
    jobs = [add(store) for _ in range(5)]
    add(store, "other")
    first = store.list_of(OWNER, limit=2)
    second = store.list_of(OWNER, limit=10, before=first[-1].number)
    assert [job.id for job in [*first, *second]] == [job.id for job in reversed(jobs)]
    store.cancel(jobs[1].id)
    assert [job.id for job in store.list_of(OWNER, status=JobStatus.CANCELED)] == [jobs[1].id]


def test_loads_count_what_waits_and_runs(store: JobStore) -> None:
    jobs = [add(store, input_bytes=10) for _ in range(3)]
    add(store, "other", input_bytes=1)
    begin(store, jobs[0])
    store.cancel(jobs[1].id)
    load = store.load(OWNER)
    assert (load.jobs, load.input_bytes) == (2, 20)
    assert store.count()[JobStatus.CANCELED] == 1


def test_only_the_latest_attempt_may_report_and_finish(store: JobStore) -> None:
    job = add(store)
    first, second = begin(store, job), begin(store, job)
    assert (first.attempts, second.attempts) == (1, 2)
    assert not store.report(first, "generate", 0.5, 1, 2)
    assert not store.finish(first, DONE)
    assert store.is_wanted(second)
    assert not store.is_wanted(first)
    assert store.report(second, "generate", 0.5, 1, 2)
    assert store.finish(second, DONE)
    ended = get(store, job)
    assert (ended.status, ended.result_key, ended.fraction) == (JobStatus.SUCCEEDED, "results/x", 1)


def test_an_attempt_of_an_erased_job_ends_no_later_job_of_its_id(store: JobStore) -> None:
    erased = begin(store, add(store))
    with store.engine.begin() as connection:
        connection.execute(jobs.delete().where(jobs.c.number == erased.number))
    later = begin(store, add(store, id=erased.id))
    assert (later.attempts, later.status) == (erased.attempts, erased.status)
    assert not store.is_wanted(erased)
    assert not store.report(erased, "generate", 0.5, 1, 2)
    assert not store.finish(erased, DONE)
    assert get(store, later).status is JobStatus.PROCESSING


def test_a_succeeded_job_is_told_to_have_all_its_frames(store: JobStore) -> None:
    job = begin(store, add(store))
    store.report(job, "write", 0.9, 1, 2)
    store.finish(job, DONE)
    ended = get(store, job)
    assert (ended.frames_done, ended.frames_total) == (2, 2)
    *_, progress, _status = store.events(job.id)
    whole = {"stage": "write", "fraction": 1.0, "frames_done": 2, "frames_total": 2}
    assert (progress.kind, progress.data) == ("progress", whole)
    failed = begin(store, add(store))
    store.report(failed, "write", 0.9, 1, 2)
    store.finish(failed, Finished(JobStatus.FAILED))
    assert (get(store, failed).frames_done, get(store, failed).fraction) == (1, 0.9)


def test_an_ended_job_never_changes_again(store: JobStore) -> None:
    job = begin(store, add(store))
    error = JobError("NO_FACE", "No face.", 422, "video_url")
    assert store.finish(job, Finished(JobStatus.FAILED, error=error))
    ended = get(store, job)
    assert ended.error == error
    assert not store.finish(job, DONE)
    assert store.begin(job.id, "other") is None
    store.cancel(job.id)
    assert get(store, job) == ended


def test_of_many_that_finish_one_job_at_once_one_does(store: JobStore) -> None:
    job = begin(store, add(store))
    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(lambda _: store.finish(job, DONE), range(8)))
    assert sum(won) == 1
    told = [event for event in store.events(job.id) if event.data.get("status") == "succeeded"]
    assert len(told) == 1


def test_waiting_jobs_are_canceled_at_once_and_running_ones_asked(store: JobStore) -> None:
    waiting, running = add(store), begin(store, add(store))
    canceled = store.cancel(waiting.id)
    assert canceled is not None
    assert canceled.status is JobStatus.CANCELED
    assert store.begin(waiting.id, "host") is None
    asked = store.cancel(running.id)
    assert asked is not None
    assert (asked.status, asked.cancel_requested) == (JobStatus.PROCESSING, True)
    assert not store.is_wanted(running)
    assert store.cancel("none") is None


def test_an_attempt_that_is_handed_back_does_not_count(store: JobStore) -> None:
    job = add(store)
    stale, current = begin(store, job), begin(store, job)
    store.undo_attempt(stale)
    assert get(store, job).attempts == 2
    store.undo_attempt(current)
    assert begin(store, job).attempts == 2


def test_events_are_told_in_order_and_can_be_continued(store: JobStore) -> None:
    job = begin(store, add(store))
    store.report(job, "generate", 0.5, 1, 2)
    store.log(job, "line")
    store.finish(job, DONE)
    events = store.events(job.id)
    kinds = ["status", "status", "progress", "log", "progress", "status"]
    assert [event.kind for event in events] == kinds
    assert store.events(job.id, after=events[2].number) == events[3:]
    assert store.events(job.id, limit=2) == events[:2]


def test_lines_of_what_counts_no_more_are_left_out(store: JobStore) -> None:
    job = add(store)
    store.log(job, "waits")
    first = begin(store, job)
    store.log(job, "waited")
    second = begin(store, job)
    store.log(first, "was overtaken")
    store.log(second, "one", "two")
    assert store.finish(second, DONE)
    store.log(second, "has ended")
    lines = [event.data["line"] for event in store.events(job.id) if event.kind == "log"]
    assert lines == ["waits", "one", "two"]


def test_a_full_database_refuses_and_keeps_what_it_has(store: JobStore) -> None:
    kept = add(store)
    with store.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    store.engine.dispose()

    @sa.event.listens_for(store.engine, "connect")
    def limit(connection: object, _record: object) -> None:
        connection.execute(f"PRAGMA max_page_count={pages}")  # type: ignore[attr-defined]

    def fill() -> None:
        with translate_database_full():
            for _ in range(100):
                add(store)

    with pytest.raises(DiskFull):
        fill()
    assert store.get(kept.id) == kept


@pytest.mark.processes
def test_processes_that_start_at_once_agree_on_the_tables(tmp_path: Path) -> None:
    script = (
        "import sys; from latentsync.jobs.database import open_database;"
        "from latentsync.jobs.queue import migrate_queue; sys.stdin.read(1);"
        "migrate_queue(open_database(sys.argv[1]))"
    )
    command = [sys.executable, "-c", script, f"sqlite:///{tmp_path / 'jobs.db'}"]
    started = [subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE) for _ in range(3)]
    for process in started:
        assert process.stdin is not None
        process.stdin.write(b"x")
        process.stdin.close()
    assert [process.wait(100) for process in started] == [0, 0, 0]
