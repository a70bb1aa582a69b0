"""Errors of one of several submissions say which one they are about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from latentsync.errors import InvalidRequest, LatentSyncError


@contextmanager
def naming_entry(entry: str | None) -> Iterator[None]:
    """Put an entry's name before the field and the message of what is wrong with it.

    Errors that are nobody's fault, such as a full disk, stay as they are.

    Args:
        entry: what the caller calls it, ``predictions.3``; None if it is the only one.

    Raises:
        LatentSyncError: what was raised inside.
    """
    try:
        yield
    except LatentSyncError as error:
        if entry is not None and (error.field is not None or isinstance(error, InvalidRequest)):
            error.field = entry if error.field is None else f"{entry}.{error.field}"
            error.message = f"{entry}: {error.message}"
            error.args = (error.message,)
        raise
