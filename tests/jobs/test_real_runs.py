"""The draft engine in a real worker: stopped at any stage, and never twice the same result."""

from __future__ import annotations

import os
import random
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from latentsync.jobs.models import Job, JobStatus
from latentsync.jobs.service import Submission
from latentsync.schema.run import PathSource, RunOptions, RunRequest
from tests.jobs.farm import OWNER, REPOSITORY, Farm, farm, kill
from tests.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ASSETS = REPOSITORY / "assets"
WORKER = ("latentsync", "worker")


@pytest.fixture
def lent(tmp_path: Path) -> Iterator[Farm]:
    with farm(tmp_path, engine="draft") as one:
        yield one


def submit(lent: Farm, deadline_s: float | None = None) -> Job:
    video, audio = ASSETS / "demo_video.mp4", ASSETS / "demo_audio.wav"
    options = RunOptions(engine="draft", deadline_s=deadline_s)
    request = RunRequest(PathSource(video, "video"), PathSource(audio, "audio"), options)
    return lent.service.submit([Submission(request, uuid.uuid4().hex)], OWNER)[0]


def test_a_run_is_stopped_within_two_seconds_at_any_stage(lent: Farm) -> None:
    lent.start(command=WORKER)
    chance = random.Random(4)
    stages = set()
    for number in range(10):
        job = submit(lent)
        # The first begins with the start of the device, the others with a warm one.
        fraction = 0.0 if number == 0 else chance.uniform(0.0, 0.6)
        lent.wait_for(lambda job=job: lent.job(job).status is JobStatus.PROCESSING)
        lent.wait_for(lambda job=job, f=fraction: lent.job(job).fraction >= f)
        stages.add(lent.service.cancel(job.id, OWNER).stage)
        taken_s = lent.wait_for(lambda job=job: lent.job(job).status.is_final)
        assert lent.job(job).status is JobStatus.CANCELED
        assert taken_s < 2.0, stages
        lent.wait_for(lambda job=job: lent.results(job) == [])  # goes once the end is on record
    assert len(stages) > 1
    (ended,) = lent.wait_until_ended([submit(lent)])
    assert ended.status is JobStatus.SUCCEEDED
    lent.wait_for(lambda: lent.working_folders() == [])


def test_a_deadline_is_kept_within_two_seconds(lent: Farm) -> None:
    lent.start(command=WORKER)
    lent.wait_until_ended([submit(lent)])
    for deadline_s in (0.2, 0.7, 1.5):
        (ended,) = lent.wait_until_ended([submit(lent, deadline_s)])
        assert ended.error is not None
        assert ended.error.code == "DEADLINE_EXCEEDED"
        assert ended.started_at is not None
        assert ended.finished_at is not None
        assert ended.finished_at - ended.started_at < deadline_s + 2.0


def test_a_server_that_is_killed_with_or_without_its_worker_loses_nothing(
    lent: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTSYNC_API_KEY", "key")
    chance, jobs = random.Random(7), []
    for number in range(20):
        server = lent.start(command=("latentsync", "serve", "--port", str(free_port())))
        jobs.append(submit(lent))
        lent.wait_for(lambda: lent.service.store.processing() != [])
        time.sleep(chance.uniform(0, 2))
        if number % 2:
            for pid in lent.processes():
                os.kill(pid, signal.SIGKILL)
        kill(server)
    lent.wait_for(lambda: lent.processes() == [], timeout_s=60)
    lent.start(command=WORKER)
    ended = lent.wait_until_ended(jobs, timeout_s=240)
    assert {job.status for job in ended} == {JobStatus.SUCCEEDED}
    lent.wait_for(lambda: [len(lent.results(job)) for job in ended] == [1] * len(jobs))
    lent.wait_for(lambda: lent.working_folders() == [], timeout_s=60)
