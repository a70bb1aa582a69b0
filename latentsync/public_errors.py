"""What a failure of the jobs' database means to a caller: it is full, or it is away."""

import logging
import sqlite3
import time
from threading import Lock

from sqlalchemy import exc

from latentsync.errors import DiskFull, InternalError, LatentSyncError, RecordUnavailable, shorten

logger = logging.getLogger(__name__)

_OUTAGE_ENDS_S = 60.0  # after so long without a fault the next one is news
_REMIND_EVERY_S = 600.0  # of an outage that lasts
_RETRY_AFTER_S = 5.0
_FULL = {sqlite3.SQLITE_FULL, "53100"}  # SQLite's code and Postgres' state
# A file that is none of SQLite's any more, and a Postgres that has become a copy of another one.
_UNUSABLE = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, "25006"}
_AWAY = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError)


def to_database_error(error: BaseException) -> LatentSyncError | None:
    """Return the error that a caller may see if the database failed; None for any other failure.

    What the line's library has wrapped is looked for in the causes. The error of the driver names
    addresses and statements, so nothing of it is in the message.
    """
    cause: BaseException | None = error
    while cause is not None:
        codes = _codes(cause)
        if codes & _FULL:
            return DiskFull("The disk of the jobs database is full.")
        if isinstance(cause, _AWAY) or codes & _UNUSABLE:
            return RecordUnavailable(
                "The jobs database cannot be reached. Try again soon.",
                retry_after_s=_RETRY_AFTER_S,
            )
        cause = cause.__cause__
    return None


def log_database_error(error: BaseException) -> LatentSyncError | None:
    """Do what :func:`to_database_error` does, and log the fault in one line, once per outage.

    Everything that uses the database fails at once when it is away, again and again: the log shall
    say so, and not the same for every call.
    """
    fault = to_database_error(error)
    if fault is not None and _outage.is_news(type(fault)):
        said = fault.message.split(". ")[0].rstrip(".")
        logger.warning("%s (%s)", said, shorten(_words_of_driver(error), 200).strip("'\""))
    return fault


class _Outage:
    """Remembers what was logged; safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._seen_at: dict[type[LatentSyncError], float] = {}
        self._logged_at: dict[type[LatentSyncError], float] = {}

    def is_news(self, kind: type[LatentSyncError]) -> bool:
        """Tell whether a fault of this kind, which happens now, is to be logged."""
        now = time.monotonic()
        with self._lock:
            is_new = now - self._seen_at.get(kind, float("-inf")) > _OUTAGE_ENDS_S
            self._seen_at[kind] = now
            if is_new or now - self._logged_at[kind] > _REMIND_EVERY_S:
                self._logged_at[kind] = now
                return True
        return False


_outage = _Outage()


def _words_of_driver(error: BaseException) -> str:
    """Return what the database's driver said, or else what kind of failure it was."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, exc.DBAPIError):
            return " ".join(str(cause.orig).split())
        if isinstance(cause, exc.SQLAlchemyError):
            return type(cause).__name__
        cause = cause.__cause__
    return type(error).__name__


def _codes(error: BaseException) -> set[object]:
    if not isinstance(error, exc.DBAPIError):
        return set()
    # SQLite's extended codes tell more in their upper bits.
    code = getattr(error.orig, "sqlite_errorcode", None)
    plain = code & 0xFF if isinstance(code, int) else None
    return {plain, getattr(error.orig, "sqlstate", None)} - {None}


def to_public_error(error: Exception, run_id: str) -> LatentSyncError:
    """Return the error that a caller may see; a defect's cause goes to the log alone.

    Args:
        error: whatever a run raised.
        run_id: reference that the caller can quote and that the log entry carries.
    """
    if isinstance(error, LatentSyncError):
        return error
    if (fault := log_database_error(error)) is not None:
        return fault
    logger.error("run %s failed unexpectedly", run_id, exc_info=error)
    return InternalError(f"The run failed unexpectedly. Quote the reference {run_id}.")
