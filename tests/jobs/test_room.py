"""Room for media: what is counted, and what counts between two counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from latentsync.errors import DiskFull
from latentsync.jobs.database import open_database
from latentsync.jobs.files import FileStore
from latentsync.jobs.room import Room
from latentsync.jobs.store import JobStore
from latentsync.settings import Settings
from tests.jobs.records import Clock, add

Build = Callable[..., Room]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = open_database(f"sqlite:///{tmp_path / 'jobs.db'}")
    yield engine
    engine.dispose()


@pytest.fixture
def build(tmp_path: Path, engine: sa.Engine) -> Build:
    def room(clock: Clock, **limits: int) -> Room:
        settings = Settings(data_dir=tmp_path, **{"min_free_bytes": 0, **limits})
        return Room(JobStore(engine), FileStore(settings.storage), settings, clock)

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
