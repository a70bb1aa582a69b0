"""Lets one stage of a stream work beside the next one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Generic, TypeVar

Item = TypeVar("Item")

_WAIT_S = 0.1  # between two looks at what else is going on


class _End:
    """The last thing in a queue: the stream is over, or why it broke off."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class Beside(Generic[Item]):
    """Iterates over ``items`` in a thread of its own, one item ahead of whoever takes them.

    The order is kept. An error of the stream is raised where its next item would have come. Leave
    the iteration at any time: the thread ends after the item it works on.

    Args:
        items: the stream; begun, taken and closed in the thread.
        name: of the thread.
        left: set when nobody will take another item; long work may look at it and stop early.
        while_waiting: called every tenth of a second while the next item is not ready; may raise.
    """

    def __init__(
        self,
        items: Iterable[Item],
        *,
        name: str,
        left: Event | None = None,
        while_waiting: Callable[[], None] = lambda: None,
    ) -> None:
        self._items = items
        self._while_waiting = while_waiting
        self._queue: Queue[Item | _End] = Queue(maxsize=1)
        self._left = left or Event()
        self._thread = Thread(target=self._work, name=name, daemon=True)

    def __iter__(self) -> Iterator[Item]:
        self._thread.start()
        try:
            while True:
                taken = self._take()
                if isinstance(taken, _End):
                    if taken.error is not None:
                        raise taken.error
                    return
                yield taken
        finally:
            self._left.set()
            self._thread.join()

    def _take(self) -> Item | _End:
        while True:
            with suppress(Empty):
                return self._queue.get(timeout=_WAIT_S)
            self._while_waiting()

    def _work(self) -> None:
        end = _End()
        iterator = iter(self._items)
        try:
            for item in iterator:
                if not self._put(item):
                    break
        except BaseException as error:  # whatever it is, it belongs to whoever takes the items
            end = _End(error)
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
        self._put(end)

    def _put(self, item: Item | _End) -> bool:
        """Hand an item over; False if nobody takes items any more."""
        while not self._left.is_set():
            with suppress(Full):
                self._queue.put(item, timeout=_WAIT_S)
                return True
        return False
