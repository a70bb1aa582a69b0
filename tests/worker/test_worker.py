"""Workers and devices that are killed: no job is lost, none is made twice, nothing stays behind."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from latentsync.jobs.models import Job, JobStatus
from tests.jobs.farm import OWNER, Farm, farm, kill, kill_group
from tests.jobs.square_runner import BROKEN, CRASHES, CRASHES_ONCE, GATED, HANGS, PLAIN, SLOW

pytestmark = pytest.mark.processes

KILLS = 20
# Runs that are stopped here would take a minute. That it takes two seconds on a machine with
# nothing else to do is for the slow tests with the real engine.
IN_TIME_S = 15.0


@pytest.fixture
def lent(tmp_path: Path) -> Iterator[Farm]:
    with farm(tmp_path) as one:
        yield one


def is_at_work(lent: Farm, job: Job, stage: str = "generate") -> bool:
    now = lent.job(job)
    return now.status is JobStatus.PROCESSING and now.stage == stage


def check_end(lent: Farm, jobs: list[Job], cut_short: int = 0) -> None:
    """Every job has ended once, and nothing is left of the way there.

    Args:
        lent: the farm.
        jobs: all of it.
        cut_short: so many calls were killed between storing media and recording the job; what they
            stored goes after an hour.
    """
    for job in jobs:
        ended = lent.job(job)
        succeeded = ended.status is JobStatus.SUCCEEDED
        assert succeeded or (ended.error is not None and ended.error.code == "WORKER_LOST"), ended
        lent.wait_for(lambda job=job, n=int(succeeded): len(lent.results(job)) == n)
        if succeeded:
            assert lent.results(job)[0].stat().st_size == ended.result_bytes
    lent.wait_for(lambda: len({path.parent for path in lent.media()}) <= cut_short)
    lent.wait_for(lambda: lent.working_folders() == [])


def test_jobs_are_run_in_their_order_and_their_media_are_gone_afterwards(lent: Farm) -> None:
    together = [lent.submission(PLAIN) for _ in range(6)]
    jobs = lent.service.submit(together, OWNER)
    lent.start()
    ended = lent.wait_until_ended(jobs)
    done = (JobStatus.SUCCEEDED, 1, 1.0)
    assert [(job.status, job.attempts, job.fraction) for job in ended] == [done] * 6
    begun = [job.started_at or 0.0 for job in ended]
    assert begun == sorted(begun)
    check_end(lent, jobs)


def test_devices_that_die_cost_an_attempt_and_never_the_worker(lent: Farm) -> None:
    doomed, lucky, broken, plain = map(lent.submit, (CRASHES, CRASHES_ONCE, BROKEN, PLAIN))
    worker = lent.start()
    ended = lent.wait_until_ended([doomed, lucky, broken, plain])
    assert [job.attempts for job in ended] == [3, 2, 1, 1]
    assert [job.error.code if job.error else None for job in ended] == [
        "WORKER_LOST",
        None,
        "INTERNAL_ERROR",
        None,
    ]
    assert ended[2].error is not None
    assert "/srv" not in ended[2].error.message
    assert worker.poll() is None


def kill_again_and_again(lent: Farm, kills: int, seed: int) -> None:
    """Kill the worker at random moments while there is work, and let another take its place."""
    chance = random.Random(seed)
    worker, jobs = lent.start(), list[Job]()
    for number in range(kills):
        jobs += [lent.submit(SLOW + chance.randrange(600)) for _ in range(2)]
        lent.wait_for(lambda: lent.service.store.processing() != [])
        time.sleep(chance.uniform(0, 0.6))
        (kill, kill_group)[number % 2](worker)
        worker = lent.start()
    lent.wait_until_ended(jobs)
    check_end(lent, jobs)
    kill(worker)
    lent.wait_for(lambda: lent.processes() == [])


def test_a_worker_that_is_killed_loses_nothing(lent: Farm) -> None:
    kill_again_and_again(lent, 3, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(3))
def test_a_worker_that_is_killed_twenty_times_loses_nothing(lent: Farm, seed: int) -> None:
    kill_again_and_again(lent, KILLS, seed)


def test_running_jobs_are_stopped_in_time(lent: Farm) -> None:
    listening, deaf, late = lent.submit(SLOW + 60_000), lent.submit(HANGS), lent.submit(HANGS)
    overdue = lent.submit(HANGS, deadline_s=1.0)
    lent.start()
    lent.service.cancel(late.id, OWNER)  # while it waits: at once
    assert lent.job(late).status is JobStatus.CANCELED
    for job in (listening, deaf):
        lent.wait_for(lambda job=job: is_at_work(lent, job))
        assert lent.service.cancel(job.id, OWNER).cancel_requested
        taken_s = lent.wait_for(lambda job=job: lent.job(job).status is JobStatus.CANCELED)
        assert taken_s < IN_TIME_S
    (ended,) = lent.wait_until_ended([overdue])
    assert ended.error is not None
    assert ended.error.code == "DEADLINE_EXCEEDED"
    assert ended.finished_at is not None
    at_work_since = max(e.at for e in lent.service.store.events(overdue.id) if e.kind == "progress")
    assert ended.finished_at - at_work_since < 1.0 + IN_TIME_S
    assert [lent.results(job) for job in (listening, deaf, late, overdue)] == [[]] * 4
    lent.wait_for(lambda: lent.media() == [])  # these go once the end is on record


@pytest.mark.parametrize("way", ["signal", pytest.param("parent", marks=pytest.mark.slow)])
def test_a_worker_that_is_stopped_costs_its_job_no_attempt(lent: Farm, way: str) -> None:
    job, later = lent.submit(GATED), lent.submit(PLAIN)
    worker = lent.start()
    lent.wait_for(lambda: is_at_work(lent, job))
    if way == "signal":
        worker.terminate()
    elif worker.stdin is not None:
        worker.stdin.close()
    assert worker.wait(30) == 0
    lent.wait_for(lambda: lent.processes() == [])
    assert lent.working_folders() == []
    lent.open_gate()
    lent.start()
    ended, after = lent.wait_until_ended([job, later])
    assert (ended.status, ended.attempts) == (JobStatus.SUCCEEDED, 1)
    assert (after.started_at or 0.0) > (ended.finished_at or 0.0)  # it kept its place in the line


@pytest.mark.slow
def test_a_power_cut_loses_no_job_that_was_accepted(lent: Farm) -> None:
    with lent.submitter() as submitter:
        assert submitter.stdout is not None
        lent.start()
        accepted = [submitter.stdout.readline().strip() for _ in range(12)]
        for pid in lent.processes():
            os.kill(pid, signal.SIGKILL)
        accepted += submitter.stdout.read().split()
    lent.wait_for(lambda: lent.processes() == [])
    jobs = [lent.service.job(job_id, OWNER) for job_id in accepted]
    assert len(jobs) >= 12
    lent.start()
    ended = lent.wait_until_ended(jobs)
    assert {job.status for job in ended} == {JobStatus.SUCCEEDED}
    check_end(lent, jobs, cut_short=1)
