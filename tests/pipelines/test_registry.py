from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Event, Thread

import pytest

from latentsync.errors import Canceled
from latentsync.pipelines.registry import PipelineCache
from latentsync.schema.engines import ENGINES
from latentsync.settings import Settings
from tests.engine_builders import replace_builders

WAIT_S = 30.0


class Built:
    """Stands for a pipeline; there is one of each name."""

    def __init__(self, name: str) -> None:
        self.name = name


class Slow:
    """Building latentsync-1.6 blocks until an event is set; other engines are built at once."""

    begun, ready = Event(), Event()


def build(name: str, _settings: Settings, _check: Callable[[], None]) -> Built:
    if name == "latentsync-1.6":
        Slow.begun.set()
        assert Slow.ready.wait(WAIT_S)
    return Built(name)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Iterator[PipelineCache]:
    """Engines of which one is being built."""
    replace_builders(monkeypatch, dict.fromkeys(ENGINES, (__name__, "build")))
    monkeypatch.setattr(Slow, "begun", Event())
    monkeypatch.setattr(Slow, "ready", Event())
    engines = PipelineCache(Settings())
    engines.get("draft")
    thread = Thread(target=engines.get, args=("latentsync-1.6",))
    thread.start()
    assert Slow.begun.wait(WAIT_S)
    yield engines
    Slow.ready.set()
    thread.join()


def test_an_engine_that_is_built_waits_for_no_other(engines: PipelineCache) -> None:
    assert engines.get("draft") is engines.get("draft")
    assert not Slow.ready.is_set()


def test_waiting_for_another_engine_can_be_stopped(engines: PipelineCache) -> None:
    def give_up() -> None:
        raise Canceled("enough")

    with pytest.raises(Canceled):
        engines.get("latentsync-1.5", give_up)
    assert not Slow.ready.is_set()


def test_the_engine_that_was_waited_for_is_built_once(engines: PipelineCache) -> None:
    waited = engines.get("latentsync-1.6", Slow.ready.set)
    assert waited is engines.get("latentsync-1.6")
    assert engines.get("latentsync-1.5").name == "latentsync-1.5"


def test_one_that_could_not_be_built_is_tried_again(
    engines: PipelineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    Slow.ready.set()
    failing = {"latentsync-1.5": (__name__, "fail")}
    with monkeypatch.context() as patch:
        replace_builders(patch, failing)
        with pytest.raises(RuntimeError, match="a file is missing"):
            engines.get("latentsync-1.5")
    assert engines.get("latentsync-1.5").name == "latentsync-1.5"


def fail(*_: object) -> None:
    raise RuntimeError("a file is missing")
