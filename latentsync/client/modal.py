"""Client of a deployment on Modal, which queues and runs calls itself.

Modal reports neither progress nor queue position, and cannot list jobs.
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

_POLL_EVERY_S = 30.0  # how long one request to Modal waits for a result


class ModalClient:
    """Has the methods of :class:`latentsync.client.Client`, over the package ``modal``.

    Args:
        app: name of the deployed app.
        cls: name of its class with the method ``predict``.

    Raises:
        InvalidRequest: the package ``modal`` is not installed.
    """

    def __init__(self, app: str, cls: str) -> None:
        try:
            import modal
            import modal.exception
        except ImportError:
            raise errors.InvalidRequest(
                "The Modal client needs modal: pip install modal."
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
        """Do nothing: the connection belongs to the package ``modal``."""

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
            video: path, file name, http(s) URL that the container fetches, or bytes.
            audio: likewise; not needed if every segment has its own. Files are held in memory
                while they are sent.
            segments: parts of the video with their own recordings or speakers.
            idempotency_key: not supported on Modal; a value is refused.
            webhook_url: likewise.
            options: see :class:`latentsync.client.Options`.

        Raises:
            InvalidField: a file cannot be read, or a value is not allowed.
            MissingField, ConflictingFields: a recording is missing or unused.
            ServerError: there is no such deployment, or Modal returned an error.
            Unreachable: Modal cannot be reached.
        """
        for name, value in (("idempotency_key", idempotency_key), ("webhook_url", webhook_url)):
            if value is not None:
                raise errors.InvalidField(
                    f"{name} is not supported on Modal. Leave it out.", field=name
                )
        body = inline_body(PredictArgs(video, audio, segments, options))
        with self._translate_errors():
            call = self._service().predict.spawn(**body)
        return models.Job(id=call.object_id, status="processing")

    def wait(
        self,
        job: models.Job | str,
        on_progress: OnProgress | None = None,
        timeout_s: float | None = None,
    ) -> models.Job:
        """Wait until the job has ended, and return it.

        Args:
            job: the job or its id.
            on_progress: called with the job at once, and when it has ended.
            timeout_s: maximum time to wait; None waits forever.

        Raises:
            FetchTimeout: the job has not ended in time; it continues.
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
            latest = self._poll(latest.id, wait_s=min(left_s, _POLL_EVERY_S))

    def events(self, job: models.Job | str, after: int = 0) -> Iterator[models.JobEvent]:
        """Yield the current state and the final one. Events have no numbers on Modal."""
        latest = self.get(job)
        yield _status(latest)
        if not latest.is_final:
            yield _status(self.wait(latest))

    def get(self, job: models.Job | str) -> models.Job:
        """Return the job; it is ``processing`` until it has ended, also while it is queued."""
        return self._poll(job_id(job), wait_s=0.0)

    def list(
        self, status: models.JobStatus | None = None, *, limit: int = 20, cursor: str | None = None
    ) -> models.JobPage:
        """Raise InvalidRequest: Modal cannot list calls."""
        raise errors.InvalidRequest("Modal cannot list jobs. Keep their ids.")

    def cancel(self, job: models.Job | str) -> models.Job:
        """Cancel the queued or running job; a job that has ended is unchanged."""
        latest = self.get(job)
        if latest.is_final:
            return latest
        with self._translate_errors():
            self._modal.FunctionCall.from_id(latest.id).cancel()
        return models.Job(id=latest.id, status="canceled")

    def download(
        self, job: models.Job | str, path: Path | str, on_bytes: OnBytes | None = None
    ) -> Path:
        """Write the video to ``path`` atomically; missing folders are created.

        Raises:
            JobNotFound: the job has no video, or none yet.
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

    def _poll(self, call_id: str, *, wait_s: float) -> models.Job:
        """Wait up to ``wait_s`` for the end of the job, and return its state."""
        if call_id in self._results:
            return _succeeded(call_id, self._results[call_id])
        exception = self._modal.exception
        call = self._modal.FunctionCall.from_id(call_id)
        try:
            value = call.get(timeout=wait_s)
        except TimeoutError:  # the builtin one, not one of Modal's exceptions
            return models.Job(id=call_id, status="processing")
        except exception.InputCancellation:
            return models.Job(id=call_id, status="canceled")
        except exception.OutputExpiredError:
            raise errors.JobNotFound(
                f"Modal has no job {call_id!r}, or its result has expired.", field="job"
            ) from None
        except exception.FunctionTimeoutError:
            return _failed(
                call_id, errors.DeadlineExceeded.code, "The run exceeded Modal's time limit."
            )
        except exception.InternalFailure:
            return _failed(call_id, errors.WorkerLost.code, "Modal lost the container of the run.")
        except Exception as error:
            self._raise_platform_error(error)
            if isinstance(error, exception.RemoteError) and self._is_terminated(call):
                return models.Job(id=call_id, status="canceled")
            message = f"The container failed with {type(error).__name__}; see its log on Modal."
            return _failed(call_id, errors.InternalError.code, message)
        return self._parse_result(call_id, value)

    def _is_terminated(self, call: Any) -> bool:
        """Return whether a call was canceled, which its error does not say."""
        with self._translate_errors():
            graph = call.get_call_graph()
        own = [entry for entry in graph if entry.function_call_id == call.object_id]
        return any(entry.status.name == "TERMINATED" for entry in own)

    def _parse_result(self, call_id: str, value: object) -> models.Job:
        """Parse the return value of ``predict``; the latest one is kept, since it is large."""
        body = value if isinstance(value, dict) else {}
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
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except self._modal.exception.Error as error:
            self._raise_platform_error(error)
            raise errors.ServerError(
                str(error), server_status=500, server_code="UNKNOWN"
            ) from error

    def _raise_platform_error(self, error: Exception) -> None:
        """Translate an error of Modal itself; return if it came from a container."""
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
            "The returned video is not valid base64.",
            server_status=200,
            server_code="UNEXPECTED_ANSWER",
        ) from error
