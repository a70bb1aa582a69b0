"""Calls that come together are written together, and each gets its own outcome."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from threading import Event

import pytest

from latentsync.jobs.admission import GroupCommit, Outcome
from latentsync.jobs.models import Job, JobStatus, NewJob
from tests.jobs.records import new_job


class Book:
    """Writes down what it is given; a call whose fingerprint says so spoils the whole page."""

    def __init__(self) -> None:
        self.pages: list[list[str]] = []
        self.may_write = Event()
        self.is_writing = Event()

    def write(self, calls: Sequence[Sequence[NewJob]]) -> list[Outcome]:
        self.is_writing.set()
        assert self.may_write.wait(10)
        asked = [job.fingerprint for call in calls for job in call]
        if "spoils" in asked:
            raise OSError("spoilt")
        self.pages.append(asked)
        return [self._outcome(call) for call in calls]

    def _outcome(self, call: Sequence[NewJob]) -> Outcome:
        if call[0].fingerprint == "refused":
            return ValueError("refused")
        start = sum(map(len, self.pages))
        return [recorded(job, start + place) for place, job in enumerate(call)]


def recorded(job: NewJob, number: int) -> Job:
    return Job(number, job.id, job.owner, JobStatus.QUEUED, job.request, job.fingerprint, 0.0)


@pytest.fixture
def book() -> Book:
    return Book()


@pytest.fixture
def group_commit(book: Book) -> Iterator[GroupCommit]:
    lent = GroupCommit(book.write)
    yield lent
    book.may_write.set()
    lent.close()


def record_behind(
    group_commit: GroupCommit, book: Book, fingerprints: Sequence[str]
) -> list[Future[list[Job]]]:
    """Hand in calls while another one is being written."""
    group_commit.record([new_job(fingerprint="first")])
    assert book.is_writing.wait(10)
    return [group_commit.record([new_job(fingerprint=one)]) for one in fingerprints]


def test_who_comes_during_a_write_is_part_of_the_next(
    group_commit: GroupCommit, book: Book
) -> None:
    calls = record_behind(group_commit, book, "abc")
    book.may_write.set()
    assert [call.result(10)[0].fingerprint for call in calls] == ["a", "b", "c"]
    assert book.pages == [["first"], ["a", "b", "c"]]


def test_nobody_is_answered_before_the_write(group_commit: GroupCommit, book: Book) -> None:
    [call] = record_behind(group_commit, book, "a")
    assert not call.done()
    book.may_write.set()
    assert call.result(10)


def test_a_refused_call_is_told_and_the_others_are_written(
    group_commit: GroupCommit, book: Book
) -> None:
    first, refused, last = record_behind(group_commit, book, ["a", "refused", "b"])
    book.may_write.set()
    assert (first.result(10)[0].fingerprint, last.result(10)[0].fingerprint) == ("a", "b")
    with pytest.raises(ValueError, match="refused"):
        refused.result(10)


def test_a_call_that_spoils_the_write_does_so_for_itself_alone(
    group_commit: GroupCommit, book: Book
) -> None:
    first, bad, last = record_behind(group_commit, book, ["a", "spoils", "b"])
    book.may_write.set()
    with pytest.raises(OSError, match="spoilt"):
        bad.result(10)
    assert (first.result(10)[0].fingerprint, last.result(10)[0].fingerprint) == ("a", "b")
    assert book.pages == [["first"], ["a"], ["b"]]


def test_a_call_given_up_while_it_waits_is_not_written(
    group_commit: GroupCommit, book: Book
) -> None:
    given_up, other = record_behind(group_commit, book, "ab")
    assert given_up.cancel()
    book.may_write.set()
    assert other.result(10)
    assert book.pages == [["first"], ["b"]]


def test_so_many_calls_that_others_may_write_between(group_commit: GroupCommit, book: Book) -> None:
    calls = record_behind(group_commit, book, [str(number) for number in range(250)])
    book.may_write.set()
    assert [call.result(10)[0].fingerprint for call in calls] == [str(n) for n in range(250)]
    assert [len(page) for page in book.pages] == [1, 100, 100, 50]


def test_closing_writes_what_waits(group_commit: GroupCommit, book: Book) -> None:
    calls = record_behind(group_commit, book, "ab")
    book.may_write.set()
    group_commit.close()
    assert all(call.done() for call in calls)
