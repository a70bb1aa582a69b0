"""The blocking client, and the same calls for asyncio."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from latentsync.client import _transport
from latentsync.client._api import ApiCalls, OnProgress
from latentsync.client._download import OnBytes
from latentsync.client._http import RetryPolicy
from latentsync.client._payload import Media, Options, PredictArgs, Segment
from latentsync.client.modal import ModalClient
from latentsync.client.models import Job, JobEvent, JobPage, JobStatus, Prediction


class Client:
    """Calls a server. Keeps connections open; use it as a context manager or call close().

    ``predict`` waits for the video and works with every deployment. The other calls are about jobs,
    which survive broken connections and restarts; they need ``latentsync serve``.

    Calls about jobs are repeated when the connection breaks or the server answers 502, 503 or 504.
    Every submission has an idempotency key, so a repeated one creates no second job.

    Args:
        url: address of the server or of the app, with or without ``/predict`` at its end.
        token: bearer token; None for a server without keys.
        timeout_s: longest time without a response, including the time in the queue and the run.
        patience: when failed requests are retried.

    Raises:
        InvalidField: the address is not http or https, or the token cannot be a header's value.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout_s: float = 900.0,
        patience: RetryPolicy | None = None,
    ) -> None:
        address = _transport.parse_address(url)
        self.url = address.base
        transport = _transport.BlockingTransport(
            **_transport.http_options(address, token, timeout_s)
        )
        self._http = transport.http
        self._calls = ApiCalls(transport, address, patience or RetryPolicy(), timeout_s)

    @staticmethod
    def modal(app: str = "latentsync", cls: str = "LatentSync") -> ModalClient:
        """Return a client of a deployment on Modal, found by the Modal token of this machine.

        Args:
            app: name of the deployed app.
            cls: name of its class.
        """
        return ModalClient(app, cls)

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

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
        """Close the connections."""
        _transport.finish(self._calls.close())

    def predict(
        self,
        video: Media,
        audio: Media | None = None,
        *,
        segments: Sequence[Segment] = (),
        **options: Unpack[Options],
    ) -> Prediction:
        """Lip-sync ``video`` to ``audio`` and wait for the result.

        Args:
            video: path, file name, http(s) address that the server fetches, or the file's bytes.
            audio: likewise; not needed if every segment has its own.
            segments: parts of the video with recordings or speakers of their own, instead of
                ``audio`` from start to end.
            options: see :class:`latentsync.client.Options`.

        Raises:
            InvalidField: there is no such file, or a value is not allowed.
            MissingField, ConflictingFields: a segment has no speech, or audio is not used by any.
            ServerError: the server answered with an error, or not with a video.
            Unreachable: no connection, or it broke.
            FetchTimeout: no response within the timeout.
        """
        return _transport.finish(self._calls.predict(PredictArgs(video, audio, segments, options)))

    def submit(
        self,
        video: Media,
        audio: Media | None = None,
        *,
        segments: Sequence[Segment] = (),
        idempotency_key: str | None = None,
        webhook_url: str | None = None,
        **options: Unpack[Options],
    ) -> Job:
        """Submit a job and return it at once; files are streamed.

        Args:
            video: path, file name, the file's bytes, or an address: http(s), or ``upload://…``.
            audio: likewise; not needed if every segment has its own.
            segments: parts of the video with recordings or speakers of their own.
            idempotency_key: your key for this submission: another one with the same key, even after
                a restart of this program, returns the first job.
            webhook_url: address that the server calls when the job has ended.
            options: see :class:`latentsync.client.Options`.

        Raises:
            InvalidField: there is no such file, or a value is not allowed.
            MissingField, ConflictingFields: a segment has no speech, or audio is not used by any.
            ServerError: the server refused.
            Unreachable: no connection, or it broke, on every retry.
            FetchTimeout: no response in time, on every retry.
        """
        asked = PredictArgs(video, audio, segments, options)
        return _transport.finish(
            self._calls.submit(asked, key=idempotency_key, webhook_url=webhook_url)
        )

    def wait(
        self,
        job: Job | str,
        on_progress: OnProgress | None = None,
        timeout_s: float | None = None,
    ) -> Job:
        """Return the job once it has ended, successfully or not; see :meth:`Job.raise_for_status`.

        Follows the job's events, or polls every second where events are blocked.

        Args:
            job: the job or its id.
            on_progress: called with the job whenever it has changed.
            timeout_s: longest time to wait; None waits as long as it takes.

        Raises:
            FetchTimeout: it has not ended in time; it continues.
            ServerError, Unreachable: as :meth:`submit`.
        """
        return _transport.finish(self._calls.wait(job, on_progress, timeout_s))

    def events(self, job: Job | str, after: int = 0) -> Iterator[JobEvent]:
        """Yield the job's events until it has ended, from its beginning or after a known event.

        A broken connection is resumed without gaps or repetitions.

        Args:
            job: the job or its id.
            after: number of the last event that is known.

        Raises:
            ServerError, Unreachable, FetchTimeout: as :meth:`submit`.
        """
        return _transport.iter_sync(self._calls.events(job, after))

    def get(self, job: Job | str) -> Job:
        """Return the job as it is now; raises as :meth:`submit`."""
        return _transport.finish(self._calls.get(job))

    def list(
        self, status: JobStatus | None = None, *, limit: int = 20, cursor: str | None = None
    ) -> JobPage:
        """Return your jobs, newest first; raises as :meth:`submit`.

        Args:
            status: only those in this state.
            limit: 1 to 100.
            cursor: the ``next_cursor`` of the page before.
        """
        return _transport.finish(self._calls.list(status, limit, cursor))

    def cancel(self, job: Job | str) -> Job:
        """Cancel a queued or running job, within two seconds; raises as submit."""
        return _transport.finish(self._calls.cancel(job))

    def delete(self, job: Job | str) -> bool:
        """Delete the job with its media, video and records. This cannot be undone.

        A queued or running job is canceled first.

        Args:
            job: the job or its id.

        Returns:
            True if all of it is deleted; False if the server deletes the rest later, because of a
            run that is stopping or storage that is unreachable.

        Raises:
            ServerError: there is no such job, or the server refused.
            Unreachable, FetchTimeout: as :meth:`submit`.
        """
        return _transport.finish(self._calls.delete(job))

    def download(self, job: Job | str, path: Path | str, on_bytes: OnBytes | None = None) -> Path:
        """Download the job's video to ``path`` atomically; missing folders are created.

        A hidden file next to ``path`` holds a partial download, which a later call resumes.

        Args:
            job: the job or its id.
            path: of the file.
            on_bytes: called with the bytes received and the total, which may be None.

        Raises:
            InvalidField: the path is a folder, or another download to it is in progress.
            ServerError, Unreachable, FetchTimeout: as :meth:`submit`.
            OSError: the file cannot be written.
        """
        return _transport.finish(self._calls.download(job, path, on_bytes))


class AsyncClient:
    """Has the methods of :class:`latentsync.client.Client`, with the same arguments.

    Use it as an asynchronous context manager, or await close(). ``events`` is iterated with
    ``async for``; everything else is awaited.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout_s: float = 900.0,
        patience: RetryPolicy | None = None,
    ) -> None:
        address = _transport.parse_address(url)
        self.url = address.base
        transport = _transport.AsyncTransport(**_transport.http_options(address, token, timeout_s))
        self._calls = ApiCalls(transport, address, patience or RetryPolicy(), timeout_s)

    def __repr__(self) -> str:
        return f"AsyncClient({self.url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._calls.close()

    async def predict(
        self,
        video: Media,
        audio: Media | None = None,
        *,
        segments: Sequence[Segment] = (),
        **options: Unpack[Options],
    ) -> Prediction:
        """Lip-sync ``video`` to ``audio`` and wait for the result."""
        return await self._calls.predict(PredictArgs(video, audio, segments, options))

    async def submit(
        self,
        video: Media,
        audio: Media | None = None,
        *,
        segments: Sequence[Segment] = (),
        idempotency_key: str | None = None,
        webhook_url: str | None = None,
        **options: Unpack[Options],
    ) -> Job:
        """Submit a job and return it at once."""
        asked = PredictArgs(video, audio, segments, options)
        return await self._calls.submit(asked, key=idempotency_key, webhook_url=webhook_url)

    async def wait(
        self,
        job: Job | str,
        on_progress: OnProgress | None = None,
        timeout_s: float | None = None,
    ) -> Job:
        """Return the job once it has ended, successfully or not."""
        return await self._calls.wait(job, on_progress, timeout_s)

    def events(self, job: Job | str, after: int = 0) -> AsyncGenerator[JobEvent, None]:
        """Yield the job's events until it has ended."""
        return self._calls.events(job, after)

    async def get(self, job: Job | str) -> Job:
        """Return the job as it is now."""
        return await self._calls.get(job)

    async def list(
        self, status: JobStatus | None = None, *, limit: int = 20, cursor: str | None = None
    ) -> JobPage:
        """Return your jobs, newest first."""
        return await self._calls.list(status, limit, cursor)

    async def cancel(self, job: Job | str) -> Job:
        """Cancel a queued or running job."""
        return await self._calls.cancel(job)

    async def delete(self, job: Job | str) -> bool:
        """Delete the job and its files; False if the server deletes some of it later."""
        return await self._calls.delete(job)

    async def download(
        self, job: Job | str, path: Path | str, on_bytes: OnBytes | None = None
    ) -> Path:
        """Download the job's video to ``path`` atomically."""
        return await self._calls.download(job, path, on_bytes)
