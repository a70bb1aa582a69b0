"""The command line: ``python -m tests.parity --reference DIR``.

Exits with 0 if every array is within its tolerance, 1 if any is not or is unknown, 2 if the
command is wrong.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from tests.parity.folder import Folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a folder, print the report, return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.parity",
        description="Run every recorded array of a reference folder through this package.",
    )
    parser.add_argument(
        "--reference", metavar="DIR", type=Path, required=True, help="folder with golden/ in it"
    )
    parser.add_argument(
        "--skip-slow",
        action="store_true",
        help="leave the full-size UNet out (5 GB, half a minute)",
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="threads of a network (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    if not (options.reference / "golden").is_dir():
        parser.error(f"{options.reference} has no folder golden")
    if options.threads < 1:
        parser.error("--threads is at least 1")
    torch.set_num_threads(options.threads)
    return report(options.reference, skip_slow=options.skip_slow)


def report(reference: Path, *, skip_slow: bool = False) -> int:
    """Print a line per array and a summary; return 1 if anything failed or nothing was compared."""
    start_s = time.monotonic()
    verdicts: Counter[str] = Counter()
    with TemporaryDirectory(prefix="parity-") as scratch:
        for line in Folder(reference, Path(scratch)).lines(skip_slow=skip_slow):
            verdicts[line.verdict] += 1
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
    failed = verdicts["FAIL"] > 0 or verdicts["ok"] == 0
    sys.stdout.write(
        f"{'FAIL' if failed else 'ok'}: {verdicts['ok']} reproduced, {verdicts['FAIL']} failed, "
        f"{verdicts['input']} inputs, {verdicts['skipped']} files skipped, "
        f"{time.monotonic() - start_s:.0f} s\n"
    )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
