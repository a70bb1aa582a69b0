"""Admission of new jobs: unique ids and idempotency keys, quotas, and group commit.

Checking and writing are one transaction that excludes every other admission, so the limits hold
exactly, however many callers, threads and processes submit at the same moment. It is also why jobs
are numbered in the order in which they become visible.

A transaction waits for the disk once, however much it writes. Calls that arrive while one is being
written share the next one, so each costs less the more there are. A caller gets its answer only
when its jobs are on the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import sqlalchemy as sa

from latentsync.errors import IdempotencyConflict, InvalidRequest, LatentSyncError, LineFull
from latentsync.jobs.database import lock_admission, translate_database_full
from latentsync.jobs.engine_availability import Availability, EngineAvailability
from latentsync.jobs.models import Job, NewJob
from latentsync.jobs.store import Alongside, JobStore, Load
from latentsync.public_errors import to_database_error


@contextmanager
def prefix_errors(entry: str | None) -> Iterator[None]:
    """Prefix field and message of an error with the name of the batch item that caused it.

    Errors that no item caused, such as a full disk, stay as they are.

    Args:
        entry: what the caller calls it, ``predictions.3``; None if it is the only one.

    Raises:
        LatentSyncError: what was raised inside.
    """
    try:
        yield
    except LatentSyncError as error:
        if entry is not None and (error.field is not None or isinstance(error, InvalidRequest)):
            error.field = entry if error.field is None else f"{entry}.{error.field}"
            error.message = f"{entry}: {error.message}"
            error.args = (error.message,)
        raise


_CALLS_AT_ONCE = 100  # others write, too, so a transaction must not hold the database for long

Outcome = list[Job] | Exception
Write = Callable[[Sequence[Sequence[NewJob]]], Sequence[Outcome]]


class GroupCommit:
    """Writes the jobs of concurrent calls in one transaction, in a thread of its own.

    Args:
        write: records the jobs of several calls in one transaction; returns for each call its jobs
            or why it was refused, in their order. If it raises, nothing was recorded.
    """

    def __init__(self, write: Write) -> None:
        self._write = write
        self._waiting: list[_Call] = []
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="group_commit")

    def record(self, new: Sequence[NewJob]) -> Future[list[Job]]:
        """Record the jobs of one call, in the order of the calls.

        Returns:
            Their records as they are on the disk, or what ``write`` returned or raised for them.
        """
        call = _Call(new)
        self._waiting.append(call)
        self._thread.submit(self._record_waiting)  # finds nothing to do where another took it
        return call.outcome

    def close(self) -> None:
        """Write the waiting calls and accept no more."""
        self._thread.shutdown()

    def _record_waiting(self) -> None:
        taken = self._waiting[:_CALLS_AT_ONCE]
        del self._waiting[: len(taken)]
        calls = [call for call in taken if call.outcome.set_running_or_notify_cancel()]
        if not calls:
            return
        outcomes: Sequence[Outcome]
        try:
            outcomes = self._write([call.new for call in calls])
        except Exception as error:
            if to_database_error(error) is not None:  # each retry would wait for the database
                outcomes = [error] * len(calls)
            else:
                # One call may have caused it: write each in a transaction of its own.
                outcomes = [self._record_alone(call) for call in calls]
        for call, outcome in zip(calls, outcomes, strict=True):
            call.settle(outcome)

    def _record_alone(self, call: _Call) -> Outcome:
        try:
            return self._write([call.new])[0]
        except Exception as error:
            return error


@dataclass(frozen=True, eq=False)
class _Call:
    """The jobs of one call and their outcome."""

    new: Sequence[NewJob]
    outcome: Future[list[Job]] = field(default_factory=Future)

    def settle(self, outcome: Outcome) -> None:
        if isinstance(outcome, Exception):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)


_RETRY_AFTER_S = 30.0


@dataclass(frozen=True)
class Quota:
    """Limits of what an owner may have queued or running.

    Attributes:
        jobs: number of jobs.
        input_bytes: of all their media; a single job is accepted whatever its size.
    """

    jobs: int
    input_bytes: int

    def check(self, load: Load, more: Load) -> None:
        """Raise LineFull if ``load`` and ``more`` together exceed the limits."""
        if load.jobs + more.jobs > self.jobs:
            raise LineFull(
                f"{load.jobs} jobs of this key wait or run (allowed: {self.jobs}).",
                retry_after_s=_RETRY_AFTER_S,
            )
        if load.input_bytes > 0 and load.input_bytes + more.input_bytes > self.input_bytes:
            raise LineFull(
                f"{load.input_bytes} bytes of this key's media wait (allowed: {self.input_bytes}).",
                retry_after_s=_RETRY_AFTER_S,
            )


class Admission:
    """Records the jobs of several calls; each call is accepted whole or refused.

    Args:
        store: of the jobs.
        alongside: see :meth:`latentsync.jobs.store.JobStore.insert`.
        quota: of every owner.
        require_room: raises DiskFull if no new job may be accepted; it must be quick, since it runs
            within the transaction.
        engines: which can run; None accepts jobs for all.
    """

    def __init__(
        self,
        store: JobStore,
        alongside: Alongside,
        quota: Quota,
        require_room: Callable[[], None],
        engines: EngineAvailability | None = None,
    ) -> None:
        self._store = store
        self._alongside = alongside
        self._quota = quota
        self._require_room = require_room
        self._engines = engines

    def admit(self, calls: Sequence[Sequence[NewJob]]) -> list[Outcome]:
        """Return for each call its jobs, in its order, or why it is refused.

        A job whose id or idempotency key is known is the one that has it.

        Args:
            calls: their jobs, all of one owner.

        Raises:
            DiskFull: nothing was recorded.
        """
        with translate_database_full(), self._store.engine.begin() as connection:
            lock_admission(connection)
            engines = None if self._engines is None else self._engines.now(connection)
            ledger = _Batch(connection, self._store, self._check, calls, engines)
            entered = [ledger.enter(call) for call in calls]
            added = self._store.insert(connection, ledger.new, self._alongside)
        jobs = ledger.recorded | {job.id: job for job in added}
        return [
            names if isinstance(names, Exception) else [jobs[name] for name in names]
            for names in entered
        ]

    def _check(self, load: Load, more: Load) -> None:
        self._require_room()
        self._quota.check(load, more)


class _Batch:
    """Checks calls one after the other, within the transaction."""

    def __init__(
        self,
        connection: sa.Connection,
        store: JobStore,
        check: Callable[[Load, Load], None],
        calls: Sequence[Sequence[NewJob]],
        engines: Availability | None,
    ) -> None:
        self._connection = connection
        self._engines = engines
        self._store = store
        self._check = check  # of an owner's load, and what is to be added to it
        self._loads: dict[str, Load] = {}
        self._named: dict[str | tuple[str, str], Job | NewJob] = {}
        found = store.named_alike(connection, [job for call in calls for job in call])
        self.recorded = {job.id: job for job in found}
        self.new: list[NewJob] = []
        for job in found:
            self._name(job)

    def enter(self, call: Sequence[NewJob]) -> list[str] | LatentSyncError:
        """Return the ids of a call's jobs, or why it is refused."""
        try:
            known = [self._known(job) for job in call]
            new = [job for job, other in zip(call, known, strict=True) if other is None]
            if new:
                self._require_engines(new)
                self._count(new)
        except LatentSyncError as refused:
            return refused
        for job in new:
            self._name(job)
        self.new += new
        return [(other or job).id for job, other in zip(call, known, strict=True)]

    def _known(self, job: NewJob) -> Job | NewJob | None:
        """Return the job that was submitted before with this id or idempotency key."""
        other = self._named.get(job.id)
        if other is None and job.idempotency_key is not None:
            other = self._named.get((job.owner, job.idempotency_key))
        if other is not None:
            check_repeated(other, job.owner, job.fingerprint)
        return other

    def _require_engines(self, new: Sequence[NewJob]) -> None:
        if self._engines is None:
            return
        for job in new:
            with prefix_errors(job.entry):
                self._engines.require(job.request["options"]["engine"])

    def _count(self, new: Sequence[NewJob]) -> None:
        owner = new[0].owner
        load = self._loads.get(owner) or self._store.load(owner, self._connection)
        more = Load(len(new), sum(job.input_bytes for job in new))
        self._check(load, more)
        self._loads[owner] = Load(load.jobs + more.jobs, load.input_bytes + more.input_bytes)

    def _name(self, job: Job | NewJob) -> None:
        self._named[job.id] = job
        if job.idempotency_key is not None:
            self._named[job.owner, job.idempotency_key] = job


def check_repeated(known: Job | NewJob, owner: str, fingerprint: str) -> None:
    """Raise IdempotencyConflict if a repeated id or key comes with another request."""
    if known.owner != owner or known.fingerprint != fingerprint:
        raise IdempotencyConflict(
            "This id or idempotency key was used for another request. Take a new one."
        )
