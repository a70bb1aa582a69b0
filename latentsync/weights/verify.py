"""Verifies weights files by size and hash.

A checkpoint of 5 GB takes seconds to hash. A checksum record next to it stores size, modification
time and hash of the last check, so that later starts need not read the file.
"""

import hashlib
import json
import logging
import os
import stat
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path

from latentsync.settings import Settings
from latentsync.weights.catalog import CATALOG, Catalog, WeightsFile, look_up
from latentsync.weights.paths import path_of, sidecar
from latentsync.weights.progress import ProgressCallback, WeightsProgress

logger = logging.getLogger(__name__)

_BLOCK_BYTES = 4 * 1024 * 1024
_CLOCKS_NS = (1, 10**3, 10**6, 10**9)  # precisions with which filesystems and archives store times
_NEVER_NS = -(10**18)  # before every file


class State(Enum):
    """State of a file, as known without reading it."""

    MISSING = "missing"
    PARTIAL = "partial"  # partially downloaded
    WRONG_SIZE = "damaged"
    UNCHECKED = "unchecked"  # its size is right
    SOUND = "present"  # checked and not changed since


@dataclass(frozen=True)
class ChecksumRecord:
    """A file as it was when it was checked."""

    size_bytes: int
    modified_ns: int
    sha256: str

    def fits(self, status: os.stat_result) -> bool:
        """Tell whether the file is unchanged; the time of a copy may be less exact."""
        times_ns = [self.modified_ns // clock_ns * clock_ns for clock_ns in _CLOCKS_NS]
        return status.st_size == self.size_bytes and status.st_mtime_ns in times_ns


def state_of(file: WeightsFile, path: Path) -> State:
    """Return the state of ``path``; raises OSError if it is not accessible."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return State.PARTIAL if sidecar(path, ".part").exists() else State.MISSING
    if not stat.S_ISREG(status.st_mode) or status.st_size not in file.sizes:
        return State.WRONG_SIZE
    record = read_record(path)
    if record is None or not record.fits(status) or not record.sha256.startswith(file.sha256 or ""):
        return State.UNCHECKED
    return State.SOUND


def read_record(path: Path) -> ChecksumRecord | None:
    """Return the checksum record of ``path``, or None without a readable one."""
    try:
        return ChecksumRecord(**json.loads(sidecar(path, ".stamp").read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_record(path: Path, sha256: str) -> None:
    """Record that ``path`` was checked; in a read-only folder later starts check it again."""
    status = path.stat()
    _save(path, ChecksumRecord(status.st_size, status.st_mtime_ns, sha256))


def invalidate(path: Path) -> None:
    """Make the next start check ``path`` again; the recorded hash is kept."""
    record = read_record(path)
    if record is not None:
        _save(path, replace(record, modified_ns=_NEVER_NS))


def _save(path: Path, record: ChecksumRecord) -> None:
    fresh = sidecar(path, f".stamp.{os.getpid()}")
    try:
        fresh.write_text(json.dumps(asdict(record)), "utf-8")
        os.replace(fresh, sidecar(path, ".stamp"))
    except OSError as error:
        logger.info(
            "%s is checked again at each start: its checksum record cannot be written (%s)",
            path,
            error,
        )


def hash_file(path: Path, on_bytes: Callable[[int], None]) -> str:
    """Return the sha256 of a file in hex; ``on_bytes`` gets the bytes so far and may raise."""
    digest = hashlib.sha256()
    done = 0
    with path.open("rb", buffering=0) as opened:
        while block := opened.read(_BLOCK_BYTES):
            digest.update(block)
            done += len(block)
            on_bytes(done)
    return digest.hexdigest()


def problem_of(
    file: WeightsFile, path: Path, sha256: str, recorded: ChecksumRecord | None
) -> str | None:
    """Return what is wrong with a file whose hash is ``sha256``, or None.

    Args:
        file: its entry.
        path: the file, or its complete download.
        sha256: of its bytes, in hex.
        recorded: an earlier checksum record; decides if the catalog has no hash.
    """
    size_bytes = path.stat().st_size
    if size_bytes not in file.sizes:
        return f"it has {size_bytes} bytes instead of {file.size_bytes}"
    wanted = file.sha256 or (recorded.sha256 if recorded else "")
    if not sha256.startswith(wanted):
        return f"its sha256 begins with {sha256[:12]} instead of {wanted[:12]}"
    if file.sha256 is None and file.path.endswith(".pt") and not zipfile.is_zipfile(path):
        return "it is not a PyTorch checkpoint"
    return None


@dataclass(frozen=True)
class Verdict:
    """Result for one file; ``problem`` is None if it is sound or missing."""

    name: str
    present: bool
    problem: str | None = None
    sha256: str | None = None


def verify(
    names: Iterable[str],
    *,
    settings: Settings,
    check: Callable[[], None] = lambda: None,
    on_progress: ProgressCallback | None = None,
    catalog: Catalog = CATALOG,
) -> list[Verdict]:
    """Hash and check these files, whatever their checksum records say.

    A file whose publisher states no hash is compared with the hash recorded at its download.

    Raises:
        EngineUnavailable: an unknown name.
        OSError: a file cannot be read.
    """

    def verdict(file: WeightsFile) -> Verdict:
        def report(done_bytes: int) -> None:
            check()
            if on_progress is not None:
                on_progress(WeightsProgress(file.name, "checking", done_bytes, file.size_bytes))

        return _judge(file, settings, report)

    return [verdict(file) for file in look_up(tuple(names), catalog)]


def _judge(file: WeightsFile, settings: Settings, report: Callable[[int], None]) -> Verdict:
    path = path_of(file, settings)
    state = state_of(file, path)
    if state in (State.MISSING, State.PARTIAL):
        return Verdict(file.name, present=False)
    if not path.is_file():
        return Verdict(file.name, present=True, problem="it is not a file")
    sha256 = hash_file(path, report)
    problem = problem_of(file, path, sha256, recorded=read_record(path))
    if problem is not None:
        invalidate(path)
    elif state is not State.SOUND:
        write_record(path, sha256)
    return Verdict(file.name, present=True, problem=problem, sha256=sha256)
