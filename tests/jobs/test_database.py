"""How the record is opened: what is waited for, and for how long."""

from __future__ import annotations

import socket
import sqlite3
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from dbos import _sys_db_sqlite

from latentsync.errors import RecordUnavailable
from latentsync.jobs import database
from latentsync.jobs.database import open_database
from latentsync.jobs.queue import JobQueue
from latentsync.jobs.store import JobStore
from tests.jobs.records import new_job
from tests.ports import free_port


def test_a_server_that_is_gone_is_not_asked_again_and_again() -> None:
    with pytest.raises(sa.exc.OperationalError) as failed:
        open_database(f"postgresql+psycopg://me:secret@127.0.0.1:{free_port()}/jobs")
    assert "secret" not in str(failed.value)


@pytest.mark.processes  # it waits for two seconds
def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(database._POSTGRES_TIMEOUTS, "connect_timeout", "2")  # libpq's least
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(sa.exc.OperationalError):
            open_database(f"postgresql+psycopg://127.0.0.1:{silent.getsockname()[1]}/jobs")
    assert time.monotonic() - started < 60  # by itself it would take for ever


def test_what_an_address_says_of_patience_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_make_tables", lambda _: None)
    url = "postgresql+psycopg://127.0.0.1/jobs?connect_timeout=60&application_name=me"
    asked = open_database(url).url.query
    assert (asked["connect_timeout"], asked["application_name"]) == ("60", "me")
    assert asked["tcp_user_timeout"] == "10000"


def test_a_folder_that_is_missing_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    open_database(f"sqlite:///{tmp_path / 'new' / 'jobs.db'}").dispose()
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


WAYS_TO_TELL_THE_TIME = ("strftime('%s','now')", "unixepoch('subsec')")  # of DBOS, by Python


@pytest.mark.parametrize("written", WAYS_TO_TELL_THE_TIME)
def test_a_record_that_another_python_made_works_with_an_older_sqlite(
    written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_SQLITE_WITH_MILLISECONDS", (99,))  # whatever is installed here
    made = [
        statements.replace(WAYS_TO_TELL_THE_TIME[0], written).replace(
            WAYS_TO_TELL_THE_TIME[1], written
        )
        for statements in _sys_db_sqlite.sqlite_migrations
    ]
    monkeypatch.setattr(_sys_db_sqlite, "sqlite_migrations", made)
    engine = open_database(f"sqlite:///{tmp_path / 'jobs.db'}")
    queue = JobQueue(engine)
    began_at = time.time()
    with engine.begin() as connection:
        JobStore(engine).insert(connection, [new_job()], queue.put)
    with engine.connect() as connection:
        table = "SELECT sql FROM sqlite_master WHERE name = 'workflow_status'"
        assert written in connection.exec_driver_sql(table).scalar_one()
        line = connection.exec_driver_sql("SELECT created_at, updated_at FROM workflow_status")
        assert all(int(began_at) * 1000 <= at <= time.time() * 1000 for at in line.one())
    queue.close()
    engine.dispose()


def test_the_function_given_to_an_older_sqlite_is_for_one_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_SQLITE_WITH_MILLISECONDS", (99,))
    engine = open_database(f"sqlite:///{tmp_path / 'jobs.db'}")
    with engine.connect() as connection:
        began_at = round(time.time(), 3)
        now = connection.exec_driver_sql("SELECT unixepoch('subsec')").scalar_one()
        assert began_at <= now <= round(time.time(), 3)
        with pytest.raises(sa.exc.OperationalError, match="function raised exception"):
            connection.exec_driver_sql("SELECT unixepoch('2020-01-01')").scalar_one()
    engine.dispose()


def test_an_sqlite_that_is_too_old_is_said_with_both_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.36.0")
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
    with pytest.raises(RecordUnavailable, match=r"has SQLite 3\.36\.0; .* needs 3\.37 or later"):
        open_database(f"sqlite:///{tmp_path / 'new' / 'jobs.db'}")
    assert not (tmp_path / "new").exists()
