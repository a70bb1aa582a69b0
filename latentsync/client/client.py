"""The blocking and the asyncio client."""

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
    """Client of a server. Keeps connections open; use it as a context manager or call close().

    ``predict`` waits for the video and works with every deployment. The other calls are about jobs,
    which survive broken connections and restarts; ``latentsync serve`` accepts them.

    Calls about jobs are retried after connection errors and after the statuses 502, 503 and 504.
    Every submission has an idempotency key, so a retry never creates a second job.

    Args:
        url: URL of the server or app, with or without a trailing ``/predict``.
        token: bearer token; None if the server requires none.
        timeout_s: read timeout, which for ``predict`` includes waiting in the queue and the run.
        patience: retry policy.

    Raises:
        InvalidField: the URL is not http or https, or the token contains control characters.
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
        """Return a client of a deployment on Modal, with the Modal token of this machine.

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
            video: path, file name, http(s) URL that the server fetches, or the file's bytes.
            audio: likewise; not needed if every segment has its own.
            segments: parts of the video with their own recordings or speakers, instead of
                ``audio`` from start to end.
            options: see :class:`latentsync.client.Options`.

        Raises:
            InvalidField: a file cannot be read, or a value is not allowed.
            MissingField, ConflictingFields: a recording is missing or unused.
            ServerError: the server returned an error, or no video.
            Unreachable: the connection failed.
            FetchTimeout: the server timed out.
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
            video: path, file name, the file's bytes, or a URL: http(s), or ``upload://…``.
            audio: likewise; not needed if every segment has its own.
            segments: parts of the video with their own recordings or speakers.
            idempotency_key: your key for this submission; another one with the same key, even
                after a restart of your program, returns the first job.
            webhook_url: URL that the server calls when the job has ended.
            options: see :class:`latentsync.client.Options`.

        Raises:
            InvalidField: a file cannot be read, or a value is not allowed.
            MissingField, ConflictingFields: a recording is missing or unused.
            ServerError: the server returned an error.
            Unreachable: the connection failed in all attempts.
            FetchTimeout: the server timed out in all attempts.
        """
        args = PredictArgs(video, audio, segments, options)
        return _transport.finish(
            self._calls.submit(args, key=idempotency_key, webhook_url=webhook_url)
        )

    def wait(
        self,
        job: Job | str,
        on_progress: OnProgress | None = None,
        timeout_s: float | None = None,
    ) -> Job:
        """Wait until the job has ended, and return it; see :meth:`Job.raise_for_status`.

        Follows the job's events, or polls every second if events are unavailable.

        Args:
            job: the job or its id.
            on_progress: called with the job whenever it has changed.
            timeout_s: maximum time to wait; None waits forever.

        Raises:
            FetchTimeout: the job has not ended in time; it continues.
            ServerError, Unreachable: as :meth:`submit`.
        """
        return _transport.finish(self._calls.wait(job, on_progress, timeout_s))

    def events(self, job: Job | str, after: int = 0) -> Iterator[JobEvent]:
        """Yield the events of the job until it has ended.

        A broken connection is resumed without gaps or repetitions.

        Args:
            job: the job or its id.
            after: number of the last known event; 0 yields all.

        Raises:
            ServerError, Unreachable, FetchTimeout: as :meth:`submit`.
        """
        return _transport.iter_sync(self._calls.events(job, after))

    def get(self, job: Job | str) -> Job:
        """Return the current state of the job; raises as :meth:`submit`."""
        return _transport.finish(self._calls.get(job))

    def list(
        self, status: JobStatus | None = None, *, limit: int = 20, cursor: str | None = None
    ) -> JobPage:
        """Return a page of your jobs, newest first; raises as :meth:`submit`.

        Args:
            status: only jobs in this state.
            limit: 1 to 100.
            cursor: ``next_cursor`` of the previous page.
        """
        return _transport.finish(self._calls.list(status, limit, cursor))

    def cancel(self, job: Job | str) -> Job:
        """Cancel the job; a running one takes up to two seconds; raises as :meth:`submit`."""
        return _transport.finish(self._calls.cancel(job))

    def delete(self, job: Job | str) -> bool:
        """Erase the job with its media, its video and its database rows. This cannot be undone.

        A queued or running job is canceled first.

        Args:
            job: the job or its id.

        Returns:
            True if everything is erased; False if a run or the storage delays that, and the server
            erases the rest as soon as it can.

        Raises:
            ServerError: there is no such job, or the server returned an error.
            Unreachable, FetchTimeout: as :meth:`submit`.
        """
        return _transport.finish(self._calls.delete(job))

    def download(self, job: Job | str, path: Path | str, on_bytes: OnBytes | None = None) -> Path:
        """Download the video to ``path`` atomically; missing folders are created.

        It is written to a hidden file in the same folder, from which an interrupted download is
        resumed, also by a later call.

        Args:
            job: the job or its id.
            path: path to write.
            on_bytes: called with the bytes received so far and in total, or None.

        Raises:
            InvalidField: the path is a folder, or another download to it is in progress.
            ServerError, Unreachable, FetchTimeout: as :meth:`submit`.
            OSError: the file cannot be written.
        """
        return _transport.finish(self._calls.download(job, path, on_bytes))


class AsyncClient:
    """The asyncio variant of :class:`latentsync.client.Client`, with the same arguments.

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
        args = PredictArgs(video, audio, segments, options)
        return await self._calls.submit(args, key=idempotency_key, webhook_url=webhook_url)

    async def wait(
        self,
        job: Job | str,
        on_progress: OnProgress | None = None,
        timeout_s: float | None = None,
    ) -> Job:
        """Wait until the job has ended, and return it."""
        return await self._calls.wait(job, on_progress, timeout_s)

    def events(self, job: Job | str, after: int = 0) -> AsyncGenerator[JobEvent, None]:
        """Yield the events of the job until it has ended."""
        return self._calls.events(job, after)

    async def get(self, job: Job | str) -> Job:
        """Return the current state of the job."""
        return await self._calls.get(job)

    async def list(
        self, status: JobStatus | None = None, *, limit: int = 20, cursor: str | None = None
    ) -> JobPage:
        """Return a page of your jobs, newest first."""
        return await self._calls.list(status, limit, cursor)

    async def cancel(self, job: Job | str) -> Job:
        """Cancel the queued or running job."""
        return await self._calls.cancel(job)

    async def delete(self, job: Job | str) -> bool:
        """Erase the job with all its data; False if that is still in progress."""
        return await self._calls.delete(job)

    async def download(
        self, job: Job | str, path: Path | str, on_bytes: OnBytes | None = None
    ) -> Path:
        """Download the video to ``path`` atomically."""
        return await self._calls.download(job, path, on_bytes)
