"""Runs one stage of a stream concurrently with the next one."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from queue import Empty, Full, Queue
from threading import Event, Thread, current_thread
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")

_WAIT_S = 0.1  # between two checks whether to stop


class _End:
    """The last item in the queue: the end of the stream, or its error."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class Prefetcher(Generic[Item]):
    """Iterates over a stream in a thread, one item ahead of the consumer.

    Use it as a context manager: the thread runs within the block. The order is kept. An error of
    the stream is raised in place of its next item.

    Args:
        items: the stream; iterated over and closed in the thread.
        name: of the thread.
        left: set at the end of the block, when no further item is needed. Stages may share it, and
            long work may check it to stop early.
        while_waiting: called every 0.1 s while the next item is not ready; may raise.
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
        self._over = False  # only this stream; ``left`` may be shared with stages that still run
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
        if current_thread() is not self._thread:  # garbage collection may run in it
            self._thread.join()

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        """Return the next item; the iteration ends once ``left`` is set.

        Raises:
            RuntimeError: outside of the block.
        """
        if self._thread.ident is None:
            raise RuntimeError("The thread does not run: iterate inside the with block.")
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
                del taken  # breaks the reference cycle of the error and its traceback
        raise StopIteration

    def _work(self) -> None:
        try:
            self._pass_on()
        except BaseException as error:  # raised again in the consumer
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
        """Put an item into the queue; return False if the consumer has stopped."""
        while not self._left.is_set():
            with suppress(Full):
                self._queue.put(item, timeout=_WAIT_S)
                return True
        return False
