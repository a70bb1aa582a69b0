"""A worker's name is held by one process of a record, and let go however that ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from latentsync.errors import InternalError
from latentsync.settings import Settings
from latentsync.worker.membership import HeldName, hold_name, lock_path

HOLD = """
import sys, pathlib
from latentsync.worker.membership import hold_name
hold_name(pathlib.Path(sys.argv[1]), "w")
print("held", flush=True)
sys.stdin.read()
"""


def held(path: Path) -> HeldName:
    taken = hold_name(path, "w", patience_s=0.1)
    assert taken is not None
    return taken


def test_a_name_is_held_once_until_it_is_let_go(tmp_path: Path) -> None:
    path = tmp_path / "new" / "w.lock"
    first = held(path)
    with pytest.raises(InternalError, match="A worker named 'w' runs here already"):
        held(path)
    os.close(held(tmp_path / "new" / "other.lock").descriptor)
    os.close(first.descriptor)
    os.close(held(path).descriptor)


def test_who_shall_stop_does_not_wait_for_a_name(tmp_path: Path) -> None:
    first = held(tmp_path / "w.lock")
    assert hold_name(tmp_path / "w.lock", "w", wait=lambda _: True) is None
    os.close(first.descriptor)


def path_for(name: str = "w", **settings: Any) -> Path:
    return lock_path(Settings(**settings), name)


def test_a_name_is_held_beside_the_record_in_a_file(tmp_path: Path) -> None:
    mine = path_for(data_dir=tmp_path / "mine", work_dir=tmp_path / "work")
    assert mine.parent == tmp_path / "mine"
    assert path_for(data_dir=tmp_path / "mine", work_dir=tmp_path / "elsewhere") == mine
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    assert path_for(database_url=f"sqlite:///{tmp_path}/link/jobs.db") == mine
    for other in (
        path_for("other", data_dir=tmp_path / "mine"),
        path_for(data_dir=tmp_path / "yours", work_dir=tmp_path / "work"),
        path_for(database_url=f"sqlite:///{tmp_path}/mine/other.db"),
    ):
        assert other != mine


def test_a_name_is_held_for_a_postgres_whoever_asks_it(tmp_path: Path) -> None:
    def asked_as(user: str, place: str, name: str = "w") -> Path:
        url = f"postgresql+psycopg://{user}@{place}"
        return path_for(name, database_url=url, work_dir=tmp_path / "work")

    mine = asked_as("me:secret", "db/jobs")
    assert mine.parent == tmp_path / "work"
    assert asked_as("you:other", "db/jobs?connect_timeout=3") == mine
    others = {
        asked_as("me:secret", place) for place in ("db/other", "db2/jobs", "db:5433/jobs")
    } | {asked_as("me", "/jobs?host=/run/a"), asked_as("me:secret", "db/jobs", "other")}
    assert len(others - {mine}) == 5


def test_the_holders_word_stays_with_the_lock(tmp_path: Path) -> None:
    words = []
    for name in ("w.lock", "w.lock", "other.lock"):
        taken = held(tmp_path / name)
        words.append(taken.holder)
        os.close(taken.descriptor)
    assert words[0] == words[1] != words[2]


def test_a_killed_process_lets_its_name_go(tmp_path: Path) -> None:
    path = tmp_path / "w.lock"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(InternalError):
            held(path)
        process.kill()
    os.close(held(path).descriptor)
