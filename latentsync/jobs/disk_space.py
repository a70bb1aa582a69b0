"""Free space on the disks of this machine, the size of the file store, and usable folders."""

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Event, Lock

import sqlalchemy as sa

from latentsync.errors import DiskFull, FolderUnusable
from latentsync.jobs.database import jobs
from latentsync.jobs.models import FINAL_STATUSES
from latentsync.jobs.storage import UPLOADS, Storage
from latentsync.jobs.store import JobStore
from latentsync.settings import Settings
from latentsync.workspace import nearest_folder, why_unusable, why_unwritable

_COUNT_EVERY_S = 1.0
_TRY_AGAIN_S = 1.0


class DiskReserve:
    """Keeps free space on every disk that this process writes to; safe to use from many threads.

    Args:
        settings: minimum of free bytes, the work folder and the jobs database.
        files: the file store, which counts if it is a folder of this machine.
    """

    def __init__(self, settings: Settings, files: Storage) -> None:
        self._min_free_bytes = settings.min_free_bytes
        self._work_dir = settings.work_dir
        self._stored_in = [] if files.folder is None else [files.folder]
        self.receiving_dir = files.receiving_dir(settings.work_dir)
        self._folders = [settings.work_dir, *self._stored_in, *_folder_of_record(settings)]

    def require(self, coming: Iterable[tuple[Path, int]] = ()) -> None:
        """Raise DiskFull unless the reserve is there, and will be when all of this has come.

        Args:
            coming: folders and the bytes that will be written to each; two of them may lie on the
                same disk.
        """
        expected = Counter[int]()
        folders = [nearest_folder(folder) for folder in self._folders]
        for folder, size_bytes in coming:
            folders.append(nearest_folder(folder))
            expected[folders[-1].stat().st_dev] += size_bytes
        for folder in folders:
            free_bytes = shutil.disk_usage(folder).free - expected[folder.stat().st_dev]
            if free_bytes < self._min_free_bytes:
                raise DiskFull("The server's disk is nearly full; it takes nothing new.")

    def require_for_body(self, expected_bytes: int, received_bytes: int) -> None:
        """Raise DiskFull unless there is room for the rest of a body.

        It is written once: from where it is received it is moved into the storage.

        Args:
            expected_bytes: of the whole body, as far as is known.
            received_bytes: of it, which are on the disk already.
        """
        self.require([(self.receiving_dir, max(0, expected_bytes - received_bytes))])

    def require_to_store(self, size_bytes: int) -> None:
        """Raise DiskFull unless there is room for a file in the store."""
        self.require((folder, size_bytes) for folder in self._stored_in)

    def wait_to_store(self, size_bytes: int, *, patience_s: float, canceled: Event) -> None:
        """Wait a while until there is room for a file that was dear to make.

        Args:
            size_bytes: of the file.
            patience_s: how long to wait, in seconds.
            canceled: ends the waiting early.

        Raises:
            DiskFull: there was none.
        """
        until = time.monotonic() + patience_s
        while True:
            try:
                return self.require_to_store(size_bytes)
            except DiskFull:
                if time.monotonic() > until or canceled.wait(_TRY_AGAIN_S):
                    raise

    def can_work(self) -> bool:
        """Tell whether the work folder can be used now, however much room there is in it."""
        return why_unusable(self._work_dir) is None

    def is_short(self) -> bool:
        """Tell whether less is free than shall be."""
        try:
            self.require()
        except DiskFull:
            return True
        return False


class StorageBudget:
    """Keeps the disk from filling up, and the store from growing beyond its limit.

    To count what is stored takes the longer the more there is, so it is done once in a while;
    what was let in since then is added to it.

    Args:
        store: the record of jobs.
        files: where media are stored.
        settings: the limits.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        store: JobStore,
        files: Storage,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.reserve = DiskReserve(settings, files)
        self._store = store
        self._files = files
        self._settings = settings
        self._clock = clock
        self._turn = Lock()
        self._counted_at = float("-inf")
        self._stored_bytes = 0

    def take(self, size_bytes: int) -> None:
        """Count a file that was received and is stored next; raises DiskFull."""
        self.reserve.require()
        with self._turn:
            self._count()
            if self._stored_bytes + size_bytes > self._settings.max_stored_bytes:
                raise DiskFull("The server keeps as many bytes as it may; it takes no new media.")
            self._stored_bytes += size_bytes

    def _count(self) -> None:
        now = self._clock()
        if now - self._counted_at >= _COUNT_EVERY_S:
            self._stored_bytes = stored_bytes(self._store, self._files)
            self._counted_at = now


def stored_bytes(store: JobStore, files: Storage) -> int:
    """Return how many bytes of media, results and uploads are kept."""
    unfinished = jobs.c.status.not_in(FINAL_STATUSES)
    result = sa.func.coalesce(jobs.c.result_bytes, 0)
    counted = sa.select(sa.func.sum(sa.case((unfinished, jobs.c.input_bytes), else_=result)))
    with store.engine.connect() as connection:
        return int(connection.execute(counted).scalar() or 0) + files.size_below(UPLOADS)


def _folder_of_record(settings: Settings) -> list[Path]:
    """Return the folder of an SQLite file; Postgres looks after its own disk."""
    address = sa.make_url(settings.jobs_database)
    is_file = address.get_backend_name() == "sqlite" and address.database
    return [Path(address.database).parent] if is_file and address.database else []


def check_folders(settings: Settings) -> None:
    """Make the folders that are missing, and try to write to each.

    Raises:
        FolderUnusable: one cannot be written to. The message names the folder and the variable
            that chooses it.
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
