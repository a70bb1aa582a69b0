"""Names and limits hold exactly, whoever hands in what at the same moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import sqlalchemy as sa

from latentsync.errors import IdempotencyConflict, LineFull
from latentsync.jobs.admission import Admission, Outcome, Quota
from latentsync.jobs.database import open_database
from latentsync.jobs.models import Job, NewJob
from latentsync.jobs.store import JobStore, Load
from tests.jobs.postgres import postgres
from tests.jobs.records import OWNER, new_job

Open = Callable[..., Admission]


@pytest.fixture
def open_intake(tmp_path: Path) -> Iterator[Open]:
    """Open intakes as different processes would: each with connections of its own."""
    engines: list[sa.Engine] = []

    def admission(jobs: int = 1000, input_bytes: int = 2**40, url: str | None = None) -> Admission:
        engines.append(open_database(url or f"sqlite:///{tmp_path / 'jobs.db'}"))
        return Admission(JobStore(engines[-1]), lambda *_: None, Quota(jobs, input_bytes), _roomy)

    yield admission
    for engine in engines:
        engine.dispose()


def _roomy() -> None:
    pass


def taken(outcome: Outcome) -> list[Job]:
    assert isinstance(outcome, list), outcome
    return outcome


def test_jobs_are_numbered_in_the_order_of_their_calls(open_intake: Open) -> None:
    calls = [[new_job(), new_job()], [new_job()], [new_job()]]
    jobs = [job for outcome in open_intake().admit(calls) for job in taken(outcome)]
    assert [job.id for job in jobs] == [job.id for call in calls for job in call]
    assert [job.number for job in jobs] == [1, 2, 3, 4]


@pytest.mark.parametrize("name", ["id", "idempotency_key"])
def test_of_one_name_in_two_calls_of_a_transaction_the_first_is_made(
    open_intake: Open, name: str
) -> None:
    one = new_job(idempotency_key="key")
    again = new_job(**{name: getattr(one, name)})
    other = new_job(**{name: getattr(one, name)}, fingerprint="other")
    foreign = new_job(owner="somebody else", id=one.id)
    admission = open_intake()
    for _ in range(2):  # within the transaction, then against the record
        first, second, third, fourth = admission.admit([[one], [again], [other], [foreign]])
        assert taken(first) == taken(second)
        assert isinstance(third, IdempotencyConflict)
        assert isinstance(fourth, IdempotencyConflict)


def test_an_idempotency_key_is_its_owners(open_intake: Open) -> None:
    calls = [[new_job(owner, idempotency_key="key")] for owner in ("a", "b")]
    a, b = open_intake().admit(calls)
    assert taken(a)[0].id != taken(b)[0].id


def test_a_call_is_taken_in_whole_or_not_at_all(open_intake: Open) -> None:
    admission = open_intake(jobs=3)
    outcomes = admission.admit([[new_job()], [new_job(), new_job(), new_job()], [new_job()]])
    assert [isinstance(one, list) for one in outcomes] == [True, False, True]


def hand_in_at_once(intakes: list[Admission], calls: list[list[NewJob]]) -> list[list[Outcome]]:
    together = Barrier(len(intakes))

    def hand_in(admission: Admission) -> list[Outcome]:
        together.wait(10)
        return admission.admit(calls)

    with ThreadPoolExecutor(len(intakes)) as threads:
        return list(threads.map(hand_in, intakes))


def check_limits_and_names(open_intake: Open, url: str | None = None) -> None:
    """Let eight intakes take in the same two calls, then calls of their own."""
    intakes = [open_intake(jobs=5, url=url) for _ in range(8)]
    same = [[new_job(idempotency_key="a")], [new_job(idempotency_key="b")]]
    ids = {taken(one)[0].id for some in hand_in_at_once(intakes, same) for one in some}
    assert ids == {job.id for call in same for job in call}
    own = [[new_job(id=f"{number}")] for number in range(8)]
    outcomes = [one for some in hand_in_at_once(intakes, own) for one in some]
    assert len({one[0].number for one in outcomes if isinstance(one, list)}) == 3
    assert all(isinstance(one, list | LineFull) for one in outcomes)


def test_limits_and_names_hold_at_the_same_moment(open_intake: Open) -> None:
    check_limits_and_names(open_intake)


@pytest.mark.slow
def test_limits_and_names_hold_at_the_same_moment_in_postgres(open_intake: Open) -> None:
    with postgres() as url:
        check_limits_and_names(open_intake, url)


def test_an_owner_has_so_many_bytes_waiting_and_one_job_whatever_its_size() -> None:
    quota = Quota(jobs=10, input_bytes=100)
    quota.check(Load(0, 0), Load(1, 500))
    quota.check(Load(1, 60), Load(1, 40))
    with pytest.raises(LineFull, match="60 bytes"):
        quota.check(Load(1, 60), Load(1, 41))


def test_what_fails_alongside_takes_the_jobs_with_it(tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise OSError("no line")

    engine = open_database(f"sqlite:///{tmp_path / 'jobs.db'}")
    store = JobStore(engine)
    with pytest.raises(OSError, match="no line"):
        Admission(store, fail, Quota(10, 10), _roomy).admit([[new_job()]])
    assert store.list_of(OWNER) == []
    engine.dispose()
