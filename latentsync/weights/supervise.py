"""Runs pieces of work side by side while the caller watches: first failure, stop, progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Thread

from latentsync.weights.errand import Errand, ProgressCallback, Stopped

_ASK_EVERY_S = 0.1  # how often the caller is asked whether to stop, and told how far it is
_PUT_AWAY_S = 1.0  # for the others to end once the call is over


class _Worker(Thread):
    """A daemon, so that one that waits for a silent server holds up nobody."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(name="latentsync-weights", daemon=True)
        self._work = work
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self.failure = error


def run_side_by_side(
    works: Sequence[Callable[[], None]],
    errand: Errand,
    check: Callable[[], None],
    on_progress: ProgressCallback | None,
) -> None:
    """Run every piece of work in a thread of its own until all are done.

    Args:
        works: each ends soon after ``errand`` is told to stop.
        errand: what they share.
        check: called here ten times a second; what it raises ends the call at once.
        on_progress: called here, in the caller's thread.

    Raises:
        BaseException: what ``check`` or the first of the works to fail raised.
    """
    workers = [_Worker(work) for work in works]
    for worker in workers:
        worker.start()
    try:
        while running := [worker for worker in workers if worker.is_alive()]:
            check()
            _report(errand, on_progress)
            _raise_failure(workers)
            running[0].join(_ASK_EVERY_S)
        _report(errand, on_progress)
        _raise_failure(workers)
    finally:
        errand.stop.set()
        for worker in workers:
            worker.join(_PUT_AWAY_S / len(workers))


def _report(errand: Errand, on_progress: ProgressCallback | None) -> None:
    for progress in errand.take_news():
        if on_progress is not None:
            on_progress(progress)


def _raise_failure(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        if worker.failure is not None and not isinstance(worker.failure, Stopped):
            raise worker.failure
