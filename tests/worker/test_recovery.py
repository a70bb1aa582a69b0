"""Who lives, and how jobs that nobody works on find back into the line."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from latentsync.jobs.database import open_database
from latentsync.jobs.models import SILENCE_S, Job
from latentsync.jobs.queue import JobQueue
from latentsync.jobs.store import JobStore
from latentsync.worker.membership import WorkerRegistry
from latentsync.worker.recovery import IDLE_S, Recovery
from tests.jobs.records import Clock, new_job, record


class Place:
    """A database with its line, and a clock that the tests move."""

    def __init__(self, folder: Path) -> None:
        self.engine = open_database(f"sqlite:///{folder / 'jobs.db'}")
        self.queue = JobQueue(self.engine)
        self.clock = Clock(0.0)
        self.store = JobStore(self.engine, self.clock)

    def add(self) -> Job:
        return record(self.store, new_job(), alongside=self.queue.put)[0]

    def take(self, job: Job, worker: str, *, begin: bool = True) -> None:
        """Take a job from the line as a worker does."""
        self._set(job, status="PENDING", executor_id=worker)
        if begin:
            assert self.store.begin(job.id, worker) is not None

    def is_in_line(self, job: Job) -> bool:
        with self.engine.connect() as connection:
            asked = sa.text("SELECT status FROM workflow_status WHERE workflow_uuid = :id")
            return connection.execute(asked, {"id": job.id}).scalar_one() == "ENQUEUED"

    def _set(self, job: Job, **values: str) -> None:
        changes = ", ".join(f"{name} = :{name}" for name in values)
        with self.engine.begin() as connection:
            change = sa.text(f"UPDATE workflow_status SET {changes} WHERE workflow_uuid = :id")
            connection.execute(change, {**values, "id": job.id})


class Member:
    """A worker's view of the place."""

    def __init__(self, place: Place, name: str) -> None:
        self.registry = WorkerRegistry(place.engine, name, place.clock)
        self._rescue = Recovery(place.store, place.queue, self.registry, name)
        self._clock = place.clock
        self._idle_since = place.clock()
        assert self.registry.join(f"holder of {name}", lambda _: False)

    def look(self, *at_work: Job) -> None:
        self.registry.heartbeat()
        if at_work:
            self._idle_since = self._clock()
        self._rescue.look({job.id for job in at_work}, self._clock() - self._idle_since)


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


def test_the_job_of_a_silent_worker_is_put_into_the_line_once(place: Place) -> None:
    job, one, two, dead = place.add(), Member(place, "one"), Member(place, "two"), "dead"
    Member(place, dead).look()
    pass_time(place, 5, one, two)
    place.take(job, dead)
    pass_time(place, SILENCE_S - 5, one, two)
    assert not place.is_in_line(job)
    pass_time(place, 10, one, two)
    assert place.is_in_line(job)
    place.take(job, "one")
    pass_time(place, 60, one, two, at_work=job)
    assert not place.is_in_line(job)
    lines = [event.data["line"] for event in place.store.events(job.id) if event.kind == "log"]
    assert lines == ["Its worker is silent: the job goes to another one."]


def test_a_job_that_was_handed_back_is_not_told_to_be_of_a_silent_worker(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    job, one, gone = place.add(), Member(place, "one"), Member(place, "gone")
    pass_time(place, 5, one, gone)
    place.take(job, "gone")
    begun = place.store.get(job.id)
    assert begun is not None
    place.store.hand_back(begun)
    gone.registry.leave()
    with caplog.at_level(logging.INFO):
        pass_time(place, 5, one)
    assert place.is_in_line(job)
    assert "its worker gone was stopped" in caplog.text
    assert not [event for event in place.store.events(job.id) if event.kind == "log"]


def test_the_job_of_an_unknown_worker_is_put_into_the_line_at_once(place: Place) -> None:
    job = place.add()
    place.take(job, "nobody")
    Member(place, "one").look()
    assert place.is_in_line(job)


def test_a_job_adopted_by_a_worker_that_died_before_it_told_the_line_is_found(
    place: Place,
) -> None:
    job = place.add()
    place.take(job, "dead")
    processing = place.store.get(job.id)
    assert processing is not None
    assert place.store.claim(processing, "one")  # and the worker dies here, and comes back
    one = Member(place, "one")
    one.look()
    assert not place.is_in_line(job)  # it may be on its way from the line just now
    one.look()
    assert place.is_in_line(job)


def test_the_job_at_work_is_left_alone(place: Place) -> None:
    job, one = place.add(), Member(place, "one")
    place.take(job, "one")
    pass_time(place, 60, one, at_work=job)
    assert not place.is_in_line(job)


def test_a_job_that_fell_out_of_the_line_before_it_was_begun_is_found(place: Place) -> None:
    job, one = place.add(), Member(place, "one")
    place.take(job, "one", begin=False)
    pass_time(place, IDLE_S, one)
    assert not place.is_in_line(job)
    pass_time(place, 10, one)
    assert place.is_in_line(job)


def test_a_busy_worker_does_not_touch_those_that_wait(place: Place) -> None:
    other, job, one = place.add(), place.add(), Member(place, "one")
    place.take(other, "one")
    place.take(job, "two", begin=False)
    pass_time(place, 60, one, at_work=other)
    assert not place.is_in_line(job)


def test_a_forgotten_job_is_no_error(place: Place) -> None:
    place.queue.requeue("none")
