"""One at a time, in order, a bounded number."""

from __future__ import annotations

import asyncio
import threading

import pytest

from latentsync.errors import LineFull
from latentsync.server.routes.predict_inline import SerialExecutor


def test_runs_one_at_a_time_in_the_order_of_asking() -> None:
    executor = SerialExecutor(max_waiting=8)
    inside = threading.Semaphore(1)
    order: list[int] = []

    def work(number: int) -> None:
        assert inside.acquire(blocking=False), "two runs at once"
        order.append(number)
        inside.release()

    async def all_at_once() -> None:
        await asyncio.gather(*(executor.run(lambda _, n=n: work(n)) for n in range(6)))

    asyncio.run(all_at_once())
    executor.close()
    assert order == list(range(6))


def test_a_full_queue_refuses_with_retry_after() -> None:
    executor = SerialExecutor(max_waiting=1)
    with executor.place(), executor.place():
        with pytest.raises(LineFull) as refused, executor.place():
            pass
        assert refused.value.retry_after_s == 30
    with executor.place():
        pass
    executor.close()


def test_the_estimate_follows_recent_runs() -> None:
    executor = SerialExecutor(max_waiting=0)
    asyncio.run(executor.run(lambda _: None))
    with executor.place(), pytest.raises(LineFull) as refused, executor.place():
        pass
    executor.close()
    assert refused.value.retry_after_s == 1


def test_a_failed_run_frees_the_device() -> None:
    executor = SerialExecutor(max_waiting=0)

    def fail(_: threading.Event) -> None:
        raise ValueError("defect")

    async def fail_then_run() -> str:
        with pytest.raises(ValueError, match="defect"):
            await executor.run(fail)
        return await executor.run(lambda _: "done")

    assert asyncio.run(fail_then_run()) == "done"
    executor.close()


def test_a_cancelled_run_is_stopped_and_waited_for_before_the_next_begins() -> None:
    executor = SerialExecutor(max_waiting=2)
    events: list[str] = []
    started = threading.Event()

    def until_stopped(canceled: threading.Event) -> None:
        started.set()
        assert canceled.wait(10)
        events.append("stopped")

    async def cancel_first() -> None:
        first = asyncio.create_task(executor.run(until_stopped))
        await asyncio.to_thread(started.wait)
        second = asyncio.create_task(executor.run(lambda _: events.append("second")))
        first.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        assert first.cancelled()

    asyncio.run(cancel_first())
    executor.close()
    assert events == ["stopped", "second"]


def test_a_cancelled_waiter_leaves_the_queue_without_running() -> None:
    executor = SerialExecutor(max_waiting=2)
    started, release = threading.Event(), threading.Event()
    ran: list[str] = []

    def block(_: threading.Event) -> None:
        started.set()
        assert release.wait(60)

    async def leave() -> None:
        running = asyncio.create_task(executor.run(block))
        await asyncio.to_thread(started.wait)
        waiting = asyncio.create_task(executor.run(lambda _: ran.append("waiting")))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        release.set()
        await running

    asyncio.run(leave())
    executor.close()
    assert ran == []


def test_runs_wait_for_the_preparation() -> None:
    executor = SerialExecutor(max_waiting=0)
    release = threading.Event()
    events: list[str] = []

    def prepare() -> None:
        assert release.wait(60)
        events.append("prepared")

    async def run() -> None:
        prepared = executor.prepare(prepare)
        run = asyncio.create_task(executor.run(lambda _: events.append("ran")))
        await asyncio.sleep(0.02)
        release.set()
        await run
        prepared.result()

    asyncio.run(run())
    executor.close()
    assert events == ["prepared", "ran"]


def test_closing_stops_the_running_work_and_waits_for_it() -> None:
    executor = SerialExecutor(max_waiting=0)
    started = threading.Event()
    ended: list[bool] = []

    def until_stopped(canceled: threading.Event) -> None:
        started.set()
        ended.append(canceled.wait(10))

    async def close() -> None:
        run = asyncio.create_task(executor.run(until_stopped))
        await asyncio.to_thread(started.wait)
        await asyncio.to_thread(executor.close)
        assert ended == [True]
        await run

    asyncio.run(close())
