"""How the record is opened: what is waited for, and for how long."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from latentsync.jobs import database
from latentsync.jobs.database import open_database
from tests.ports import free_port


def test_a_server_that_is_gone_is_not_asked_again_and_again() -> None:
    with pytest.raises(sa.exc.OperationalError) as failed:
        open_database(f"postgresql+psycopg://me:secret@127.0.0.1:{free_port()}/jobs")
    assert "secret" not in str(failed.value)


@pytest.mark.processes  # it waits for two seconds
def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(database._POSTGRES_PATIENCE, "connect_timeout", "2")  # libpq's least
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
