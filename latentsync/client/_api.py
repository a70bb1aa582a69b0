"""The client's calls, shared by the blocking and the asynchronous client."""

import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path

import httpx
from pydantic import ValidationError

from latentsync import errors
from latentsync.client import _download as downloads
from latentsync.client._events import follow
from latentsync.client._http import HttpSession, RetryPolicy, read_job, read_page, read_prediction
from latentsync.client._payload import PredictArgs, idempotency_key, inline_body, open_submission
from latentsync.client._transport import CONNECT_TIMEOUT_S, Address, Transport
from latentsync.client.models import Job, JobEvent, JobPage, JobStatus, Prediction

logger = logging.getLogger(__name__)

OnProgress = Callable[[Job], None]

_API_TIMEOUT_S = 60.0  # the native API never waits for a run


class ApiCalls:
    """The calls of both clients as coroutines; see :class:`latentsync.client.client.Client`.

    Args:
        transport: sends the requests.
        address: of the server.
        patience: retry policy.
        timeout_s: read timeout.
    """

    def __init__(
        self, transport: Transport, address: Address, patience: RetryPolicy, timeout_s: float
    ) -> None:
        self._address = address
        self._patience = patience
        self._session = HttpSession(transport, address.base, patience)
        self._timeout = httpx.Timeout(min(timeout_s, _API_TIMEOUT_S), connect=CONNECT_TIMEOUT_S)

    async def predict(self, args: PredictArgs) -> Prediction:
        """Make a video in one request, which is not retried."""
        body = inline_body(args)
        request = self._session.build("POST", self._address.predict, json=body)
        return read_prediction(await self._session.ask_once(request))

    async def submit(self, args: PredictArgs, *, key: str | None, webhook_url: str | None) -> Job:
        """Submit a job; the idempotency key makes retries safe."""
        headers = {"Idempotency-Key": idempotency_key(key)}
        with open_submission(args, webhook_url) as body:
            return read_job(
                await self._session.ask(
                    lambda: self._session.build(
                        "POST",
                        self._address.predictions,
                        headers=headers,
                        timeout=self._timeout,
                        **body,
                    )
                )
            )

    async def get(self, job: Job | str) -> Job:
        """Return the current state of a job."""
        return read_job(await self._ask("GET", self._url(job)))

    async def list(self, status: JobStatus | None, limit: int, cursor: str | None) -> JobPage:
        """Return a page of jobs, newest first."""
        query = {"status": status, "limit": limit, "cursor": cursor}
        params = httpx.QueryParams(
            {name: value for name, value in query.items() if value is not None}
        )
        return read_page(await self._ask("GET", f"{self._address.predictions}?{params}"))

    async def cancel(self, job: Job | str) -> Job:
        """Cancel a job and return its state."""
        return read_job(await self._ask("POST", f"{self._url(job)}/cancel"))

    async def delete(self, job: Job | str) -> bool:
        """Erase a job; a retry that finds it already erased is a success."""
        url, tries = self._url(job), 0

        def build() -> httpx.Request:
            nonlocal tries
            tries += 1
            return self._session.build("DELETE", url, timeout=self._timeout)

        try:
            response = await self._session.ask(build)
        except errors.ServerError as error:
            if tries == 1 or error.server_code != errors.JobNotFound.code:
                raise
            return True
        return response.status_code == httpx.codes.NO_CONTENT

    async def download(
        self, job: Job | str, path: Path | str, on_bytes: downloads.OnBytes | None
    ) -> Path:
        """Download the video, resuming after broken connections; return its path."""
        default = f"{self._url(job)}/output"
        url = default if isinstance(job, str) else self._address.own_url(job.output_url, default)
        return await downloads.download(self._session, url, Path(path), on_bytes)

    async def events(self, job: Job | str, after: int) -> AsyncGenerator[JobEvent, None]:
        """Yield the events of a job until it has ended."""
        async with aclosing(self._follow(job, after)) as events:
            async for event in events:
                if event is not None:
                    yield event

    async def wait(
        self, job: Job | str, on_progress: OnProgress | None, timeout_s: float | None
    ) -> Job:
        """Follow a job until it ends, by its events or, if those are unavailable, by polling."""
        until = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        latest = await self.get(job)
        report = _ChangeReporter(on_progress)
        report(latest)
        async with aclosing(self._states(latest, until)) as states:
            async for state in states:
                report(state)
        while True:
            latest = await self.get(job)  # events contain less than the job itself
            report(latest)
            if latest.is_final:
                return latest
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise errors.FetchTimeout(
                    f"Job {latest.id} is {latest.status} after {timeout_s:g} s.", field="timeout_s"
                )
            await self._session.transport.pause(min(self._patience.poll_every_s, left_s))

    async def close(self) -> None:
        """Close the connections."""
        await self._session.transport.close()

    async def _states(self, job: Job, until: float) -> AsyncGenerator[Job, None]:
        """Yield the job as its events change it, until it has ended or polling must take over.

        Polling takes over if events are unavailable, and shortly before the timeout: waiting for
        the next event cannot be interrupted.
        """
        try:
            async with aclosing(self._follow(job, after=0)) as events:
                while not job.is_final and until - time.monotonic() > self._patience.silence_s:
                    event = await anext(events, _ENDED)
                    if event is _ENDED:
                        return
                    if event is not None:
                        job = job.after(event)
                        yield job
        except ValidationError as error:
            logger.info("events of job %s have an unknown format: %s", job.id, error)
        except errors.LatentSyncError as error:  # polling raises it again if it persists
            logger.info("no events of job %s: %s", job.id, error)

    def _follow(self, job: Job | str, after: int) -> AsyncGenerator[JobEvent | None, None]:
        timeout = httpx.Timeout(self._patience.silence_s, connect=CONNECT_TIMEOUT_S)
        return follow(self._session, f"{self._url(job)}/events", after, timeout)

    async def _ask(self, method: str, url: str) -> httpx.Response:
        return await self._session.ask(
            lambda: self._session.build(method, url, timeout=self._timeout)
        )

    def _url(self, job: Job | str) -> str:
        return f"{self._address.predictions}/{job_id(job)}"


_ENDED = JobEvent("ended")


class _ChangeReporter:
    """Calls ``on_progress`` when the job differs from the last reported one."""

    def __init__(self, on_progress: OnProgress | None) -> None:
        self._on_progress = on_progress
        self._reported: Job | None = None

    def __call__(self, job: Job) -> None:
        if self._on_progress is not None and job != self._reported:
            self._reported = job
            self._on_progress(job)


def job_id(job: Job | str) -> str:
    """Return the id of a job; raises InvalidField if it is malformed."""
    given = job if isinstance(job, str) else job.id
    if not given or not given.replace("-", "").isalnum() or not given.isascii():
        raise errors.InvalidField(
            f"job is {errors.shorten(given)}. Allowed: the id of a job.", field="job"
        )
    return given
