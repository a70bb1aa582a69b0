"""Submitting, querying and canceling jobs, with the same rules for all APIs.

The service belongs to a process that runs no jobs itself. Jobs are on the disk before a submission
returns.
"""

import hashlib
import json
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

from sqlalchemy.exc import SQLAlchemyError

from latentsync import errors
from latentsync.jobs.admission import Admission, GroupCommit, Quota, check_repeated, prefix_errors
from latentsync.jobs.database import open_database, translate_database_full
from latentsync.jobs.disk_space import StorageBudget
from latentsync.jobs.engine_availability import EngineAvailability
from latentsync.jobs.erasure import Erasure
from latentsync.jobs.models import Job, NewJob, Webhook
from latentsync.jobs.queue import JobQueue
from latentsync.jobs.retention import remove_media
from latentsync.jobs.serialization import dump_request, dump_source, stored_keys
from latentsync.jobs.storage import INPUTS, Storage
from latentsync.jobs.store import JobStore, Load
from latentsync.jobs.uploads import UPLOAD_SCHEME, Uploads
from latentsync.jobs.webhooks import check_webhook
from latentsync.media.fetch import fetch_media
from latentsync.media.probe import dump_info, probe_audio, probe_video
from latentsync.media.ssrf import parse_address
from latentsync.monitor import RunMonitor
from latentsync.public_errors import to_database_error
from latentsync.schema.engines import EngineSurvey
from latentsync.schema.run import InlineSource, MediaSource, PathSource, RunRequest, UrlSource
from latentsync.settings import Settings
from latentsync.workspace import working_folder

logger = logging.getLogger(__name__)

_STORING_AT_ONCE = 8  # enough to keep processor and disk busy


SurveyEngines = Callable[[Settings], EngineSurvey]


@dataclass(frozen=True)
class Submission:
    """A job to submit.

    Attributes:
        request: the validated request; media may be URLs, base64, files or uploads.
        fingerprint: of the call, from :func:`fingerprint`.
        id: chosen by the caller, or None for a new one.
        idempotency_key: a repeated submission with the same key returns the first job.
        webhook: called when the job ends.
        entry: its name if it is one of several, for error messages.
    """

    request: RunRequest
    fingerprint: str
    id: str | None = None
    idempotency_key: str | None = None
    webhook: Webhook | None = None
    entry: str | None = None


class JobService:
    """Submits, queries and cancels jobs.

    Args:
        settings: database, file store and limits.
        survey: finds which engines can run on this machine, if this process starts a worker with
            the same settings; None if workers may run anywhere.
    """

    def __init__(self, settings: Settings, *, survey: SurveyEngines | None = None) -> None:
        self._settings = settings
        self.files = Storage(settings.storage)
        engine = open_database(settings.jobs_database)
        self._queue = JobQueue(engine, settings.public_url)
        self.store = JobStore(engine, announce=self._queue.webhooks.announce)
        self._quota = Quota(settings.max_jobs_per_key, settings.max_job_bytes_per_key)
        self._budget = StorageBudget(self.store, self.files, settings)
        self.reserve = self._budget.reserve
        # All users of an SQLite file are on this machine; those of a Postgres may be anywhere.
        own = None
        if survey is not None and engine.name == "sqlite":
            own = partial(survey, settings)
        self.engines = EngineAvailability(engine, own)
        admission = Admission(
            self.store, self._queue.put, self._quota, self.reserve.require, self.engines
        )
        self._group_commit = GroupCommit(admission.admit)
        self._storing = ThreadPoolExecutor(_STORING_AT_ONCE, thread_name_prefix="media")
        self.uploads = Uploads(self.files, settings.max_job_bytes_per_key)
        self._erasure = Erasure(self.store, self._queue, self.files)

    def submit(self, submissions: Sequence[Submission], owner: str) -> list[Job]:
        """Record jobs and put them into the queue, all or none.

        Media in the request are checked and stored first; URLs are fetched by the worker. A
        repeated submission, by id or idempotency key, returns the first job.

        Raises:
            EngineUnavailable: no worker can run the engine.
            LineFull: the owner has as many jobs or bytes waiting as allowed.
            DiskFull: there is no room for the media, or for new jobs.
            IdempotencyConflict: the id or key was used for another request.
            UploadNotFound: an upload does not exist or belongs to another owner.
            MediaError, FetchError: a medium cannot be used.
        """
        return self.begin_submit(submissions, owner).result()

    def begin_submit(self, submissions: Sequence[Submission], owner: str) -> Future[list[Job]]:
        """Like :meth:`submit`, without waiting; for an event loop.

        Returns:
            The jobs once they are on the disk, or an error of :meth:`submit`.

        Raises:
            InvalidField, ForbiddenAddress: a URL cannot be used, and there is nothing to store.
        """
        if _brings_files(submissions):
            return self._storing.submit(self._store_and_record, submissions, owner)
        return self._group_commit.record([self._prepare(one, owner) for one in submissions])

    def job(self, job_id: str, owner: str) -> Job:
        """Return an owner's job; raises JobNotFound, for other owners' and invalid ids as well."""
        return self.look(job_id, owner)[0]

    def look(self, job_id: str, owner: str) -> tuple[Job, int | None]:
        """Return an owner's job and how many are ahead in the queue; otherwise like :meth:`job`."""
        try:
            found = self.store.look(check_job_id(job_id))
        except errors.InvalidField:
            found = None
        if found is None or found[0].owner != owner:
            raise errors.JobNotFound(f"There is no job {errors.shorten(job_id)}.")
        return found

    def cancel(self, job_id: str, owner: str, *, running: bool = True) -> Job:
        """Cancel an owner's job: at once while it waits, within two seconds while it runs.

        Args:
            job_id: of the job.
            owner: of the job.
            running: False does not cancel a job that has started.
        """
        job = self.job(job_id, owner)
        with translate_database_full():
            canceled = self.store.cancel(job.id, running=running) or job
        if canceled.status.is_final:
            self._queue.take_out(job.id)
            remove_media(self.files, canceled)
        return canceled

    def begin_erasure(self, job_id: str, owner: str) -> int:
        """Detach an owner's job from its owner and cancel its run; returns the job's number.

        Raises:
            JobNotFound: there is no such job, or it belongs to another owner.
            DiskFull: there is no room for the change in the database.
        """
        job = self.job(job_id, owner)
        if not self._erasure.begin(job):
            raise errors.JobNotFound(f"There is no job {errors.shorten(job_id)}.")
        return job.number

    def finish_erasure(self, number: int) -> bool:
        """Remove everything of a job whose erasure has begun; False if that is not possible yet.

        The worker's cleanup then removes the rest.
        """
        try:
            return self._erasure.finish(number)
        except (errors.StorageUnavailable, OSError) as error:
            logger.warning("a job could not be erased yet: %s", error)
        except SQLAlchemyError as error:
            if (fault := to_database_error(error)) is None:
                raise
            logger.warning("a job could not be erased yet: %s", fault)
        return False

    def remove_upload(self, upload_id: str, owner: str) -> None:
        """Remove an uploaded file; raises UploadNotFound, for other owners' as well."""
        if not self.uploads.remove(upload_id, owner):
            raise errors.UploadNotFound(
                f"There is no upload {errors.shorten(upload_id)}.", field="id"
            )

    def store_upload(self, path: Path, owner: str, *, move: bool = False) -> str:
        """Store an uploaded file; returns the address that requests may use instead of a URL.

        Args:
            path: the file.
            owner: who may use it.
            move: the file is not needed afterwards.

        Raises:
            LineFull, DiskFull: there is no room for it.
        """
        self._budget.take(path.stat().st_size)
        return self.uploads.store(path, owner, move=move)

    def close(self) -> None:
        """Finish what was begun and close the database."""
        self._storing.shutdown()
        self._group_commit.close()
        self._queue.close()
        self.store.engine.dispose()

    def _known(self, submission: Submission, owner: str) -> Job | None:
        """Return the job of a repeated submission; raises IdempotencyConflict if it differs."""
        job = None
        if submission.id is not None:
            job = self.store.get(submission.id)
        if job is None and submission.idempotency_key is not None:
            job = self.store.find_submission(owner, submission.idempotency_key)
        if job is None:
            return None
        check_repeated(job, owner, submission.fingerprint)
        return job

    def _store_and_record(self, submissions: Sequence[Submission], owner: str) -> list[Job]:
        # Recording checks this again; here it avoids storing media in vain.
        known = [self._known(submission, owner) for submission in submissions]
        new = [one for one, job in zip(submissions, known, strict=True) if job is None]
        added = iter(self._store_new(new, owner) if new else [])
        return [job if job is not None else next(added) for job in known]

    def _store_new(self, new: Sequence[Submission], owner: str) -> list[Job]:
        self._require_engines(new)
        self._quota.check(self.store.load(owner), Load(len(new), 0))
        self.reserve.require()
        prepared = self._prepare_all(new, owner)
        try:
            jobs = self._group_commit.record(prepared).result()
        except errors.LatentSyncError:
            self._discard(prepared)
            raise
        used = {key for job in jobs for key in stored_keys(job.request)}
        # Another call may have submitted the same job at the same time.
        self._discard(one for one in prepared if used.isdisjoint(stored_keys(one.request)))
        return jobs

    def _require_engines(self, new: Sequence[Submission]) -> None:
        """Check the engines before media are stored; recording checks them again."""
        engines = self.engines.now()
        for submission in new:
            with prefix_errors(submission.entry):
                engines.require(submission.request.options.engine)

    def _prepare_all(self, new: Iterable[Submission], owner: str) -> list[NewJob]:
        prepared: list[NewJob] = []
        try:
            for submission in new:
                prepared.append(self._prepare(submission, owner))
        except BaseException:
            self._discard(prepared)
            raise
        return prepared

    def _prepare(self, submission: Submission, owner: str) -> NewJob:
        """Check and store a submission's media."""
        with prefix_errors(submission.entry):
            return self._prepare_one(submission, owner)

    def _prepare_one(self, submission: Submission, owner: str) -> NewJob:
        request = submission.request
        if submission.webhook is not None:
            check_webhook(submission.webhook, self._settings)
        # Not the job's id: of two calls with the same id, one must not remove the other's files.
        folder_key = f"{INPUTS}/{uuid.uuid4().hex}"
        with self._discarded_on_error(folder_key) if _brings_files([submission]) else nullcontext():
            media: dict[str, dict[str, Any]] = {}
            total_bytes = 0
            for name, source in request.media.items():
                media[name], size_bytes = self._store(source, name, folder_key, owner)
                total_bytes += size_bytes
        return NewJob(
            id=submission.id or str(uuid.uuid4()),
            owner=owner,
            request=dump_request(request, media),
            fingerprint=submission.fingerprint,
            idempotency_key=submission.idempotency_key,
            webhook=submission.webhook,
            input_bytes=total_bytes,
            entry=submission.entry,
        )

    def _store(
        self, source: MediaSource, medium: str, folder_key: str, owner: str
    ) -> tuple[dict[str, Any], int]:
        """Store a medium; returns it as it is recorded, and its bytes in the store."""
        if _is_address(source):
            _check_address(source)
            return dump_source(source, None), 0
        key = f"{folder_key}/{medium}"
        if isinstance(source, InlineSource):
            self.reserve.require_for_body(len(source.base64) * 3 // 4, 0)
        with (
            working_folder(self.reserve.receiving_dir) as folder,
            self._as_file(source, folder, owner) as (path, keep),
        ):
            size_bytes = path.stat().st_size
            self._budget.take(size_bytes)
            probe = probe_video if medium == "video" else probe_audio
            started = time.perf_counter()
            info = dump_info(probe(path, self._settings, source.name))
            logger.info("scanned %s in %.2f s", source.name, time.perf_counter() - started)
            keep(key)
        return dump_source(source, key, info), size_bytes

    @contextmanager
    def _as_file(
        self, source: MediaSource, folder: Path, owner: str
    ) -> Iterator[tuple[Path, Callable[[str], None]]]:
        """Yield the file of a medium, and a function that stores it under a key."""
        if not isinstance(source, UrlSource):
            monitor = RunMonitor(deadline_s=self._settings.fetch_timeout_s)
            settings = self._settings
            if isinstance(source, PathSource):  # chosen by this process, not by the caller
                settings = settings.model_copy(update={"allowed_roots": (source.path.parent,)})
            path = fetch_media(source, folder, settings, monitor)
            is_ours = not isinstance(source, PathSource) or source.disposable
            yield path, partial(self.files.put, path, move=is_ours)
            return
        missing = errors.UploadNotFound(
            f"{source.name}: there is no such upload.", field=source.name
        )
        key = self.uploads.find(source.url, owner)
        if key is None:
            raise missing
        try:
            with self.files.as_local_file(key, folder) as path:
                yield path, partial(self.files.copy, key)
        except FileNotFoundError:  # its owner has just removed it
            raise missing from None

    def _discard(self, prepared: Iterable[NewJob]) -> None:
        for job in prepared:
            remove_media(self.files, job)

    @contextmanager
    def _discarded_on_error(self, folder_key: str) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.files.remove(folder_key)
            raise


def owner_of(key: str) -> str:
    """Return the owner of an API key's jobs: a hash of the key."""
    return hashlib.sha256(key.encode()).hexdigest()


def check_job_id(job_id: str) -> str:
    """Return the normalized id of a job; raises InvalidField unless it is a UUID."""
    try:
        return str(uuid.UUID(job_id))
    except ValueError:
        raise errors.InvalidField(f"id is {job_id[:80]!r}. Allowed: a UUID.", field="id") from None


def fingerprint(asked: Mapping[str, Any]) -> str:
    """Return a hash of a call's fields as they were sent, before a random seed is drawn."""
    text = json.dumps(asked, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _brings_files(submissions: Iterable[Submission]) -> bool:
    """Return whether media must be stored before the jobs are recorded."""
    media = (source for one in submissions for source in one.request.media.values())
    return not all(_is_address(source) for source in media)


def _is_address(source: MediaSource) -> TypeGuard[UrlSource]:
    return isinstance(source, UrlSource) and not source.url.startswith(UPLOAD_SCHEME)


def _check_address(source: UrlSource) -> None:
    """Refuse invalid URLs; their host is checked when they are fetched."""
    try:
        parse_address(source.url)
    except ValueError as error:
        message = f"{source.name} is {errors.shorten(source.url)}: {error}."
        raise errors.InvalidField(message, field=source.name) from None
