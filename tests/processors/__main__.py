"""The command line: ``python -m tests.processors [limit ...]``.

Exits with 0 if the tests pass under every limit, 1 if not, 2 if a limit is unknown or not in force.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Sequence

from tests.processors.limits import Limit, LimitNotInForce, known_limits, look

# Where numbers are computed; what fetches, sends or keeps media does not ask the processor.
FOLDERS = ("audio", "draft", "face", "lipsync", "media", "models", "parity", "pipelines")
_LEFT_OUT = ("media/test_fetch.py", "media/test_probe.py", "media/test_damage.py")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tests under each limit and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.processors", description=__doc__)
    parser.add_argument("limits", nargs="*", metavar="limit", help="all by default")
    parser.add_argument("--only", choices=FOLDERS, action="append", help="of the folders of tests")
    given = parser.parse_args(arguments)
    wanted = given.limits
    if platform.machine() != "x86_64":
        _say(f"The limits are those of x86-64; this is {platform.machine()}: nothing was run.")
        return 0
    try:
        limits = {limit.name: limit for limit in known_limits(look(os.environ))}
        if unknown := sorted(set(wanted) - set(limits)):
            parser.error(f"{', '.join(unknown)}: no such limit; there are {', '.join(limits)}")
        folders = given.only or FOLDERS
        failed = [name for name in wanted or limits if not _passes(limits[name], folders)]
    except LimitNotInForce as error:
        _say(f"The limit is not in force. {error}")
        return 2
    _say(f"Failed under: {', '.join(failed)}" if failed else "Passed under every limit.")
    return int(bool(failed))


def _passes(limit: Limit, folders: Sequence[str]) -> bool:
    limit.require(look(limit.environment()))
    _say(f"== {limit.name}: {dict(limit.variables)}")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "auto", "--dist", "worksteal"]
    command += [f"--ignore=tests/{name}" for name in _LEFT_OUT]
    command += [f"tests/{name}" for name in folders]
    return subprocess.run(command, env=limit.environment(), check=False).returncode == 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
