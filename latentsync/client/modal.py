"""The client of a deployment on Modal, which uses Modal's own queue and machines.

Modal reports neither progress nor queue position, and has no list of jobs.
"""

import base64
import binascii
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

from pydantic import ValidationError

from latentsync import errors
from latentsync.client import models
from latentsync.client._api import OnProgress, job_id
from latentsync.client._download import OnBytes
from latentsync.client._http import is_error
from latentsync.client._payload import Media, Options, PredictArgs, Segment, inline_body
from latentsync.monitor import Progress
from latentsync.schema.responses import PredictResult

_LOOK_EVERY_S = 30.0  # how long one request to Modal waits for the end of a job


class ModalClient:
    """Has the methods of :class:`latentsync.client.Client`, through the package ``modal``.

    Args:
        app: name of the deployed app.
        cls: name of its class, which has the method ``predict``.

    Raises:
        InvalidRequest: the package ``modal`` is not installed.
    """

    def __init__(self, app: str, cls: str) -> None:
        try:
            import modal
            import modal.exception
        except ImportError:
            raise errors.InvalidRequest(
                f"The package modal is not installed: {errors.install_command('modal')}."
            ) from None
        self._modal = modal
        self._name = f"{app}.{cls}"
        self._service = modal.Cls.from_name(app, cls)
        self._results: dict[str, PredictResult] = {}

    def __repr__(self) -> str:
        return f"ModalClient({self._name!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Do nothing: the package ``modal`` owns the connection."""

    def predict(
        self,
        video: Media,
        audio: Media | None = None,
        *,
        segments: Sequence[Segment] = (),
        **options: Unpack[Options],
    ) -> models.Prediction:
        """Lip-sync ``video`` to ``audio`` and wait for the result; raises as :meth:`submit`."""
        started = time.monotonic()
        submitted = self.submit(video, audio, segments=segments, **options)
        job = self.wait(submitted).raise_for_status()
        run_time_ms = 1000 * (time.monotonic() - started)
        result = self._results[job.id]
        return models.Prediction(job.id, run_time_ms, result.details, _decode(result))

    def submit(
        self,
        video: Media,
        audio: Media | None = None,
        *,
        segments: Sequence[Segment] = (),
        idempotency_key: str | None = None,
        webhook_url: str | None = None,
        **options: Unpack[Options],
    ) -> models.Job:
        """Submit a job and return it at once; Modal keeps its result for seven days.

        Args:
            video: path, file name, http(s) address that the container fetches, or bytes.
            audio: likewise; not needed if every segment has its own. Files are held in memory
                while they are sent.
            segments: parts of the video with recordings or speakers of their own.
            idempotency_key: not supported by Modal: a value is an error.
            webhook_url: likewise.
            options: see :class:`latentsync.client.Options`.

        Raises:
            InvalidField: there is no such file, or a value is not allowed.
            MissingField, ConflictingFields: a segment has no speech, or audio is not used by any.
            ServerError: there is no such deployment, or Modal refused.
            Unreachable: Modal cannot be reached.
        """
        for name, value in (("idempotency_key", idempotency_key), ("webhook_url", webhook_url)):
            if value is not None:
                raise errors.InvalidField(
                    f"{name} is not supported by Modal. Leave it out.", field=name
                )
        body = inline_body(PredictArgs(video, audio, segments, options))
        with self._own_errors():
            call = self._service().predict.spawn(**body)
        return models.Job(id=call.object_id, status="processing")

    def wait(
        self,
        job: models.Job | str,
        on_progress: OnProgress | None = None,
        timeout_s: float | None = None,
    ) -> models.Job:
        """Return the job once it has ended, successfully or not.

        Args:
            job: the job or its id.
            on_progress: called with the job at once, and when it has ended.
            timeout_s: longest time to wait; None waits as long as it takes.

        Raises:
            FetchTimeout: it has not ended in time; it continues.
            ServerError, Unreachable: as :meth:`submit`.
        """
        until = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        latest, reported = self.get(job), None
        while True:
            if on_progress is not None and latest != reported:
                on_progress(latest)
                reported = latest
            left_s = until - time.monotonic()
            if latest.is_final:
                return latest
            if left_s <= 0:
                raise errors.FetchTimeout(
                    f"Job {latest.id} has not ended after {timeout_s:g} s.", field="timeout_s"
                )
            latest = self._look(latest.id, wait_s=min(left_s, _LOOK_EVERY_S))

    def events(self, job: models.Job | str, after: int = 0) -> Iterator[models.JobEvent]:
        """Yield the job's status now and at its end. Events have no numbers here."""
        latest = self.get(job)
        yield _status(latest)
        if not latest.is_final:
            yield _status(self.wait(latest))

    def get(self, job: models.Job | str) -> models.Job:
        """Return the job; a queued one is reported as ``processing``."""
        return self._look(job_id(job), wait_s=0.0)

    def list(
        self, status: models.JobStatus | None = None, *, limit: int = 20, cursor: str | None = None
    ) -> models.JobPage:
        """Raise InvalidRequest: Modal has no list of calls for clients."""
        raise errors.InvalidRequest("Modal cannot list jobs. Keep their ids.")

    def cancel(self, job: models.Job | str) -> models.Job:
        """Cancel a queued or running job; one that has ended stays as it is."""
        latest = self.get(job)
        if latest.is_final:
            return latest
        with self._own_errors():
            self._modal.FunctionCall.from_id(latest.id).cancel()
        return models.Job(id=latest.id, status="canceled")

    def download(
        self, job: models.Job | str, path: Path | str, on_bytes: OnBytes | None = None
    ) -> Path:
        """Write the job's video to ``path`` atomically; missing folders are created.

        Raises:
            JobNotFound: the job has no video (yet).
            InvalidField: the path is a folder.
            ServerError, Unreachable: as :meth:`submit`.
            OSError: the file cannot be written.
        """
        target = Path(path)
        if target.is_dir():
            raise errors.InvalidField(
                f"path {str(target)!r} is a folder. Give the name of a file.", field="path"
            )
        latest = self.get(job)
        if latest.status != "succeeded":
            raise errors.JobNotFound(f"The job is {latest.status}: it has no output.", field="job")
        video = _decode(self._results[latest.id])
        if on_bytes is not None:
            on_bytes(len(video), len(video))
        return models.save_whole(video, target)

    def _look(self, call_id: str, *, wait_s: float) -> models.Job:
        """Return the job once it has ended, or after ``wait_s`` seconds."""
        if call_id in self._results:
            return _succeeded(call_id, self._results[call_id])
        exception = self._modal.exception
        call = self._modal.FunctionCall.from_id(call_id)
        try:
            answer = call.get(timeout=wait_s)
        except TimeoutError:  # the builtin one; those of Modal itself are of another family
            return models.Job(id=call_id, status="processing")
        except exception.InputCancellation:
            return models.Job(id=call_id, status="canceled")
        except exception.OutputExpiredError:
            raise errors.JobNotFound(
                f"Modal has no job {call_id!r}, or not any more.", field="job"
            ) from None
        except exception.FunctionTimeoutError:
            return _failed(
                call_id, errors.DeadlineExceeded.code, "Modal's time limit has ended the run."
            )
        except exception.InternalFailure:
            return _failed(
                call_id, errors.WorkerLost.code, "Modal has lost the container of the run."
            )
        except Exception as error:
            self._raise_if_platforms(error)
            if isinstance(error, exception.RemoteError) and self._is_terminated(call):
                return models.Job(id=call_id, status="canceled")
            said = f"The container failed with {type(error).__name__}; its log on Modal has more."
            return _failed(call_id, errors.InternalError.code, said)
        return self._remember(call_id, answer)

    def _is_terminated(self, call: Any) -> bool:
        """Tell whether a call without a result was canceled: its error does not say."""
        with self._own_errors():
            graph = call.get_call_graph()
        own = [entry for entry in graph if entry.function_call_id == call.object_id]
        return any(entry.status.name == "TERMINATED" for entry in own)

    def _remember(self, call_id: str, answer: object) -> models.Job:
        """Read the result of ``predict``; keep the latest one, which contains the video."""
        body = answer if isinstance(answer, dict) else {}
        if is_error(body):
            code, message = str(body.get("code")), str(body.get("message"))
            return _failed(call_id, code, message, body.get("field"))
        try:
            result = PredictResult.model_validate(body)
        except ValidationError as error:
            raise errors.ServerError(
                f"{self._name} did not return a video.",
                server_status=200,
                server_code="UNEXPECTED_ANSWER",
            ) from error
        self._results = {call_id: result}
        return _succeeded(call_id, result)

    @contextmanager
    def _own_errors(self) -> Iterator[None]:
        try:
            yield
        except self._modal.exception.Error as error:
            self._raise_if_platforms(error)
            raise errors.ServerError(
                str(error), server_status=500, server_code="UNKNOWN"
            ) from error

    def _raise_if_platforms(self, error: Exception) -> None:
        """Raise our error for a failure of Modal itself; return if the container failed."""
        exception = self._modal.exception
        if isinstance(error, exception.ConnectionError | exception.ServiceError):
            raise errors.Unreachable(f"Modal cannot be reached: {error}", field="url") from error
        statuses = {
            exception.NotFoundError: (404, "NOT_FOUND"),
            exception.AuthError: (401, errors.NotAuthorized.code),
            exception.PermissionDeniedError: (401, errors.NotAuthorized.code),
            exception.ResourceExhaustedError: (429, errors.LineFull.code),
        }
        for kind, (status, code) in statuses.items():
            if isinstance(error, kind):
                raise errors.ServerError(
                    str(error), server_status=status, server_code=code
                ) from error


def _succeeded(call_id: str, result: PredictResult) -> models.Job:
    return models.Job(
        id=call_id, status="succeeded", progress=Progress("", 1.0), details=result.details
    )


def _failed(call_id: str, code: str, message: str, field: str | None = None) -> models.Job:
    error = models.JobError(code=code, message=message, field=field)
    return models.Job(id=call_id, status="failed", error=error)


def _status(job: models.Job) -> models.JobEvent:
    error = None if job.error is None else job.error.model_dump()
    return models.JobEvent("status", {"status": job.status, "error": error})


def _decode(result: PredictResult) -> bytes:
    try:
        return base64.b64decode(result.video_base64, validate=True)
    except binascii.Error as error:
        raise errors.ServerError(
            "The video in the result is not base64.",
            server_status=200,
            server_code="UNEXPECTED_ANSWER",
        ) from error
