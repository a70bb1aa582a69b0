"""Requests with retries, parsing of responses, and the retry policy.

Responses may come from proxies and platforms, so their form is never trusted.
"""

import base64
import binascii
import logging
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from pydantic import ValidationError

from latentsync.client._transport import Transport
from latentsync.client.models import Job, JobPage, Prediction
from latentsync.errors import FetchTimeout, LatentSyncError, ServerError, Unreachable
from latentsync.schema.responses import PredictResponse

_UNKNOWN = "UNKNOWN"


def read_prediction(response: httpx.Response) -> Prediction:
    """Parse a response of ``/predict``; raises ServerError."""
    body = json_object(response)
    result = body.get("result")
    failure = result if isinstance(result, dict) and is_error(result) else body
    if not response.is_success or is_error(failure):
        raise server_error(response, failure)
    try:
        answer = PredictResponse.model_validate(body)
        video = base64.b64decode(answer.result.video_base64, validate=True)
    except (ValidationError, binascii.Error) as error:
        raise unexpected(response, "a video") from error
    return Prediction(answer.run_id, answer.run_time_ms, answer.result.details, video)


def read_job(response: httpx.Response) -> Job:
    """Parse a job of the native API; raises ServerError."""
    try:
        return Job.model_validate(json_object(response))
    except ValidationError as error:
        raise unexpected(response, "a job") from error


def read_page(response: httpx.Response) -> JobPage:
    """Parse a page of jobs of the native API; raises ServerError."""
    body = json_object(response)
    jobs, cursor = body.get("predictions"), body.get("next_cursor")
    if not isinstance(jobs, list) or not isinstance(cursor, str | None):
        raise unexpected(response, "a list of jobs")
    try:
        return JobPage(tuple(Job.model_validate(job) for job in jobs), cursor)
    except ValidationError as error:
        raise unexpected(response, "a list of jobs") from error


def json_object(response: httpx.Response) -> Mapping[str, Any]:
    """Return the body's JSON object, or an empty one if the body is anything else."""
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def is_error(body: Mapping[str, Any]) -> bool:
    """Return whether a body contains an error status, as Cerebrium's do."""
    status = body.get("status_code")
    return isinstance(status, int) and status >= 400


def server_error(response: httpx.Response, body: Mapping[str, Any]) -> ServerError:
    """Build the error from a body of any form."""
    status = body["status_code"] if is_error(body) else response.status_code
    text = body.get("message") or body.get("detail") or body.get("error") or body.get("reason")
    message = text if isinstance(text, str) else f"The server returned status {status}."
    code, at_fault = body.get("code"), body.get("field")
    return ServerError(
        message,
        server_status=status,
        server_code=code if isinstance(code, str) else _UNKNOWN,
        field=at_fault if isinstance(at_fault, str) else None,
        retry_after_s=_retry_after_s(response),
    )


def native_error(response: httpx.Response) -> ServerError:
    """Build the error of a native API call; not every server has that API."""
    error = server_error(response, json_object(response))
    no_such_route = error.server_code in (_UNKNOWN, "NOT_FOUND", "METHOD_NOT_ALLOWED")
    if response.status_code not in (404, 405) or not no_such_route:
        return error
    return ServerError(
        f"{shown(response)} does not accept jobs. Use predict, which waits for the video.",
        server_status=response.status_code,
        server_code=error.server_code,
        field="url",
    )


def unexpected(response: httpx.Response, wanted: str) -> ServerError:
    """Return the error for a successful response with unexpected content."""
    return ServerError(
        f"The server returned status {response.status_code}, but not {wanted}.",
        server_status=response.status_code,
        server_code="UNEXPECTED_ANSWER",
    )


def shown(response: httpx.Response) -> str:
    """Return the origin of the server, for messages."""
    url = response.request.url
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def _retry_after_s(response: httpx.Response) -> float | None:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdecimal() else None  # the date form is not supported


logger = logging.getLogger(__name__)

_TRANSIENT_STATUSES = (502, 503, 504)
_RETRY_AFTER_MAX_S = 60.0  # a longer Retry-After fails at once


@dataclass(frozen=True)
class RetryPolicy:
    """When and how often the client retries.

    Attributes:
        retries: consecutive retries of a call after connection errors and after the statuses 502,
            503 and 504.
        first_pause_s: pause before the first retry; it doubles with each further retry.
        longest_pause_s: upper bound of the pauses.
        silence_s: read timeout of event streams; the server sends a heartbeat every 15 s.
        poll_every_s: polling interval if events are unavailable.
    """

    retries: int = 5
    first_pause_s: float = 0.5
    longest_pause_s: float = 8.0
    silence_s: float = 45.0
    poll_every_s: float = 1.0

    def pauses(self) -> Iterator[float]:
        """Yield the pauses in seconds, with jitter."""
        for number in range(self.retries):
            pause_s = min(self.longest_pause_s, self.first_pause_s * 2**number)
            yield pause_s * random.uniform(0.75, 1.0)


class RetryState:
    """Counts consecutive failures of one call, and pauses after each.

    Args:
        patience: the retry policy.
        pause: sleeps for the given seconds.
    """

    def __init__(self, patience: RetryPolicy, pause: Callable[[float], Awaitable[None]]) -> None:
        self._patience = patience
        self._pause = pause
        self._pauses = patience.pauses()

    def reset(self) -> None:
        """Reset the count after progress."""
        self._pauses = self._patience.pauses()

    async def pause_after(self, fault: LatentSyncError) -> None:
        """Pause before the next retry; raises ``fault`` if it is permanent or no retry is left."""
        pause_s = next(self._pauses, None) if _is_transient(fault) else None
        if pause_s is None:
            raise fault
        pause_s = max(pause_s, fault.retry_after_s or 0.0)
        logger.warning("%s Retrying in %.1f s.", fault.message, pause_s)
        await self._pause(pause_s)


def _is_transient(fault: LatentSyncError) -> bool:
    if (fault.retry_after_s or 0.0) > _RETRY_AFTER_MAX_S:
        return False
    if isinstance(fault, ServerError):
        return fault.server_status in _TRANSIENT_STATUSES
    return isinstance(fault, Unreachable | FetchTimeout)


# Modal ends a request after 150 s with a 303 to its result, which may do the same.
_REDIRECTS_MAX = 20
_ERRNO = re.compile(r"^\[Errno -?\d+\] ")  # prefix of operating system errors

BuildRequest = Callable[[], httpx.Request]


class HttpSession:
    """Sends requests and translates failures into errors of this package.

    Args:
        transport: sends the requests.
        shown_url: address of the server, for messages.
        patience: retry policy.
    """

    def __init__(self, transport: Transport, shown_url: str, patience: RetryPolicy) -> None:
        self.transport = transport
        self.patience = patience
        self._shown_url = shown_url

    def build(self, method: str, url: str, **options: Any) -> httpx.Request:
        """Build a request; options are those of :meth:`httpx.Client.build_request`."""
        return self.transport.http.build_request(method, url, **options)

    def faults(self) -> RetryState:
        """Return the retry state of a new call."""
        return RetryState(self.patience, self.transport.pause)

    async def ask(self, build: BuildRequest) -> httpx.Response:
        """Send an idempotent request with retries; return the successful response.

        Raises:
            ServerError: the server returned an error.
            Unreachable: the connection failed in all attempts.
            FetchTimeout: the server timed out in all attempts.
        """
        faults = self.faults()
        while True:
            try:
                async with self.open(build()) as response:
                    await self.transport.read(response)
                    return response
            except LatentSyncError as fault:
                await faults.pause_after(fault)

    async def ask_once(self, request: httpx.Request) -> httpx.Response:
        """Send a request without retries; return the response, whatever its status.

        Redirects with 303 are followed.
        """
        with self._translate_errors():
            response = await self._send_and_read(request)
            for _ in range(_REDIRECTS_MAX):
                if response.status_code != httpx.codes.SEE_OTHER or response.next_request is None:
                    break
                # A 303 becomes a GET. Other redirects would send the media elsewhere.
                response = await self._send_and_read(response.next_request)
            return response

    @asynccontextmanager
    async def open(self, request: httpx.Request) -> AsyncIterator[httpx.Response]:
        """Yield a successful response with an unread body; raises as :meth:`ask`."""
        with self._translate_errors():
            response = await self.transport.send(request)
            try:
                if not response.is_success:
                    await self.transport.read(response)
                    raise native_error(response)
                yield response
            finally:
                await self.transport.release(response)

    async def _send_and_read(self, request: httpx.Request) -> httpx.Response:
        response = await self.transport.send(request)
        try:
            await self.transport.read(response)
        finally:
            await self.transport.release(response)
        return response

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectTimeout:
            raise Unreachable(f"{self._shown_url} does not answer.", field="url") from None
        except httpx.TimeoutException:
            raise FetchTimeout(f"{self._shown_url} timed out.", field="url") from None
        except httpx.HTTPError as error:
            reason = _ERRNO.sub("", str(error)).rstrip(".") or type(error).__name__
            raise Unreachable(
                f"{self._shown_url} cannot be reached: {reason}.", field="url"
            ) from error
