"""A worker's name is held by one process of a machine, and let go however that ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from latentsync.errors import InternalError
from latentsync.jobs.name_lock import hold_name

HOLD = """
import sys, pathlib
from latentsync.jobs.name_lock import hold_name
hold_name(pathlib.Path(sys.argv[1]), "w")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_name_is_held_once_until_it_is_let_go(tmp_path: Path) -> None:
    held = hold_name(tmp_path / "work", "w")
    with pytest.raises(InternalError, match="A worker named 'w' runs here already"):
        hold_name(tmp_path / "work", "w", patience_s=0.1)
    os.close(hold_name(tmp_path / "work", "host/cuda:1").descriptor)
    os.close(held.descriptor)
    os.close(hold_name(tmp_path / "work", "w", patience_s=0.1).descriptor)


def test_the_holders_word_stays_with_the_name_and_the_folder(tmp_path: Path) -> None:
    words = []
    for folder, name in (("work", "w"), ("work", "w"), ("work", "other"), ("elsewhere", "w")):
        held = hold_name(tmp_path / folder, name)
        words.append(held.holder)
        os.close(held.descriptor)
    assert words[0] == words[1]
    assert len(set(words)) == 3


def test_a_killed_process_lets_its_name_go(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(InternalError):
            hold_name(tmp_path, "w", patience_s=0.1)
        process.kill()
    os.close(hold_name(tmp_path, "w", patience_s=0.1).descriptor)
