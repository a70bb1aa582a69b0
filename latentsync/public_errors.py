"""Translation of internal and database errors into errors for callers."""

import logging
import sqlite3
import time
from threading import Lock

from sqlalchemy import exc

from latentsync.errors import DiskFull, InternalError, LatentSyncError, RecordUnavailable, shorten

logger = logging.getLogger(__name__)

_OUTAGE_ENDS_S = 60.0  # an error after a longer break is logged as a new outage
_REMIND_EVERY_S = 600.0  # an ongoing outage is logged again
_RETRY_AFTER_S = 5.0
_FULL = {sqlite3.SQLITE_FULL, "53100"}  # code of SQLite, SQLSTATE of Postgres
# A damaged SQLite file, and a Postgres that has become a read-only standby.
_UNUSABLE = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, "25006"}
_UNREACHABLE = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError)


def to_database_error(error: BaseException) -> LatentSyncError | None:
    """Return the public error for a database failure; None for any other failure.

    The causes are searched too, since the queue library wraps errors. Driver errors contain
    addresses and statements, so they are not part of the message.
    """
    cause: BaseException | None = error
    while cause is not None:
        codes = _codes(cause)
        if codes & _FULL:
            return DiskFull("The disk of the jobs database is full.")
        if isinstance(cause, _UNREACHABLE) or codes & _UNUSABLE:
            return RecordUnavailable(
                "The jobs database cannot be reached. Try again soon.",
                retry_after_s=_RETRY_AFTER_S,
            )
        cause = cause.__cause__
    return None


def log_database_error(error: BaseException) -> LatentSyncError | None:
    """Like :func:`to_database_error`, and log the error in one line, once per outage.

    During an outage every call that uses the database fails; logging each would flood the log.
    """
    fault = to_database_error(error)
    if fault is not None and _outage.should_log(type(fault)):
        summary = fault.message.split(". ")[0].rstrip(".")
        logger.warning("%s (%s)", summary, shorten(_driver_message(error), 200).strip("'\""))
    return fault


class _Outage:
    """Rate limit of log messages about outages. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._seen_at: dict[type[LatentSyncError], float] = {}
        self._logged_at: dict[type[LatentSyncError], float] = {}

    def should_log(self, kind: type[LatentSyncError]) -> bool:
        """Record an error of this kind and return whether to log it."""
        now = time.monotonic()
        with self._lock:
            is_new = now - self._seen_at.get(kind, float("-inf")) > _OUTAGE_ENDS_S
            self._seen_at[kind] = now
            if is_new or now - self._logged_at[kind] > _REMIND_EVERY_S:
                self._logged_at[kind] = now
                return True
        return False


_outage = _Outage()


def _driver_message(error: BaseException) -> str:
    """Return the driver's message, or the name of the error class."""
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
    # The lower 8 bits of SQLite's extended codes are the primary code.
    code = getattr(error.orig, "sqlite_errorcode", None)
    plain = code & 0xFF if isinstance(code, int) else None
    return {plain, getattr(error.orig, "sqlstate", None)} - {None}


def to_public_error(error: Exception, run_id: str) -> LatentSyncError:
    """Return the error to show to the caller; unexpected errors are logged and hidden.

    Args:
        error: any exception of a run.
        run_id: reference for the caller and the log entry.
    """
    if isinstance(error, LatentSyncError):
        return error
    if (fault := log_database_error(error)) is not None:
        return fault
    logger.error("run %s failed unexpectedly", run_id, exc_info=error)
    return InternalError(f"The run failed unexpectedly. Quote the reference {run_id}.")
