"""A server whose database of jobs is broken while it runs: every contract says to come again."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import httpx

from latentsync.server.app import build_app
from tests.server.live import AUTH, serving, settings_for

BODY = {"video_url": "https://example.com/a.mp4", "audio_url": "https://example.com/b.wav"}
CALLS = (
    ("GET", "/v1/predictions", None),
    ("POST", "/v1/predictions", BODY),
    ("POST", "/sync", BODY),
    ("POST", "/predict", BODY),
)


def spoil(data: Path) -> None:
    """Overwrite the database and its write-ahead log with garbage."""
    with closing(sqlite3.connect(data / "jobs.db")) as connection:
        connection.execute("CREATE TABLE other (a)")  # invalidates what others have cached
    for path in (data / "jobs.db", data / "jobs.db-wal"):
        with path.open("r+b") as file:
            file.write(b"garbage!" * (path.stat().st_size // 8))


def test_an_unreachable_database_is_a_503_in_every_contract(tmp_path: Path) -> None:
    with serving(build_app(settings_for(tmp_path))) as url:
        assert httpx.get(f"{url}/v1/predictions", headers=AUTH).status_code == 200
        spoil(tmp_path / "data")
        for method, path, body in CALLS:
            answer = httpx.request(method, url + path, json=body, headers=AUTH, timeout=60)
            reported = (answer.status_code, answer.json()["code"], answer.headers["retry-after"])
            assert reported == (503, "RECORD_UNAVAILABLE", "5"), path
            assert str(tmp_path) not in answer.text
