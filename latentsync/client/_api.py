"""All calls of the client, written once for both kinds of client."""

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

_ANSWER_TIMEOUT_S = 60.0  # of the native API, whose responses never wait for a run


class ApiCalls:
    """The calls of both clients, as coroutines; see :class:`latentsync.client.client.Client`.

    Args:
        transport: how requests are sent.
        address: the server's.
        patience: when failed requests are retried.
        timeout_s: longest time without a response.
    """

    def __init__(
        self, transport: Transport, address: Address, patience: RetryPolicy, timeout_s: float
    ) -> None:
        self._address = address
        self._patience = patience
        self._exchange = HttpSession(transport, address.base, patience)
        self._timeout = httpx.Timeout(min(timeout_s, _ANSWER_TIMEOUT_S), connect=CONNECT_TIMEOUT_S)

    async def predict(self, asked: PredictArgs) -> Prediction:
        """Make a video in one request, which is never retried."""
        body = inline_body(asked)
        request = self._exchange.build("POST", self._address.predict, json=body)
        return read_prediction(await self._exchange.ask_once(request))

    async def submit(self, asked: PredictArgs, *, key: str | None, webhook_url: str | None) -> Job:
        """Submit a job; its idempotency key makes retries safe."""
        headers = {"Idempotency-Key": idempotency_key(key)}
        with open_submission(asked, webhook_url) as body:
            return read_job(
                await self._exchange.ask(
                    lambda: self._exchange.build(
                        "POST",
                        self._address.predictions,
                        headers=headers,
                        timeout=self._timeout,
                        **body,
                    )
                )
            )

    async def get(self, job: Job | str) -> Job:
        """Return the job as it is now."""
        return read_job(await self._ask("GET", self._url(job)))

    async def list(self, status: JobStatus | None, limit: int, cursor: str | None) -> JobPage:
        """Return a page of the key's jobs, newest first."""
        query = {"status": status, "limit": limit, "cursor": cursor}
        asked = httpx.QueryParams(
            {name: value for name, value in query.items() if value is not None}
        )
        return read_page(await self._ask("GET", f"{self._address.predictions}?{asked}"))

    async def cancel(self, job: Job | str) -> Job:
        """Cancel a job; return it as it is then."""
        return read_job(await self._ask("POST", f"{self._url(job)}/cancel"))

    async def delete(self, job: Job | str) -> bool:
        """Delete a job; if an interrupted attempt has deleted it already, that is no error."""
        url, tries = self._url(job), 0

        def build() -> httpx.Request:
            nonlocal tries
            tries += 1
            return self._exchange.build("DELETE", url, timeout=self._timeout)

        try:
            answer = await self._exchange.ask(build)
        except errors.ServerError as refusal:
            if tries == 1 or refusal.server_code != errors.JobNotFound.code:
                raise
            return True
        return answer.status_code == httpx.codes.NO_CONTENT

    async def download(
        self, job: Job | str, path: Path | str, on_bytes: downloads.OnBytes | None
    ) -> Path:
        """Download the video, resuming after a broken connection; return its path."""
        own = f"{self._url(job)}/output"
        url = own if isinstance(job, str) else self._address.own_url(job.output_url, own)
        return await downloads.download(self._exchange, url, Path(path), on_bytes)

    async def events(self, job: Job | str, after: int) -> AsyncGenerator[JobEvent, None]:
        """Yield a job's events until it has ended."""
        async with aclosing(self._follow(job, after)) as events:
            async for event in events:
                if event is not None:
                    yield event

    async def wait(
        self, job: Job | str, on_progress: OnProgress | None, timeout_s: float | None
    ) -> Job:
        """Follow a job to its end by its events, or by polling where events are blocked."""
        until = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        latest = await self.get(job)
        notify = _ChangeNotifier(on_progress)
        notify(latest)
        async with aclosing(self._states(latest, until)) as states:
            async for state in states:
                notify(state)
        while True:
            latest = await self.get(job)  # events carry less than this response
            notify(latest)
            if latest.is_final:
                return latest
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise errors.FetchTimeout(
                    f"Job {latest.id} is {latest.status} after {timeout_s:g} s.", field="timeout_s"
                )
            await self._exchange.transport.pause(min(self._patience.poll_every_s, left_s))

    async def close(self) -> None:
        """Close the connections."""
        await self._exchange.transport.close()

    async def _states(self, job: Job, until: float) -> AsyncGenerator[Job, None]:
        """Yield the job as its events change it, until it has ended or polling is better.

        Polling is better where events are blocked, and when the caller's time is nearly up: waiting
        for the next event cannot be interrupted.
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
            logger.info("events of job %s are invalid: %s", job.id, error)
        except errors.LatentSyncError as error:  # the next request raises it again if it persists
            logger.info("no events of job %s: %s", job.id, error)

    def _follow(self, job: Job | str, after: int) -> AsyncGenerator[JobEvent | None, None]:
        timeout = httpx.Timeout(self._patience.silence_s, connect=CONNECT_TIMEOUT_S)
        return follow(self._exchange, f"{self._url(job)}/events", after, timeout)

    async def _ask(self, method: str, url: str) -> httpx.Response:
        return await self._exchange.ask(
            lambda: self._exchange.build(method, url, timeout=self._timeout)
        )

    def _url(self, job: Job | str) -> str:
        return f"{self._address.predictions}/{job_id(job)}"


_ENDED = JobEvent("ended")


class _ChangeNotifier:
    """Calls ``on_progress`` when the job has changed since the last call."""

    def __init__(self, on_progress: OnProgress | None) -> None:
        self._on_progress = on_progress
        self._reported: Job | None = None

    def __call__(self, job: Job) -> None:
        if self._on_progress is not None and job != self._reported:
            self._reported = job
            self._on_progress(job)


def job_id(job: Job | str) -> str:
    """Return a job's id; raises InvalidField for an invalid one."""
    given = job if isinstance(job, str) else job.id
    if not given or not given.replace("-", "").isalnum() or not given.isascii():
        raise errors.InvalidField(
            f"job is {errors.shorten(given)}. Allowed: the id of a job.", field="job"
        )
    return given
