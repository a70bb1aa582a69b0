"""What CI does with failing tests of processes: a second try, and a name for what was chance."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.live import REPOSITORY

pytestmark = pytest.mark.processes

FIRST_TIME_ONLY = """
from pathlib import Path

def test_by_chance():
    seen = Path(__file__).with_name("seen")
    if not seen.exists():
        seen.touch()
        raise AssertionError("the first time only")
"""


def once_more(folder: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    """Run the script over a file of tests in ``folder``."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_it.py").write_text("\n".join(tests))
    script = REPOSITORY / ".ci" / "once_more.py"
    return subprocess.run(
        [sys.executable, str(script), "test_it.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
    )


def test_all_that_passes_runs_once(tmp_path: Path) -> None:
    done = once_more(tmp_path, "def test_good(): pass")
    assert done.returncode == 0
    assert "once more" not in done.stdout


def test_what_fails_by_chance_is_named_and_passes(tmp_path: Path) -> None:
    done = once_more(tmp_path, "def test_good(): pass", FIRST_TIME_ONLY)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "FLAKY test_it.py::test_by_chance"
    assert "1 passed" in done.stdout.splitlines()[-2]


def test_what_fails_twice_fails(tmp_path: Path) -> None:
    done = once_more(tmp_path, FIRST_TIME_ONLY, "def test_bad(): assert False")
    assert done.returncode == 1
    flaky = [line for line in done.stdout.splitlines() if line.startswith("FLAKY")]
    assert flaky == ["FLAKY test_it.py::test_by_chance"]


def test_what_pytest_cannot_do_has_no_second_try(tmp_path: Path) -> None:
    done = once_more(tmp_path, "def test_good(: pass")
    assert done.returncode > 1
    assert "once more" not in done.stdout
