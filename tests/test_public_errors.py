"""Public errors of real database failures, and what they do not contain."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from latentsync import public_errors
from latentsync.errors import DiskFull, InternalError, RecordUnavailable
from latentsync.public_errors import log_database_error, to_database_error, to_public_error
from tests.ports import free_port


@contextmanager
def engine_of(url: str, **options: object) -> Iterator[sa.Engine]:
    engine = sa.create_engine(url, **options)
    yield engine
    engine.dispose()


def failure(engine: sa.Engine, statement: str = "SELECT * FROM sqlite_master") -> Exception:
    with pytest.raises(sa.exc.SQLAlchemyError) as failed, engine.connect() as connection:
        connection.exec_driver_sql(statement)
    return failed.value


def test_an_unreachable_server_is_a_database_error_without_its_address() -> None:
    with engine_of(f"postgresql+psycopg://me:secret@127.0.0.1:{free_port()}/jobs") as engine:
        error = to_public_error(failure(engine), "run")
    assert isinstance(error, RecordUnavailable)
    assert (error.status, error.code, error.retry_after_s) == (503, "RECORD_UNAVAILABLE", 5.0)
    assert not any(
        reported in error.message for reported in ("me:", "secret", "127.0.0.1", "jobs/")
    )


def test_a_file_that_is_no_database_is_an_unreachable_database(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").write_bytes(b"garbage!" * 512)
    with engine_of(f"sqlite:///{tmp_path / 'jobs.db'}") as engine:
        error = to_database_error(failure(engine))
    assert isinstance(error, RecordUnavailable)
    assert str(tmp_path) not in error.message


def test_a_locked_database_is_an_unreachable_database(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    holder = sqlite3.connect(path)
    holder.execute("BEGIN EXCLUSIVE")
    with engine_of(f"sqlite:///{path}", connect_args={"timeout": 0}) as engine:
        assert isinstance(to_database_error(failure(engine)), RecordUnavailable)
    holder.close()


def test_no_free_connection_is_an_unreachable_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    options = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 0.01}
    with engine_of(url, poolclass=sa.QueuePool, **options) as engine, engine.connect():
        assert isinstance(to_database_error(failure(engine)), RecordUnavailable)


def test_a_database_without_room_is_a_full_disk(tmp_path: Path) -> None:
    with engine_of(f"sqlite:///{tmp_path / 'jobs.db'}") as engine, engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")
        with pytest.raises(sa.exc.OperationalError) as full:
            connection.exec_driver_sql("CREATE TABLE a (b)")
    assert isinstance(to_database_error(full.value), DiskFull)


def test_what_a_library_has_wrapped_is_found_and_a_defect_stays_one(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").write_bytes(b"garbage!" * 512)
    wrapped = RuntimeError("the queue failed")
    with engine_of(f"sqlite:///{tmp_path / 'jobs.db'}") as engine:
        wrapped.__cause__ = failure(engine)
    assert isinstance(to_public_error(wrapped, "run"), RecordUnavailable)
    for defect in (
        ValueError("b"),
        sa.exc.ArgumentError("b"),
        sa.exc.IntegrityError("s", {}, wrapped),
    ):
        assert isinstance(to_public_error(defect, "run"), InternalError)


def test_a_database_that_stays_away_is_said_once_and_not_for_every_call(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(public_errors, "_outage", public_errors._Outage())
    path = tmp_path / "jobs.db"
    with (
        closing(sqlite3.connect(path)) as holder,
        engine_of(f"sqlite:///{path}", connect_args={"timeout": 0}) as engine,
    ):
        holder.execute("BEGIN EXCLUSIVE")
        faults = [log_database_error(failure(engine)) for _ in range(3)]
    assert [type(fault) for fault in faults] == [RecordUnavailable] * 3
    said = "The jobs database cannot be reached (database is locked)"
    assert [record.getMessage() for record in caplog.records] == [said]
    assert caplog.records[0].exc_info is None


def test_a_defect_is_not_said_to_be_the_databases(caplog: pytest.LogCaptureFixture) -> None:
    assert log_database_error(ValueError("b")) is None
    assert caplog.records == []
