from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from latentsync.errors import Canceled
from latentsync.pipelines.prefetch import Prefetcher


def threads_named(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


def test_items_come_in_order() -> None:
    with Prefetcher(range(50), name="numbers") as numbers:
        assert list(numbers) == list(range(50))
    assert threads_named("numbers") == []


def test_nothing_comes_outside_the_block() -> None:
    with pytest.raises(RuntimeError, match="inside the with block"):
        next(Prefetcher(range(3), name="outside"))


def test_the_stream_works_beside_its_taker() -> None:
    ran_in: list[str] = []
    begun = threading.Event()

    def items() -> Iterator[int]:
        ran_in.append(threading.current_thread().name)
        yield 0
        begun.set()  # while the first item is still being used
        yield 1

    with Prefetcher(items(), name="elsewhere") as numbers:
        for item in numbers:
            if item == 0:
                assert begun.wait(5)
    assert ran_in == ["elsewhere"]


def test_an_error_comes_where_its_item_would_have_come() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise Canceled("stop")

    with Prefetcher(items(), name="failing") as taken:
        assert next(taken) == 1
        with pytest.raises(Canceled, match="stop"):
            next(taken)
        assert list(taken) == []
    assert threads_named("failing") == []


class Unclosable:
    """A stream that fails when it is closed."""

    def __iter__(self) -> Unclosable:
        return self

    def __next__(self) -> int:
        raise StopIteration

    def close(self) -> None:
        raise Canceled("cannot be closed")


@pytest.mark.parametrize("items", [Unclosable(), 5])
def test_a_stream_that_cannot_be_begun_or_closed_is_an_error_and_no_wait(items: Any) -> None:
    with Prefetcher(items, name="broken") as taken, pytest.raises((Canceled, TypeError)):
        next(taken)
    assert threads_named("broken") == []


def test_leaving_ends_the_thread_and_closes_the_stream() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            closed.set()

    with Prefetcher(items(), name="left") as numbers:
        assert next(numbers) == 0
    assert closed.is_set()
    assert threads_named("left") == []


def test_long_work_sees_that_the_consumer_has_stopped() -> None:
    left = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        assert left.wait(5)

    with Prefetcher(items(), name="stopping", left=left) as numbers:
        next(numbers)
    assert threads_named("stopping") == []


def test_waiting_can_be_stopped() -> None:
    go_on = threading.Event()

    def items() -> Iterator[int]:
        go_on.wait(5)
        yield 0

    def stop() -> None:
        go_on.set()
        raise Canceled("enough")

    with (
        pytest.raises(Canceled, match="enough"),
        Prefetcher(items(), name="waited", while_waiting=stop) as numbers,
    ):
        next(numbers)
    assert threads_named("waited") == []


def test_streams_may_follow_each_other() -> None:
    with (
        Prefetcher(range(20), name="first") as first,
        Prefetcher((number**2 for number in first), name="second") as second,
    ):
        assert list(second) == [number**2 for number in range(20)]
    assert threads_named("first") == threads_named("second") == []


def test_streams_that_share_their_end_stop_together() -> None:
    left, no_check = threading.Event(), threading.Event()

    def endless() -> Iterator[int]:
        yield 0
        while not left.is_set():
            no_check.wait(0.01)

    with (
        Prefetcher(endless(), name="first", left=left) as first,
        Prefetcher((number for number in first), name="second", left=left) as second,
    ):
        assert next(second) == 0
    assert threads_named("first") == threads_named("second") == []


def test_an_error_does_not_hold_on_to_what_its_frames_held() -> None:
    class Large:
        pass

    kept: list[weakref.ref[Large]] = []

    def items() -> Iterator[int]:
        large = Large()
        kept.append(weakref.ref(large))
        yield 0
        raise Canceled("stop")

    def take() -> None:
        with Prefetcher(items(), name="failing") as numbers:
            list(numbers)

    gc.disable()
    try:
        with pytest.raises(Canceled) as caught:
            take()
        del caught
        assert kept[0]() is None
    finally:
        gc.enable()
