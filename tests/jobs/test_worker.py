"""Workers and devices that are killed: no job is lost, none is made twice, nothing stays behind."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from latentsync.jobs.job import Job, JobStatus
from tests.jobs.farm import Farm, farm, kill, kill_group
from tests.jobs.square_device import BROKEN, CRASHES, CRASHES_ONCE, PLAIN, SLOW

KILLS = 20


@pytest.fixture
def lent(tmp_path: Path) -> Iterator[Farm]:
    with farm(tmp_path) as one:
        yield one


def is_at_work(lent: Farm, job: Job, stage: str = "generate") -> bool:
    now = lent.job(job)
    return now.status is JobStatus.PROCESSING and now.stage == stage


def check_end(lent: Farm, jobs: list[Job]) -> None:
    """Every job has ended once, and nothing is left of the way there."""
    for job in jobs:
        ended = lent.job(job)
        succeeded = ended.status is JobStatus.SUCCEEDED
        assert succeeded or (ended.error is not None and ended.error.code == "WORKER_LOST"), ended
        lent.wait_for(lambda job=job, n=int(succeeded): len(lent.results(job)) == n)
        if succeeded:
            assert lent.results(job)[0].stat().st_size == ended.result_bytes
    lent.wait_for(lambda: lent.media() == [])
    lent.wait_for(lambda: lent.working_folders() == [])


def test_a_job_is_run_and_its_media_are_gone_afterwards(lent: Farm) -> None:
    job = lent.submit(PLAIN)
    lent.start()
    (ended,) = lent.wait_until_ended([job])
    assert (ended.status, ended.attempts, ended.fraction) == (JobStatus.SUCCEEDED, 1, 1.0)
    check_end(lent, [job])


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
        lent.wait_for(lambda: lent.desk.store.processing() != [])
        time.sleep(chance.uniform(0, 0.6))
        (kill, kill_group)[number % 2](worker)
        worker = lent.start()
    lent.wait_until_ended(jobs)
    check_end(lent, jobs)
    kill(worker)
    lent.wait_for(lambda: lent.processes() == [], timeout_s=5)


def test_a_worker_that_is_killed_loses_nothing(lent: Farm) -> None:
    kill_again_and_again(lent, 3, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(3))
def test_a_worker_that_is_killed_twenty_times_loses_nothing(lent: Farm, seed: int) -> None:
    kill_again_and_again(lent, KILLS, seed)
