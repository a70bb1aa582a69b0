"""Fixtures that every part of the test suite may use."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from latentsync.monitor import RunMonitor
from latentsync.settings import Settings


def pytest_configure() -> None:
    """Let tests interrupt what they start: what a shell runs in the background ignores Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings that let tests read from their own folder and work in it."""
    return Settings(work_dir=tmp_path / "work", allowed_roots=(tmp_path,))


@pytest.fixture
def monitor() -> RunMonitor:
    """A monitor without deadline or listener."""
    return RunMonitor()
