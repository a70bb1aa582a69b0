"""The folders that a server or a worker writes to, looked at before it starts."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from latentsync.errors import FolderUnusable
from latentsync.settings import Settings
from latentsync.workspace import why_unusable, why_unwritable


def check_folders(settings: Settings) -> None:
    """Make the folders that are missing, and try to write to each.

    Raises:
        FolderUnusable: one cannot be written to. The message is for whoever starts the process:
            it names the folder and the variable that chooses it.
    """
    _check(settings.work_dir, why_unusable(settings.work_dir), "LATENTSYNC_WORK_DIR")
    for folder, variable in _folders_of_jobs(settings):
        _check(folder, why_unwritable(folder), variable)


def _check(folder: Path, reason: str | None, variable: str) -> None:
    if reason is not None:
        raise FolderUnusable(f"{folder} cannot be used: {reason}. {variable} names another folder.")


def _folders_of_jobs(settings: Settings) -> list[tuple[Path, str]]:
    """Return where the record and the files lie on this machine, with the variables' names."""
    found = []
    record = sa.make_url(settings.jobs_database)
    if record.get_backend_name() == "sqlite" and record.database:
        chosen_by = "LATENTSYNC_DATABASE_URL" if settings.database_url else "LATENTSYNC_DATA_DIR"
        found.append((Path(record.database).parent, chosen_by))
    if "://" not in settings.storage:
        chosen_by = "LATENTSYNC_STORAGE_URL" if settings.storage_url else "LATENTSYNC_DATA_DIR"
        found.append((Path(settings.storage), chosen_by))
    return found
