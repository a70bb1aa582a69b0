"""Calls that hand in jobs at the same moment are recorded together.

A transaction waits for the disk once, however much is in it. Whoever comes while one is written is
part of the next, so the more callers there are, the less each of them costs. Nobody is answered
before the own jobs are on the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from latentsync.jobs.job import Job, NewJob
from latentsync.record_faults import record_fault

_CALLS_AT_ONCE = 100  # others write, too: nobody shall hold the database for long

Outcome = list[Job] | Exception
Write = Callable[[Sequence[Sequence[NewJob]]], Sequence[Outcome]]


class Recorder:
    """Brings the calls of many threads and tasks together, in a thread of its own.

    Args:
        write: records the jobs of several calls in one transaction; returns for each call its jobs
            or why it was refused, in their order. If it raises, nothing was recorded.
    """

    def __init__(self, write: Write) -> None:
        self._write = write
        self._waiting: list[_Call] = []
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="recorder")

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
        """Record what waits, and take no more."""
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
            if record_fault(error) is not None:  # each of them would wait for it once more
                outcomes = [error] * len(calls)
            else:
                # One call may have spoilt it for all: each gets an outcome of its own.
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
    """The jobs of one call, and what becomes of them."""

    new: Sequence[NewJob]
    outcome: Future[list[Job]] = field(default_factory=Future)

    def settle(self, outcome: Outcome) -> None:
        if isinstance(outcome, Exception):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)
