"""The weights' part of a cold start: missing files are downloaded concurrently.

A start that finds every file reads its size, time and checksum record, and uses no network.
"""

import errno
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from functools import partial
from pathlib import Path
from threading import Thread

from latentsync import errors
from latentsync.monitor import no_check
from latentsync.settings import Settings
from latentsync.weights import paths
from latentsync.weights.catalog import (
    CATALOG,
    ArchiveMember,
    Catalog,
    WeightsFile,
    look_up,
    weights_for,
)
from latentsync.weights.fetch import fetch_file, is_sound
from latentsync.weights.progress import DownloadContext, ProgressCallback, Retries
from latentsync.weights.verify import State, state_of
from latentsync.workspace import is_disk_full

logger = logging.getLogger(__name__)

_POLL_EVERY_S = 0.1  # between two calls of check and of on_progress
_STOP_WAIT_S = 1.0  # for the other downloads to stop once one has failed or the call is canceled
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


def prepare(
    engine: str,
    settings: Settings,
    *,
    check: Callable[[], None] = no_check,
    on_progress: ProgressCallback | None = None,
    catalog: Catalog = CATALOG,
) -> dict[str, Path]:
    """Download what an engine needs, and VGG16 in the background if enabled.

    Args:
        engine: as for :func:`weights_for`.
        settings: as for :func:`ensure`, and ``face_landmarks``, ``fetch_vgg16``.
        check: as for :func:`ensure`.
        on_progress: as for :func:`ensure`.
        catalog: as for :func:`ensure`.

    Returns:
        Path of every file by its name; VGG16 is not among them.
    """
    names = weights_for(engine, settings)
    if names and settings.fetch_vgg16:
        fetch_vgg16_in_background(settings, catalog=catalog)
    return ensure(names, settings=settings, check=check, on_progress=on_progress, catalog=catalog)


def ensure(
    names: Iterable[str],
    *,
    settings: Settings,
    check: Callable[[], None] = no_check,
    on_progress: ProgressCallback | None = None,
    catalog: Catalog = CATALOG,
    retries: Retries | None = None,
) -> dict[str, Path]:
    """Return the paths of these files, after downloading missing or damaged ones.

    Files are downloaded concurrently, each by one process at a time; an interrupted download is
    resumed, also by a later call. Complete files are never written to, so they may be in a
    read-only folder.

    Args:
        names: names of the catalog.
        settings: ``weights_dir``, ``weights_mirror``, ``offline``.
        check: called ten times a second while downloading; may raise to cancel.
        on_progress: called in the caller's thread.
        catalog: where the names are looked up.
        retries: when failed requests are retried.

    Raises:
        WeightsMissing: offline, or the folder may not be written to.
        WeightsUnreachable: no source could be reached or has the file.
        WeightsDamaged: the source has another file.
        DiskFull: not enough disk space.
        EngineUnavailable: an unknown name, or huggingface_hub is not installed.
    """
    files = look_up(tuple(names), catalog)
    unsure = [file for file in files if _state_of(file, settings) is not State.SOUND]
    if unsure:
        context = DownloadContext(retries or Retries())
        if paths.is_offline(settings):
            works = [partial(_require_sound, unsure, settings, context)]
        else:
            _require_space(unsure, settings)
            works = [partial(_fetch_group, group, settings, context) for group in _groups(unsure)]
        _run_concurrently(works, context, check, on_progress)
    return {file.name: paths.path_of(file, settings) for file in files}


def find_missing_offline(
    names: Iterable[str], settings: Settings, catalog: Catalog = CATALOG
) -> str | None:
    """Return the message of :func:`ensure` for missing files when downloads are forbidden.

    No file is read: damage that keeps the size, or missing permissions, are found later.
    """
    if not paths.is_offline(settings):
        return None
    absent = [file for file in look_up(tuple(names), catalog) if not _may_be_here(file, settings)]
    return _say_where(absent, settings) if absent else None


def ensure_vgg16(
    settings: Settings,
    *,
    check: Callable[[], None] = no_check,
    on_progress: ProgressCallback | None = None,
    catalog: Catalog = CATALOG,
    retries: Retries | None = None,
) -> Path:
    """Return the path of VGG16 in torch hub's cache, after downloading it if it is missing.

    Its addresses are tried in the catalog's order; a partial download from one is deleted before
    the next is tried.

    Raises:
        WeightsUnreachable: every address failed, or it cannot be stored; the last error is chained.
    """
    try:
        found = ensure(
            ("vgg16",),
            settings=settings,
            check=check,
            on_progress=on_progress,
            catalog=catalog,
            retries=retries,
        )
    except (errors.EngineUnavailable, errors.DiskFull) as error:
        raise errors.WeightsUnreachable(
            "Unable to download VGG16 weights for LatentSync."
        ) from error
    return found["vgg16"]


def fetch_vgg16_in_background(
    settings: Settings, *, catalog: Catalog = CATALOG, retries: Retries | None = None
) -> Thread:
    """Download VGG16 in a thread; a failure is only logged."""

    def fetch() -> None:
        try:
            ensure_vgg16(settings, catalog=catalog, retries=retries)
        except errors.LatentSyncError as error:
            logger.warning("%s Inference does not need them. Cause: %s", error, error.__cause__)

    thread = Thread(target=fetch, name="latentsync-vgg16", daemon=True)
    thread.start()
    return thread


def _run_concurrently(
    works: Sequence[Callable[[], None]],
    context: DownloadContext,
    check: Callable[[], None],
    on_progress: ProgressCallback | None,
) -> None:
    """Run each work in a thread of its own; call ``check`` and ``on_progress`` in this one.

    Raises what ``check`` or the first failing work raised, after telling the others to stop.
    """
    futures = [_start(work) for work in works]
    try:
        running = set(futures)
        while running:
            check()
            running = wait(futures, _POLL_EVERY_S, FIRST_EXCEPTION).not_done
            for progress in context.drain():
                if on_progress is not None:
                    on_progress(progress)
            for future in futures:
                if future.done():
                    future.result()
    finally:
        context.stop.set()
        wait(futures, _STOP_WAIT_S)


def _start(work: Callable[[], None]) -> Future[None]:
    """Run ``work`` in a daemon thread.

    Not in one of an executor, which the interpreter joins at exit: a silent server would hold up
    Ctrl-C for the 30 seconds after which a read times out.
    """
    future: Future[None] = Future()

    def run() -> None:
        try:
            work()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(None)

    Thread(target=run, name="latentsync-weights", daemon=True).start()
    return future


def _groups(files: Sequence[WeightsFile]) -> list[list[WeightsFile]]:
    """Group files of the same archive, so that it is downloaded once."""
    groups: dict[str, list[WeightsFile]] = {}
    for file in files:
        key = file.source.url if isinstance(file.source, ArchiveMember) else file.name
        groups.setdefault(key, []).append(file)
    return list(groups.values())


def _fetch_group(
    files: Sequence[WeightsFile], settings: Settings, context: DownloadContext
) -> None:
    """Download the files of one source; translate disk errors."""
    try:
        fetch_file(files, settings, context)
    except OSError as error:
        raise _explain(error, files[0], settings) from error


def _require_sound(
    files: Sequence[WeightsFile], settings: Settings, context: DownloadContext
) -> None:
    """Raise WeightsMissing with the source and destination of every absent file."""
    absent = []
    for file in files:
        try:
            if not is_sound(file, settings, context):
                absent.append(file)
        except OSError as error:
            raise _explain(error, file, settings) from error
    for file in absent:
        logger.error("%s belongs at %s", file.name, paths.path_of(file, settings))
    if absent:
        raise errors.WeightsMissing(_say_where(absent, settings))


def _say_where(absent: Sequence[WeightsFile], settings: Settings) -> str:
    return "Offline, and weights are missing or damaged. " + " ".join(
        f"{file.name}: download {' or '.join(paths.addresses(file, settings))} "
        f"and put it at {paths.location(file)}."
        for file in absent
    )


def _require_space(files: Sequence[WeightsFile], settings: Settings) -> None:
    needs = []
    for group in _groups([file for file in files if _is_absent(file, settings)]):
        source, path = group[0].source, paths.path_of(group[0], settings)
        sizes_bytes = sum(file.size_bytes for file in group)
        if isinstance(source, ArchiveMember):
            sizes_bytes += source.archive_bytes
            path = path.with_name(source.url.rpartition("/")[2])
        arrived_bytes = _size_of(paths.sidecar(path, ".part"))
        needs.append((path.parent, max(0, sizes_bytes - arrived_bytes)))
    paths.require_space(needs)


def _size_of(path: Path) -> int:
    """Return a file's size; 0 if it is missing: another process may just have moved it."""
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _may_be_here(file: WeightsFile, settings: Settings) -> bool:
    try:
        return state_of(file, paths.path_of(file, settings)) in (State.UNCHECKED, State.SOUND)
    except OSError:
        return True


def _is_absent(file: WeightsFile, settings: Settings) -> bool:
    return _state_of(file, settings) is not State.UNCHECKED


def _state_of(file: WeightsFile, settings: Settings) -> State:
    try:
        return state_of(file, paths.path_of(file, settings))
    except OSError as error:
        raise _explain(error, file, settings) from error


def _explain(error: OSError, file: WeightsFile, settings: Settings) -> errors.LatentSyncError:
    """Translate an error of the operating system."""
    logger.error("%s at %s: %s", file.name, paths.path_of(file, settings), error)
    if is_disk_full(error):
        return errors.DiskFull(
            f"The disk is full: {file.name} ({file.size_bytes} bytes) did not fit. Free some space "
            "and start again; the partial download is kept."
        )
    if error.errno in _DENIED:
        return errors.WeightsMissing(
            f"{file.name} is not usable and cannot be stored at {paths.location(file)}. "
            "Allow this user to read and write there, or set LATENTSYNC_WEIGHTS_DIR to "
            "another folder."
        )
    reason = error.strerror or type(error).__name__
    return errors.WeightsMissing(
        f"{file.name} cannot be stored at {paths.location(file)}: {reason}."
    )
