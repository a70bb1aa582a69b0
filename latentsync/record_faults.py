"""What a failure of the jobs' database means to a caller: it is full, or it is away."""

from __future__ import annotations

import sqlite3

from sqlalchemy import exc

from latentsync.errors import DiskFull, LatentSyncError, RecordUnavailable

_RETRY_AFTER_S = 5.0
_FULL = {sqlite3.SQLITE_FULL, "53100"}  # SQLite's code and Postgres' state
# A file that is none of SQLite's any more, and a Postgres that has become a copy of another one.
_UNUSABLE = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, "25006"}
_AWAY = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError)


def record_fault(error: BaseException) -> LatentSyncError | None:
    """Return the error that a caller may see if the database failed; None for any other failure.

    What the line's library has wrapped is looked for in the causes. The error of the driver names
    addresses and statements, so nothing of it is in the message.
    """
    cause: BaseException | None = error
    while cause is not None:
        codes = _codes(cause)
        if codes & _FULL:
            return DiskFull("There is no room left on the disk for the record of jobs.")
        if isinstance(cause, _AWAY) or codes & _UNUSABLE:
            return RecordUnavailable(
                "The record of jobs cannot be reached. Try again soon.",
                retry_after_s=_RETRY_AFTER_S,
            )
        cause = cause.__cause__
    return None


def _codes(error: BaseException) -> set[object]:
    if not isinstance(error, exc.DBAPIError):
        return set()
    # SQLite's extended codes tell more in their upper bits.
    code = getattr(error.orig, "sqlite_errorcode", None)
    plain = code & 0xFF if isinstance(code, int) else None
    return {plain, getattr(error.orig, "sqlstate", None)} - {None}
