"""Two workers that share a Postgres and a file store: what one loses the other finishes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from latentsync.jobs.models import Job, JobStatus
from tests.jobs.farm import OWNER, Farm, farm, kill
from tests.jobs.postgres import postgres
from tests.jobs.square_runner import GATED, HANGS, PLAIN, SLOW

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def lent(tmp_path: Path) -> Iterator[Farm]:
    with postgres() as url, farm(tmp_path, database_url=url) as one:
        yield one


def worker_of(lent: Farm, job: Job) -> str | None:
    now = lent.job(job)
    return now.host if now.status is JobStatus.PROCESSING and now.stage else None


def test_the_job_of_a_dead_machine_is_finished_by_another(lent: Farm) -> None:
    workers = {name: lent.start(name, work_dir=lent.folder / name) for name in "ab"}
    jobs = [lent.submit(SLOW + 8000), lent.submit(SLOW + 8000)]
    lent.wait_for(lambda: all(worker_of(lent, job) for job in jobs))
    dead = worker_of(lent, jobs[0])
    assert {worker_of(lent, job) for job in jobs} == {"a", "b"}
    assert dead is not None
    kill(workers[dead])
    killed_at = time.time()
    ended = lent.wait_until_ended(jobs)
    assert {job.status for job in ended} == {JobStatus.SUCCEEDED}
    assert ended[0].finished_at is not None
    assert ended[0].finished_at - killed_at < 60
    assert [job.attempts for job in ended] == [2, 1]
    assert [len(lent.results(job)) for job in jobs] == [1, 1]


def test_a_machine_that_leaves_is_not_waited_for(lent: Farm) -> None:
    first = lent.start("a")
    job = lent.submit(GATED)
    lent.wait_for(lambda: worker_of(lent, job) == "a")
    lent.start("b")
    lent.wait_for(lambda: "worker b takes jobs" in lent.log())
    first.terminate()
    assert first.wait(30) == 0
    lent.open_gate()
    (ended,) = lent.wait_until_ended([job])
    assert (ended.status, ended.host, ended.attempts) == (JobStatus.SUCCEEDED, "b", 1)


def test_two_workers_make_every_job_once_in_their_order(lent: Farm) -> None:
    for name in "ab":
        lent.start(name)
    jobs = [lent.submit(PLAIN) for _ in range(30)]
    ended = lent.wait_until_ended(jobs)
    assert {(job.status, job.attempts) for job in ended} == {(JobStatus.SUCCEEDED, 1)}
    assert {job.host for job in ended} == {"a", "b"}
    for host in "ab":
        begun = [job.started_at for job in ended if job.host == host]
        assert begun == sorted(begun, key=lambda at: at or 0.0)
    assert [len(lent.results(job)) for job in jobs] == [1] * len(jobs)


def test_a_running_job_is_stopped_in_time(lent: Farm) -> None:
    job = lent.submit(HANGS)
    lent.start("a")
    lent.wait_for(lambda: worker_of(lent, job) == "a")
    lent.service.cancel(job.id, OWNER)
    assert lent.wait_for(lambda: lent.job(job).status is JobStatus.CANCELED) < 2.0


def test_jobs_are_erased_wherever_they_are(lent: Farm) -> None:
    lent.start("one")
    done, running, waiting = (lent.submit(seed) for seed in (PLAIN, SLOW + 60_000, PLAIN))
    lent.wait_for(lambda: lent.job(running).status is JobStatus.PROCESSING)
    for job in (done, running, waiting):
        number = lent.service.begin_erasure(job.id, OWNER)
        lent.wait_for(lambda number=number: lent.service.finish_erasure(number))
        assert lent.service.store.get(job.id) is None
        assert lent.service.store.events(job.id) == []
        assert lent.results(job) == []
    assert lent.media() == []


def test_a_name_is_one_machines_until_its_worker_has_been_silent(lent: Farm) -> None:
    here, there = lent.folder / "here", lent.folder / "there"
    first = lent.start("a", work_dir=here)
    job = lent.submit(GATED)
    lent.wait_for(lambda: worker_of(lent, job) == "a")
    second = lent.start("a", work_dir=there)
    assert second.wait(30) != 0
    assert "A worker named 'a' runs on another machine" in lent.log()
    assert (lent.job(job).status, lent.job(job).attempts) == (JobStatus.PROCESSING, 1)
    kill(first)
    lent.open_gate()
    lent.start("a", work_dir=there)
    (ended,) = lent.wait_until_ended([job])
    assert (ended.status, ended.host, ended.attempts) == (JobStatus.SUCCEEDED, "a", 2)
    assert len(lent.results(job)) == 1
