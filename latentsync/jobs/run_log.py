"""What the runner logs of a run, as lines that its caller may read.

The process of a device runs one job at a time, so whatever the runner says meanwhile is said of it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from latentsync import runner

LINES_MAX = 40  # of one run; the runner says about six
LINE_CHARS = 300

# Neither a folder of this machine nor an address with its secrets is the caller's to read.
_PLACES = re.compile(r"(?<![\w.])(?:[a-z][a-z0-9+.-]*:/)?/\S*|\bdata:\S+", re.IGNORECASE)
_SPACES = re.compile(r"[\s\x00-\x1f\x7f]+")


@contextmanager
def telling_lines(tell: Callable[[str], None]) -> Iterator[None]:
    """Pass on what the runner logs within the block, from INFO on, as plain lines.

    Places are left out, tracebacks too, and what is too long or too much is cut.

    Args:
        tell: called with each line, from the thread that logs.
    """
    source, handler = logging.getLogger(runner.__name__), _Lines(tell)
    source.addHandler(handler)
    try:
        yield
    finally:
        source.removeHandler(handler)


def plain(text: str) -> str:
    """Return a text as one line without paths and addresses, LINE_CHARS long at most."""
    line = _PLACES.sub("…", _SPACES.sub(" ", text)).strip()
    return line if len(line) <= LINE_CHARS else f"{line[: LINE_CHARS - 1]}…"


class _Lines(logging.Handler):
    """Tells the first LINES_MAX records, each as its message alone."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._tell = tell
        self._told = 0

    def emit(self, record: logging.LogRecord) -> None:
        if self._told < LINES_MAX:
            self._told += 1
            self._tell(plain(record.getMessage()))
