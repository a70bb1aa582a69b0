"""The client for asyncio: the same calls, while other tasks go on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from latentsync.client.address import http_options, parse_address
from latentsync.client.calls import Calls, OnProgress
from latentsync.client.download import OnBytes
from latentsync.client.job import Job, JobEvent, JobPage, JobStatus
from latentsync.client.media import Media
from latentsync.client.patience import Patience
from latentsync.client.prediction import Prediction
from latentsync.client.request import Asked, Options
from latentsync.client.segment import Segment
from latentsync.client.transport import AsyncTransport


class AsyncClient:
    """Does what :class:`latentsync.client.Client` does, with the same names and arguments.

    Use it as an asynchronous context manager, or await close(). ``events`` is iterated with
    ``async for``; everything else is awaited.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout_s: float = 900.0,
        patience: Patience | None = None,
    ) -> None:
        address = parse_address(url)
        self.url = address.base
        transport = AsyncTransport(**http_options(address, token, timeout_s))
        self._calls = Calls(transport, address, patience or Patience(), timeout_s)

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
        """Make the lips of ``video`` say ``audio``, and wait for it."""
        return await self._calls.predict(Asked(video, audio, segments, options))

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
        """Hand in a job and return it at once."""
        asked = Asked(video, audio, segments, options)
        return await self._calls.submit(asked, key=idempotency_key, webhook_url=webhook_url)

    async def wait(
        self,
        job: Job | str,
        on_progress: OnProgress | None = None,
        timeout_s: float | None = None,
    ) -> Job:
        """Return the job when it has ended, well or not."""
        return await self._calls.wait(job, on_progress, timeout_s)

    def events(self, job: Job | str, after: int = 0) -> AsyncGenerator[JobEvent, None]:
        """Yield what happens to the job until it has ended."""
        return self._calls.events(job, after)

    async def get(self, job: Job | str) -> Job:
        """Return the job as it is now."""
        return await self._calls.get(job)

    async def list(
        self, status: JobStatus | None = None, *, limit: int = 20, cursor: str | None = None
    ) -> JobPage:
        """Return one's jobs, latest first."""
        return await self._calls.list(status, limit, cursor)

    async def cancel(self, job: Job | str) -> Job:
        """Cancel the job, also while it runs."""
        return await self._calls.cancel(job)

    async def delete(self, job: Job | str) -> bool:
        """Erase the job and all that the server has recorded of it; False if that goes on."""
        return await self._calls.delete(job)

    async def download(
        self, job: Job | str, path: Path | str, on_bytes: OnBytes | None = None
    ) -> Path:
        """Bring the job's video to ``path``, whole or not at all."""
        return await self._calls.download(job, path, on_bytes)
