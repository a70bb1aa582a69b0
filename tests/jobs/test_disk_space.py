"""Room for media: what is counted, and what counts between two counts."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import pytest
import sqlalchemy as sa

from latentsync.errors import DiskFull
from latentsync.jobs.database import open_database
from latentsync.jobs.disk_space import DiskReserve, StorageBudget
from latentsync.jobs.storage import Storage
from latentsync.jobs.store import JobStore
from latentsync.settings import Settings
from tests.jobs.records import Clock, add

Build = Callable[..., StorageBudget]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = open_database(f"sqlite:///{tmp_path / 'jobs.db'}")
    yield engine
    engine.dispose()


@pytest.fixture
def build(tmp_path: Path, engine: sa.Engine) -> Build:
    def room(clock: Clock, **limits: int) -> StorageBudget:
        settings = Settings(data_dir=tmp_path, **{"min_free_bytes": 0, **limits})
        return StorageBudget(JobStore(engine), Storage(settings.storage), settings, clock)

    return room


def test_what_is_let_in_between_two_counts_is_added(build: Build, engine: sa.Engine) -> None:
    room = build(Clock(), max_stored_bytes=100)
    room.take(60)
    with pytest.raises(DiskFull, match="as many bytes"):
        room.take(60)
    room.take(40)


def test_what_others_stored_or_removed_is_counted_soon(build: Build, engine: sa.Engine) -> None:
    clock = Clock()
    room = build(clock, max_stored_bytes=100)
    room.take(100)  # and never stored
    clock.now += 1
    add(JobStore(engine), input_bytes=70)
    with pytest.raises(DiskFull):
        room.take(40)
    room.take(30)


def test_so_much_of_the_disk_stays_free(build: Build) -> None:
    with pytest.raises(DiskFull, match="nearly full"):
        build(Clock(), min_free_bytes=2**62).take(1)


def reserve_in(folder: Path, min_free_bytes: int = 0, **settings: str) -> DiskReserve:
    own = {"data_dir": folder / "data", "work_dir": folder / "work"}
    chosen = Settings(**{**own, "min_free_bytes": min_free_bytes, **settings})
    return DiskReserve(chosen, Storage(chosen.storage))


def test_a_reserve_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert not reserve_in(tmp_path).is_short()
    short = reserve_in(tmp_path, 2**62)
    assert short.is_short()
    with pytest.raises(DiskFull):
        short.require()


def test_the_work_folder_counts_wherever_the_files_are(tmp_path: Path) -> None:
    elsewhere = {"storage_url": "memory://bucket", "database_url": "postgresql+psycopg://host/db"}
    assert reserve_in(tmp_path, 2**62, **elsewhere).is_short()
    roomy = reserve_in(tmp_path, **elsewhere)
    roomy.require_to_store(2**62)  # not on a disk of this machine
    with pytest.raises(DiskFull):
        roomy.require_for_body(2**62, 0)


def test_a_body_is_written_once_and_files_for_one_disk_are_added_up(tmp_path: Path) -> None:
    reserve = reserve_in(tmp_path)
    most_of_it = shutil.disk_usage(tmp_path).free * 7 // 10
    reserve.require_to_store(most_of_it)
    reserve.require_for_body(most_of_it, 0)
    with pytest.raises(DiskFull):
        reserve.require_for_body(2 * most_of_it, 0)
    reserve.require_for_body(2 * most_of_it, most_of_it)  # the first half is there already
    reserve.require_for_body(0, most_of_it)  # nothing was declared
    with pytest.raises(DiskFull):
        reserve.require([(tmp_path, most_of_it), (tmp_path / "data", most_of_it)])


def test_a_result_waits_for_room_until_its_time_is_up_or_nobody_wants_it(tmp_path: Path) -> None:
    canceled = Event()
    reserve_in(tmp_path).wait_to_store(1, patience_s=0, canceled=canceled)
    short = reserve_in(tmp_path, 2**62)
    with pytest.raises(DiskFull):
        short.wait_to_store(1, patience_s=-1, canceled=canceled)
    canceled.set()
    with pytest.raises(DiskFull):
        short.wait_to_store(1, patience_s=3600, canceled=canceled)
