from __future__ import annotations

import time
from threading import Event

import pytest

from latentsync.errors import Canceled, DeadlineExceeded
from latentsync.monitor import Progress, RunMonitor, backoff_s


def test_the_listener_hears_rising_fractions_only():
    heard: list[Progress] = []
    monitor = RunMonitor(heard.append)
    for fraction in (0.1, 0.5, 0.3, 2.0):
        monitor.report("work", fraction)
    assert [progress.fraction for progress in heard] == [0.1, 0.5, 0.5, 1.0]


def test_fractions_inside_a_span_count_as_its_part_of_the_run():
    heard: list[Progress] = []
    monitor = RunMonitor(heard.append)
    with monitor.span(0.2, 0.6):
        monitor.report("faces", 0.5, 5, 10)
        monitor.report("faces", 1.0, 10, 10)
    monitor.report("frames", 0.8)
    assert [round(progress.fraction, 6) for progress in heard] == [0.4, 0.6, 0.8]
    assert heard[0] == Progress("faces", 0.4, 5, 10)


def test_a_span_ends_with_its_block_even_when_it_raises():
    monitor = RunMonitor()
    with pytest.raises(ValueError, match="broken"), monitor.span(0.0, 0.1):
        raise ValueError("broken")
    monitor.report("after", 0.5)
    assert monitor.fraction == 0.5


def test_every_report_notices_a_cancellation():
    canceled = Event()
    monitor = RunMonitor(canceled=canceled)
    monitor.report("work", 0.1)
    canceled.set()
    with pytest.raises(Canceled):
        monitor.report("work", 0.2)


def test_the_deadline_is_noticed_and_the_rest_never_negative():
    monitor = RunMonitor(deadline_s=0.01)
    time.sleep(0.02)
    assert monitor.remaining_s() == 0.0
    with pytest.raises(DeadlineExceeded, match=r"0\.01 s"):
        monitor.check()
    assert RunMonitor().remaining_s() is None


def test_seconds_of_one_stage_add_up_also_when_it_fails():
    monitor = RunMonitor()
    monitor.add_seconds("read", 2.0)
    with pytest.raises(KeyError), monitor.timed("read"):
        raise KeyError("x")
    assert 2.0 <= monitor.seconds["read"] < 60


def test_pauses_between_retries_double_up_to_their_bound():
    for retry, longest_s in ((1, 0.5), (2, 1.0), (3, 2.0), (4, 3.0), (10_000, 3.0)):
        for _ in range(20):
            assert longest_s / 2 <= backoff_s(retry, first_s=0.5, longest_s=3.0) <= longest_s
    assert backoff_s(1, first_s=0.0, longest_s=3.0) == 0.0


def test_pauses_between_retries_spread_out():
    assert len({backoff_s(1, first_s=1.0, longest_s=1.0) for _ in range(10)}) > 1
