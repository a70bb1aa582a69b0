"""What DBOS logs comes through as this process logs, but for what is no failure of anything."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from dbos import error as dbos_error

from latentsync import public_errors
from latentsync.jobs.queue import configure_dbos_logging

AWAY = sa.exc.OperationalError("SELECT", {}, sqlite3.OperationalError("database is locked"))


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    monkeypatch.setattr(public_errors, "_outage", public_errors._Outage())
    configure_dbos_logging()
    return logging.getLogger("dbos")


def test_a_canceled_job_is_no_failure(
    line: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    for canceled in (
        dbos_error.DBOSAwaitedWorkflowCancelledError("id"),
        dbos_error.DBOSWorkflowCancelledError("id"),
    ):
        line.error("Exception encountered in background workflow:", exc_info=canceled)
    assert caplog.records == []


def test_a_database_that_is_away_is_one_line_of_our_own(
    line: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    line.error("Exception encountered in background workflow:", exc_info=AWAY)
    try:
        raise AWAY
    except sa.exc.OperationalError as error:
        line.warning(f"Exception in background job: {error}")
    said = [(record.name, record.getMessage()) for record in caplog.records]
    assert said == [
        (
            "latentsync.public_errors",
            "The jobs database cannot be reached (database is locked)",
        )
    ]


def test_a_defect_is_logged_with_its_cause(
    line: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    line.error("Exception encountered in background workflow:", exc_info=ValueError("b"))
    line.warning("something else")
    line.info("of no interest")
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "Exception encountered in background workflow",
        "something else",
    ]
    assert caplog.records[0].exc_info is not None


def test_dbos_has_no_handler_of_its_own(line: logging.Logger) -> None:
    line.addHandler(logging.StreamHandler())
    configure_dbos_logging()
    assert [type(handler) for handler in line.handlers] == [logging.NullHandler]
    assert len(line.filters) == 1
