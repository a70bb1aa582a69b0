"""A name is one living worker's, on whichever machine; a dead one's is free after a while."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import sqlalchemy as sa

from latentsync.errors import InternalError
from latentsync.jobs.database import host_engines, hosts, open_database
from latentsync.jobs.engine_availability import LivingWorker, living_workers
from latentsync.jobs.models import SILENCE_S, DeviceMemory
from latentsync.schema.engines import EngineSurvey, Obstacle
from latentsync.worker.membership import NameLost, WorkerRegistry
from tests.jobs.postgres import postgres
from tests.jobs.records import Clock

HERE, THERE = "lock file here", "lock file there"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = open_database(f"sqlite:///{tmp_path / 'jobs.db'}")
    yield engine
    engine.dispose()


@pytest.fixture
def clock() -> Clock:
    return Clock(0.0)


def waiting(clock: Clock, meanwhile: Callable[[], None] = lambda: None) -> Callable[[float], bool]:
    """Return a wait that moves the clock while something happens."""

    def wait(seconds: float) -> bool:
        clock.now += seconds
        meanwhile()
        return False

    return wait


def joined(engine: sa.Engine, clock: Clock, holder: str) -> WorkerRegistry:
    registry = WorkerRegistry(engine, "w", clock)
    assert registry.join(holder, waiting(clock))
    return registry


def test_a_worker_that_comes_back_to_its_machine_has_its_name_at_once(
    engine: sa.Engine, clock: Clock
) -> None:
    joined(engine, clock, HERE)
    again = joined(engine, clock, HERE)
    assert clock.now == 0
    again.heartbeat()
    assert again.living() == {"w"}


def test_a_living_workers_name_is_refused_on_another_machine(
    engine: sa.Engine, clock: Clock
) -> None:
    alive = joined(engine, clock, HERE)
    with pytest.raises(InternalError, match="named 'w' runs on another machine") as refused:
        WorkerRegistry(engine, "w", clock).join(THERE, waiting(clock, alive.heartbeat))
    assert "LATENTSYNC_WORKER_NAME" in refused.value.message
    assert clock.now < SILENCE_S
    alive.heartbeat()


def test_a_crashed_workers_name_is_free_after_its_silence(engine: sa.Engine, clock: Clock) -> None:
    crashed = joined(engine, clock, HERE)
    joined(engine, clock, THERE).heartbeat()
    assert SILENCE_S <= clock.now < SILENCE_S + 2
    with pytest.raises(NameLost):  # it was only held up
        crashed.heartbeat()
    crashed.leave()  # which takes nothing from the one who has the name now
    joined(engine, clock, THERE).heartbeat()


def test_the_name_of_a_worker_that_leaves_is_free_at_once(engine: sa.Engine, clock: Clock) -> None:
    alive = joined(engine, clock, HERE)
    newcomer = WorkerRegistry(engine, "w", clock)
    assert newcomer.join(THERE, waiting(clock, alive.leave))
    assert clock.now < 2
    newcomer.heartbeat()


def test_a_worker_that_shall_stop_waits_no_longer(engine: sa.Engine, clock: Clock) -> None:
    alive = joined(engine, clock, HERE)
    assert not WorkerRegistry(engine, "w", clock).join(THERE, lambda _: True)
    alive.heartbeat()


def test_of_many_that_take_a_name_at_once_one_may(engine: sa.Engine) -> None:
    together = Barrier(4)

    def join(number: int) -> bool:
        together.wait()
        try:
            return WorkerRegistry(engine, "w", Clock(0.0)).join(f"holder {number}", lambda _: True)
        except InternalError:
            return False

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(join, range(4))) == 1


def test_a_worker_tells_how_full_its_device_is(engine: sa.Engine, clock: Clock) -> None:
    alive = joined(engine, clock, HERE)
    for memory in (None, DeviceMemory(1 << 30, 80 << 30), DeviceMemory(2 << 30, 80 << 30), None):
        alive.heartbeat(memory)
        assert living_workers(engine) == [LivingWorker("w", memory)]


def test_a_worker_tells_which_engines_it_can_run(engine: sa.Engine, clock: Clock) -> None:
    alive = WorkerRegistry(engine, "w", clock)
    assert alive.join(HERE, waiting(clock), survey())
    assert living_workers(engine) == [LivingWorker("w", None, survey())]  # before it greets
    for told in (survey("torch is missing."), survey("torch is missing."), survey()):
        alive.heartbeat(None, told)
        assert living_workers(engine) == [LivingWorker("w", None, told)]
    alive.heartbeat()
    assert living_workers(engine) == [LivingWorker("w", None, survey())]
    again = WorkerRegistry(engine, "w", clock)
    assert again.join(HERE, waiting(clock), survey("torch is missing."))
    assert living_workers(engine)[0].engines == survey("torch is missing.")
    again.leave()
    with engine.connect() as connection:
        assert connection.execute(sa.select(host_engines)).all() == []


def test_of_a_name_that_a_worker_of_an_earlier_version_takes_nothing_is_known(
    engine: sa.Engine, clock: Clock
) -> None:
    later = WorkerRegistry(engine, "w", clock)
    assert later.join(HERE, waiting(clock), survey())
    joined(engine, clock, HERE).heartbeat()
    assert living_workers(engine) == [LivingWorker("w", None, None)]


def test_a_database_of_an_earlier_version_gets_what_it_lacks(
    engine: sa.Engine, clock: Clock
) -> None:
    joined(engine, clock, THERE)
    host_engines.drop(engine)
    opened = open_database(engine.url.render_as_string())
    assert living_workers(opened) == [LivingWorker("w", None, None)]
    alive = WorkerRegistry(opened, "w2", clock)
    assert alive.join(HERE, waiting(clock), survey())
    assert [one.engines for one in living_workers(opened)] == [None, survey()]
    opened.dispose()


@pytest.mark.processes
def test_in_postgres_too_a_worker_tells_what_it_can_run_and_it_goes_with_its_name() -> None:
    with postgres() as url:
        engine = open_database(url)
        alive = WorkerRegistry(engine, "w")
        assert alive.join(HERE, lambda _: False, survey())
        alive.heartbeat(None, survey("torch is missing."))
        assert living_workers(engine) == [LivingWorker("w", None, survey("torch is missing."))]
        with engine.begin() as connection:
            assert len(living_workers(engine, connection)) == 1
        alive.leave()
        assert living_workers(engine) == []
        with engine.connect() as connection:
            assert connection.execute(sa.select(host_engines)).all() == []
        engine.dispose()


def survey(reason: str | None = None) -> EngineSurvey:
    """Return what a worker says whose LatentSync cannot run for this reason."""
    obstacle = None if reason is None else Obstacle("ENGINE_UNAVAILABLE", reason)
    return EngineSurvey("auto", "draft", {"auto": None, "latentsync-1.6": obstacle, "draft": None})


def test_a_worker_that_crashed_long_ago_is_forgotten(engine: sa.Engine, clock: Clock) -> None:
    for name, days in (("long ago", 1.1), ("lately", 0.9)):
        assert WorkerRegistry(engine, name, clock).join(name, waiting(clock))
        with engine.begin() as connection:
            silent = hosts.update().where(hosts.c.name == name)
            connection.execute(silent.values(seen_at=time.time() - days * 86_400))
    alive = joined(engine, clock, HERE)
    alive.heartbeat()
    assert names(engine) == ["lately", "long ago", "w"]  # it may be alive, with a wrong clock
    pass_silence(clock, alive)
    assert names(engine) == ["lately", "w"]


def test_a_worker_with_a_wrong_clock_is_not_forgotten(
    engine: sa.Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive, wrong = joined(engine, clock, HERE), WorkerRegistry(engine, "wrong", clock)
    assert wrong.join(THERE, waiting(clock))
    now = time.time()

    def greet_wrongly() -> None:
        with monkeypatch.context() as patched:
            patched.setattr("time.time", lambda: now - 3 * 86_400 + clock.now)
            wrong.heartbeat()

    pass_silence(clock, alive, greet_wrongly)
    assert names(engine) == ["w", "wrong"]
    wrong.heartbeat()


def pass_silence(
    clock: Clock, alive: WorkerRegistry, meanwhile: Callable[[], None] = lambda: None
) -> None:
    """Let a worker look around for longer than a silence."""
    for _ in range(round(SILENCE_S / 5) + 1):
        clock.now += 5
        meanwhile()
        alive.heartbeat()


def names(engine: sa.Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.execute(sa.select(hosts.c.name).order_by(hosts.c.name)).scalars())
