"""Fixtures that every part of the test suite may use."""

from __future__ import annotations

import functools
import gc
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from latentsync.monitor import RunMonitor
from latentsync.settings import Settings
from tests.network.attempts import JobExecutor

_attempts = JobExecutor()
_LONGEST = "test_silence.py"  # it mostly waits
_MARKS_OF_FILE = re.compile(r"^pytestmark = (.*)", re.MULTILINE)


def pytest_configure(config: pytest.Config) -> None:
    """Let tests interrupt what they start: what a shell runs in the background ignores Ctrl-C."""
    _attempts.watch()
    if not config.getoption("numprocesses", None):  # else this process loads nothing
        gc.disable()  # while everything is loaded
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Spare the garbage collector what is loaded by now and stays: most of all there is."""
    gc.enable()
    gc.collect()
    gc.freeze()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave files alone of which every test is deselected: loading them takes seconds."""
    expression = config.getoption("markexpr")
    if collection_path.suffix != ".py" or re.search(r"\bor\b|\(", expression):
        return None
    left_out = re.findall(r"\bnot (\w+)", expression)
    marks = _MARKS_OF_FILE.search(collection_path.read_text(encoding="utf-8"))
    is_left_out = marks is not None and any(f"mark.{one}" in marks[1] for one in left_out)
    return True if is_left_out else None


@pytest.hookimpl(trylast=True)  # once others have left out what is not to be run
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let each process begin with its share of what takes long: the others run meanwhile.

    Every process of xdist is given a piece of the list at first.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    slow = sorted(
        (one for one in items if _is_slow(one)), key=lambda one: one.path.name != _LONGEST
    )
    others = [one for one in items if not _is_slow(one)]
    piece = -(-len(items) // workers)
    items.clear()
    for number in range(workers):
        begins = slow[number::workers]
        rest = piece - len(begins)
        items += begins + others[:rest]
        del others[:rest]


def _is_slow(item: pytest.Item) -> bool:
    return item.path.name == _LONGEST or item.get_closest_marker("slow") is not None


@pytest.fixture(scope="session", autouse=True)
def _certificates_read_once() -> Iterator[None]:
    """Let all callers share their TLS contexts.

    httpx reads the authorities' certificates for each client, which takes 20 ms: more than a call.
    """
    with pytest.MonkeyPatch.context() as patch:
        read_once = functools.cache(httpx.create_ssl_context)
        patch.setattr("httpx._transports.default.create_ssl_context", read_once)
        yield


@pytest.fixture
def attempts() -> JobExecutor:
    """What this process has tried to reach beyond loopback; forgotten when a test ends."""
    return _attempts


@pytest.fixture(autouse=True)
def _within_this_machine(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that reaches for anything beyond loopback, or asks for a name."""
    yield
    found = _attempts.take()
    if request.node.get_closest_marker("network") is None:
        assert found == [], "tests stay on this machine"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings that let tests read from their own folder and work in it."""
    return Settings(work_dir=tmp_path / "work", allowed_roots=(tmp_path,))


@pytest.fixture
def monitor() -> RunMonitor:
    """A monitor without deadline or listener."""
    return RunMonitor()
