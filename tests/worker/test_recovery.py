"""Which workers are alive, and how the jobs of dead ones are requeued."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from latentsync.jobs.database import open_database
from latentsync.jobs.models import SILENCE_S, Job, JobStatus, Webhook
from latentsync.jobs.queue import WEBHOOKS, JobQueue, PendingWorkflow
from latentsync.jobs.store import Finished, JobStore
from latentsync.worker.membership import WorkerRegistry
from latentsync.worker.recovery import Recovery
from tests.jobs.records import Clock, new_job, record


class Place:
    """A database with its queue, and a clock that the tests move."""

    def __init__(self, folder: Path) -> None:
        self.engine = open_database(f"sqlite:///{folder / 'jobs.db'}")
        self.queue = JobQueue(self.engine)
        self.clock = Clock(0.0)
        announce = self.queue.webhooks.announce
        self.store = JobStore(self.engine, self.clock, announce)

    def add(self, **changes: Any) -> Job:
        return record(self.store, new_job(**changes), alongside=self.queue.put)[0]

    def take(self, job: Job, worker: str, *, begin: bool = True) -> None:
        """Dequeue a job as DBOS does in a worker."""
        self.set(job.id, status="PENDING", executor_id=worker)
        if begin:
            assert self.store.begin(job.id, worker) is not None

    def is_queued(self, job: Job) -> bool:
        return self.status(job.id) == "ENQUEUED"

    def status(self, workflow_id: str) -> str:
        with self.engine.connect() as connection:
            asked = sa.text("SELECT status FROM workflow_status WHERE workflow_uuid = :id")
            return str(connection.execute(asked, {"id": workflow_id}).scalar_one())

    def set(self, workflow_id: str, **values: str) -> None:
        changes = ", ".join(f"{name} = :{name}" for name in values)
        with self.engine.begin() as connection:
            change = sa.text(f"UPDATE workflow_status SET {changes} WHERE workflow_uuid = :id")
            connection.execute(change, {**values, "id": workflow_id})


class Member:
    """A worker's view of the place."""

    def __init__(self, place: Place, name: str) -> None:
        self.registry = WorkerRegistry(place.engine, name, place.clock)
        self._queue = place.queue
        self.recovery = Recovery(place.store, place.queue, self.registry, name)
        assert self.registry.join(f"holder of {name}", lambda _: False)

    def look(self, *at_work: Job) -> None:
        pending = self._queue.pending()
        self.registry.heartbeat()
        self.recovery.run(pending, {job.id for job in at_work})


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    one = Place(tmp_path)
    yield one
    one.queue.close()
    one.engine.dispose()


def pass_time(place: Place, seconds: float, *members: Member, at_work: Job | None = None) -> None:
    """Let the members look around every few seconds."""
    for _ in range(round(seconds / 5)):
        place.clock.now += 5
        for member in members:
            member.look(*([at_work] if at_work else []))


def test_a_worker_lives_as_long_as_it_greets(place: Place) -> None:
    one, two = Member(place, "one"), Member(place, "two")
    pass_time(place, 10, one, two)
    assert one.registry.living() == {"one", "two"}
    pass_time(place, SILENCE_S - 5, one)
    assert one.registry.living() == {"one", "two"}
    pass_time(place, 15, one)
    assert one.registry.living() == {"one"}
    pass_time(place, 5, one, two)
    pass_time(place, 5, one, two)
    assert one.registry.living() == {"one", "two"}


def test_a_worker_that_has_left_is_gone_at_once(place: Place) -> None:
    one, two = Member(place, "one"), Member(place, "two")
    pass_time(place, 5, one, two)
    two.registry.leave()
    pass_time(place, 5, one)
    assert one.registry.living() == {"one"}


def test_a_worker_that_was_held_up_does_not_declare_others_dead(place: Place) -> None:
    one, two = Member(place, "one"), Member(place, "two")
    pass_time(place, 5, one, two)
    place.clock.now += 10 * SILENCE_S
    one.registry.heartbeat()  # before the other one, which was held up as well
    assert one.registry.living() == {"one", "two"}


def test_the_job_of_a_dead_worker_is_requeued_once(place: Place) -> None:
    job, one, two, dead = place.add(), Member(place, "one"), Member(place, "two"), "dead"
    Member(place, dead).look()
    pass_time(place, 5, one, two)
    place.take(job, dead)
    pass_time(place, SILENCE_S - 5, one, two)
    assert not place.is_queued(job)
    pass_time(place, 10, one, two)
    assert place.is_queued(job)
    place.take(job, "one")
    pass_time(place, 60, one, two, at_work=job)
    assert not place.is_queued(job)
    lines = [event.data["line"] for event in place.store.events(job.id) if event.kind == "log"]
    assert lines == ["Its worker stopped responding; the job is requeued."]


def test_an_uncounted_attempt_of_a_stopped_worker_is_not_logged_as_lost(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    job, one, gone = place.add(), Member(place, "one"), Member(place, "gone")
    pass_time(place, 5, one, gone)
    place.take(job, "gone")
    begun = place.store.get(job.id)
    assert begun is not None
    place.store.undo_attempt(begun)
    gone.registry.leave()
    with caplog.at_level(logging.INFO):
        pass_time(place, 5, one)
    assert place.is_queued(job)
    assert "its worker gone is gone; requeued" in caplog.text
    assert not [event for event in place.store.events(job.id) if event.kind == "log"]


def test_the_job_of_an_unknown_worker_is_requeued_at_once(place: Place) -> None:
    job = place.add()
    place.take(job, "nobody")
    Member(place, "one").look()
    assert place.is_queued(job)


def test_of_many_that_recover_one_job_at_once_one_does(place: Place) -> None:
    job = place.add()
    place.take(job, "dead")
    (workflow,) = place.queue.pending()
    with ThreadPoolExecutor(8) as threads:
        recovered = list(threads.map(lambda _: place.queue.recover(workflow), range(8)))
    assert sum(recovered) == 1
    place.take(job, "one")
    assert not place.queue.recover(workflow)  # another worker runs it by now
    assert not place.is_queued(job)


@pytest.mark.parametrize("is_begun", [True, False])
def test_a_job_that_was_dequeued_and_not_started_is_found(place: Place, is_begun: bool) -> None:
    job, one = place.add(), Member(place, "one")
    place.take(job, "one", begin=is_begun)
    one.look()
    assert not place.is_queued(job)  # it may be starting just now
    one.look()
    assert place.is_queued(job)


def test_the_job_at_work_is_left_alone(place: Place) -> None:
    job, one = place.add(), Member(place, "one")
    place.take(job, "one")
    pass_time(place, 60, one, at_work=job)
    assert not place.is_queued(job)


def test_a_job_that_a_dead_worker_did_not_begin_is_requeued_by_a_busy_one(place: Place) -> None:
    other, job = place.add(), place.add()
    one, two = Member(place, "one"), Member(place, "two")
    place.take(other, "one")
    place.take(job, "two", begin=False)
    two.look(job)
    one.look(other)
    assert not place.is_queued(job)
    two.registry.leave()
    one.look(other)
    assert place.is_queued(job)
    assert not [event for event in place.store.events(job.id) if event.kind == "log"]


def test_a_worker_that_restarts_requeues_its_own_jobs_alone(place: Place) -> None:
    own, others, one = place.add(), place.add(), Member(place, "one")
    place.take(own, "one")
    place.take(others, "two")
    one.recovery.recover_own()
    assert place.is_queued(own)
    assert not place.is_queued(others)


def test_the_webhook_of_a_dead_worker_is_requeued(place: Place) -> None:
    job = place.add(webhook=Webhook("https://example.com/hook"))
    begun = place.store.begin(job.id, "dead")
    assert begun is not None
    assert place.store.finish(begun, Finished(JobStatus.FAILED))
    message = f"msg_{job.number}_{job.id}_failed_0"
    place.set(message, status="PENDING", executor_id="dead")
    assert place.queue.pending() == [PendingWorkflow(message, "dead", WEBHOOKS)]
    Member(place, "one").look()
    assert place.status(message) == "ENQUEUED"


def test_an_ended_or_deleted_job_is_not_requeued(place: Place) -> None:
    job = place.add()
    place.take(job, "dead")
    (workflow,) = place.queue.pending()
    place.set(job.id, status="SUCCESS")
    assert not place.queue.recover(workflow)
    place.queue.delete([job.id])
    assert not place.queue.recover(workflow)
