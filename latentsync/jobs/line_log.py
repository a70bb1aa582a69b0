"""What the line's library logs, in the words and the form of this package's own log."""

from __future__ import annotations

import logging
import sys

from dbos import error as dbos_error

from latentsync.record_faults import note_record_fault

_CANCELED = (
    dbos_error.DBOSAwaitedWorkflowCancelledError,
    dbos_error.DBOSWorkflowCancelledError,
)


def tame_line_log() -> None:
    """Let DBOS log warnings as the rest of the process does, without what is no fault."""
    line = logging.getLogger("dbos")
    line.setLevel(logging.WARNING)
    line.handlers = [logging.NullHandler()]  # DBOS adds one of its own only where there is none
    line.propagate = True
    if _is_news not in line.filters:
        line.addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Tell whether a record is to be logged as it is.

    A database that is away for a while is said once, in one line. A job that is canceled in the
    moment in which a worker takes it is no failure of anything.
    """
    told = record.exc_info[1] if record.exc_info else None
    error = told or sys.exc_info()[1]  # which DBOS may have made a part of its text
    if error is None:
        return True
    return not isinstance(error, _CANCELED) and note_record_fault(error) is None
