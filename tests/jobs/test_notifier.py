"""Who waits for a job is woken by what happens to it, and by nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from latentsync.jobs.models import Job, JobStatus
from latentsync.jobs.notifier import JobNotifier, ended_after, newest_event, wait_for
from latentsync.jobs.service import JobService, Submission
from latentsync.jobs.store import Finished
from latentsync.schema.run import RunRequest, UrlSource
from latentsync.settings import Settings


@pytest.fixture
def service(tmp_path: Path) -> Iterator[JobService]:
    service = JobService(Settings(data_dir=tmp_path / "data", work_dir=tmp_path / "work"))
    yield service
    service.close()


def submit(service: JobService) -> Job:
    request = RunRequest(
        UrlSource("http://a.example/v", "video_url"), UrlSource("http://a.example/a", "audio_url")
    )
    [job] = service.submit([Submission(request, "f")], "owner")
    return job


def test_a_bell_rings_for_its_own_job_and_for_no_other(service: JobService) -> None:
    watched, other = submit(service), submit(service)

    async def listen() -> tuple[bool, bool]:
        notifier = JobNotifier(service.store.engine)
        with notifier.subscribe(watched.id) as changed:
            await wait_for(changed, 60)  # the first look wakes everybody
            service.store.cancel(other.id)
            by_other = await wait_for(changed, 0.3)
            service.store.cancel(watched.id)
            by_own = await wait_for(changed, 60)
        return by_other, by_own

    assert asyncio.run(listen()) == (False, True)


def test_the_record_is_looked_at_only_while_somebody_waits(service: JobService) -> None:
    job = submit(service)

    async def listen_twice() -> list[int]:
        notifier, others = JobNotifier(service.store.engine), []
        for _ in range(2):
            with notifier.subscribe(job.id) as changed:
                assert await wait_for(changed, 60)
                others.append(len(asyncio.all_tasks()) - 1)
            async with asyncio.timeout(20):
                while len(asyncio.all_tasks()) > 1:
                    await asyncio.sleep(0.01)
            others.append(len(asyncio.all_tasks()) - 1)
        return others

    assert asyncio.run(listen_twice()) == [1, 0, 1, 0]


def test_closing_wakes_everybody(service: JobService) -> None:
    job = submit(service)

    async def listen() -> bool:
        notifier = JobNotifier(service.store.engine)
        with notifier.subscribe(job.id) as changed:
            await wait_for(changed, 60)
            notifier.close()
            return await wait_for(changed, 0)

    assert asyncio.run(listen())


def test_a_job_that_ended_is_counted_once_and_one_that_began_is_not(service: JobService) -> None:
    store = service.store
    done, failed, running = submit(service), submit(service), submit(service)
    start = newest_event(store.engine)
    for job, status in ((done, JobStatus.SUCCEEDED), (failed, JobStatus.FAILED)):
        begun = store.begin(job.id, "w")
        assert begun is not None
        details = {"seconds": {"read": 1.0, "generate.listen": 0.5, "generate": 2.0}}
        store.finish(begun, Finished(status, details=details))
    store.begin(running.id, "w")
    ended, newest = ended_after(store.engine, start)
    assert [job.status for job in ended] == [JobStatus.SUCCEEDED, JobStatus.FAILED]
    assert ended[0].stage_s == {"read": 1.0, "generate": 2.0}
    assert ended[0].wait_s is not None
    assert ended[0].wait_s >= 0
    assert ended_after(store.engine, newest) == ([], newest)
