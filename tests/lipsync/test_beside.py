from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from latentsync.errors import Canceled
from latentsync.lipsync.beside import Beside


def threads_named(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


def test_items_come_in_order() -> None:
    assert list(Beside(range(50), name="numbers")) == list(range(50))


def test_the_stream_works_beside_its_taker() -> None:
    ran_in: list[str] = []
    begun = threading.Event()

    def items() -> Iterator[int]:
        ran_in.append(threading.current_thread().name)
        yield 0
        begun.set()  # while the first item is still being used
        yield 1

    for item in Beside(items(), name="elsewhere"):
        if item == 0:
            assert begun.wait(5)
    assert ran_in == ["elsewhere"]


def test_an_error_comes_where_its_item_would_have_come() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise Canceled("stop")

    taken = iter(Beside(items(), name="failing"))
    assert next(taken) == 1
    with pytest.raises(Canceled, match="stop"):
        next(taken)
    assert threads_named("failing") == []


def test_leaving_ends_the_thread_and_closes_the_stream() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            closed.set()

    for item in Beside(items(), name="left"):
        if item == 3:
            break
    assert closed.wait(5)
    assert threads_named("left") == []


def test_leaving_is_told_to_long_work() -> None:
    left = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        assert left.wait(5)

    for _ in Beside(items(), name="told", left=left):
        break
    assert threads_named("told") == []


def test_whoever_waits_may_stop_waiting() -> None:
    go_on = threading.Event()

    def items() -> Iterator[int]:
        go_on.wait(5)
        yield 0

    def stop() -> None:
        go_on.set()
        raise Canceled("enough")

    with pytest.raises(Canceled, match="enough"):
        next(iter(Beside(items(), name="waited", while_waiting=stop)))
    assert threads_named("waited") == []


def test_streams_may_follow_each_other() -> None:
    first = Beside(range(20), name="first")
    second = Beside((number**2 for number in first), name="second")
    assert list(second) == [number**2 for number in range(20)]
    assert threads_named("first") == threads_named("second") == []
