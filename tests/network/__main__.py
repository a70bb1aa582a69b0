"""Runs a command and fails if it, or anything it starts, tries to reach what is not loopback.

    python -m tests.network make test

The exit code is the command's, or 1 if somebody tried. Without a command it is 0 if anything can be
watched here, else 1.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.network import tracing


def main(command: list[str]) -> int:
    """Run the command under watch; return the exit code."""
    if reason := tracing.why_not():
        print(f"Nothing can be watched here: {reason}", file=sys.stderr)
        return 1
    if not command:
        return 0
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace")
        environment = tracing.talkative(os.environ)
        done = subprocess.run(tracing.watching(command, trace), env=environment)
        try:
            tracing.wait_for_end(trace)
        except tracing.TraceIncomplete as error:
            print(f"Whoever outlives the command cannot be watched: {error}.", file=sys.stderr)
            return 1
        found = dict.fromkeys(map(str, tracing.contacts(trace)))
    for contact in found:
        print(f"Beyond loopback: {contact}", file=sys.stderr)
    print(f"{len(found)} attempts to reach anything beyond loopback.", file=sys.stderr)
    return done.returncode or bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
