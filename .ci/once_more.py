"""Runs pytest; tests that fail are run once more, and one that passes then is called FLAKY.

A test that fails by chance must not hold back everything else, and must not stay unseen: each line
``FLAKY …`` that this prints is a defect to mend. Only CI runs it, and only for tests of processes,
kills and the browser; what depends on nothing but its input has no second try.

Usage: python .ci/once_more.py [arguments of pytest]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

_SOME_TESTS_FAILED = 1  # pytest's exit code; any higher one says that it could not do its work


def main(arguments: list[str]) -> int:
    """Return pytest's exit code, of the second run if there was one."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-m", "pytest", "-o", f"cache_dir={cache}", *arguments]
        code = subprocess.run(command).returncode
        if code != _SOME_TESTS_FAILED:
            return code
        failed = _last_failed(cache)
        print(f"\n{len(failed)} failed; they are run once more.", flush=True)
        again = ["--last-failed", "--last-failed-no-failures=none"]
        code = subprocess.run([*command, *again]).returncode
        for name in sorted(failed - _last_failed(cache)):
            print(f"FLAKY {name}", flush=True)
        return code


def _last_failed(cache: str) -> set[str]:
    """Return the names of the tests that pytest has noted as failed."""
    return set(json.loads((Path(cache) / "v" / "cache" / "lastfailed").read_text()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
