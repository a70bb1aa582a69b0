"""Lets one stage of a stream work beside the next one."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from queue import Empty, Full, Queue
from threading import Event, Thread, current_thread
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")

_WAIT_S = 0.1  # between two looks at what else is going on


class _End:
    """The last thing in a queue: the stream is over, or why it broke off."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class Prefetcher(Generic[Item]):
    """Takes the items of a stream in a thread of its own, one ahead of whoever iterates here.

    Use it as a context manager: the thread begins with the block and has ended behind it, whatever
    happened. The order is kept. An error of the stream is raised where its next item would have
    come.

    Args:
        items: the stream; begun, taken and closed in the thread.
        name: of the thread.
        left: set when nobody will take another item, by the end of the block or by anybody else who
            shares it; long work may look at it and stop early.
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
        self._over = False  # this stream; ``left`` may be shared with later stages, still at work
        self._thread = Thread(target=self._work, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._left.set()
        if current_thread() is not self._thread:  # which a garbage collection may run in
            self._thread.join()

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        """Return the next item; none come any more once somebody has left.

        Raises:
            RuntimeError: outside the block.
        """
        if self._thread.ident is None:
            raise RuntimeError("Nothing works beside yet: iterate inside the with block.")
        while not (self._over or self._left.is_set()):
            try:
                taken = self._queue.get(timeout=_WAIT_S)
            except Empty:
                self._while_waiting()
                continue
            if not isinstance(taken, _End):
                return taken
            self._over = True
            if taken.error is None:
                break
            try:
                raise taken.error
            finally:
                del taken  # or the error would keep itself, and all that its frames hold
        raise StopIteration

    def _work(self) -> None:
        try:
            self._pass_on()
        except BaseException as error:  # whatever it is, it belongs to whoever takes the items
            self._put(_End(error))
        else:
            self._put(_End())

    def _pass_on(self) -> None:
        iterator = iter(self._items)
        try:
            for item in iterator:
                if not self._put(item):
                    return
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    def _put(self, item: Item | _End) -> bool:
        """Hand an item over; False if nobody takes items any more."""
        while not self._left.is_set():
            with suppress(Full):
                self._queue.put(item, timeout=_WAIT_S)
                return True
        return False
