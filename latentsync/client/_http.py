"""One request and its answer: sent, judged, repeated where that helps.

What servers answer, read without trust in its shape.

How a client meets faults: what it tries again, and how long it pauses.
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
    """Read contract A's answer; raises ServerError."""
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
    """Read the native API's answer with one job; raises ServerError."""
    try:
        return Job.model_validate(json_object(response))
    except ValidationError as error:
        raise unexpected(response, "a job") from error


def read_page(response: httpx.Response) -> JobPage:
    """Read the native API's answer with several jobs; raises ServerError."""
    body = json_object(response)
    jobs, cursor = body.get("predictions"), body.get("next_cursor")
    if not isinstance(jobs, list) or not isinstance(cursor, str | None):
        raise unexpected(response, "a list of jobs")
    try:
        return JobPage(tuple(Job.model_validate(job) for job in jobs), cursor)
    except ValidationError as error:
        raise unexpected(response, "a list of jobs") from error


def json_object(response: httpx.Response) -> Mapping[str, Any]:
    """Return the body's JSON object; an empty one for HTML of a proxy, bytes or nothing at all."""
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def is_error(body: Mapping[str, Any]) -> bool:
    """Tell whether a body says by itself that it is an error, as Cerebrium's do."""
    status = body.get("status_code")
    return isinstance(status, int) and status >= 400


def server_error(response: httpx.Response, body: Mapping[str, Any]) -> ServerError:
    """Return what can be read from an error body of any shape."""
    status = body["status_code"] if is_error(body) else response.status_code
    said = body.get("message") or body.get("detail") or body.get("error") or body.get("reason")
    message = said if isinstance(said, str) else f"The server returned status {status}."
    code, at_fault = body.get("code"), body.get("field")
    return ServerError(
        message,
        server_status=status,
        server_code=code if isinstance(code, str) else _UNKNOWN,
        field=at_fault if isinstance(at_fault, str) else None,
        retry_after_s=_retry_after_s(response),
    )


def native_error(response: httpx.Response) -> ServerError:
    """Return the error of a call to the native API, which not every server has."""
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
    """Return the error of an answer that is no error, but not what was asked for either."""
    return ServerError(
        f"The server returned status {response.status_code}, but not {wanted}.",
        server_status=response.status_code,
        server_code="UNEXPECTED_ANSWER",
    )


def shown(response: httpx.Response) -> str:
    """Return the address of the server that answered, for messages."""
    url = response.request.url
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def _retry_after_s(response: httpx.Response) -> float | None:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdecimal() else None  # the form with a date is not used here


logger = logging.getLogger(__name__)

_PASSING_STATUSES = (502, 503, 504)
_LONGEST_ASKED_PAUSE_S = 60.0  # a server that asks for more is not waited for


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how long a client waits for what may still come.

    Attributes:
        retries: how often a call is repeated in a row when the connection breaks, or the server
            answers 502, 503 or 504.
        first_pause_s: before the first repetition; each further pause is twice as long.
        longest_pause_s: bound of the pauses.
        silence_s: longest silence of a stream of events; the server breaks it every 15 s.
        poll_every_s: how often a job is asked for where events do not come through.
    """

    retries: int = 5
    first_pause_s: float = 0.5
    longest_pause_s: float = 8.0
    silence_s: float = 45.0
    poll_every_s: float = 1.0

    def pauses(self) -> Iterator[float]:
        """Yield the pauses in seconds, each a little shortened by chance: clients spread out."""
        for number in range(self.retries):
            pause_s = min(self.longest_pause_s, self.first_pause_s * 2**number)
            yield pause_s * random.uniform(0.75, 1.0)


class RetryState:
    """Counts the faults in a row of one call, and pauses after each.

    Args:
        patience: how many and how long.
        pause: waits so many seconds.
    """

    def __init__(self, patience: RetryPolicy, pause: Callable[[float], Awaitable[None]]) -> None:
        self._patience = patience
        self._pause = pause
        self._pauses = patience.pauses()

    def forget(self) -> None:
        """Begin to count anew, because something came through."""
        self._pauses = self._patience.pauses()

    async def pause_after(self, fault: LatentSyncError) -> None:
        """Wait before the next try; raises the fault if it will not pass, or is one too many."""
        pause_s = next(self._pauses, None) if _may_pass(fault) else None
        if pause_s is None:
            raise fault
        pause_s = max(pause_s, fault.retry_after_s or 0.0)
        logger.warning("%s Retrying in %.1f s.", fault.message, pause_s)
        await self._pause(pause_s)


def _may_pass(fault: LatentSyncError) -> bool:
    if (fault.retry_after_s or 0.0) > _LONGEST_ASKED_PAUSE_S:
        return False
    if isinstance(fault, ServerError):
        return fault.server_status in _PASSING_STATUSES
    return isinstance(fault, Unreachable | FetchTimeout)


# Modal ends a request after 150 s with a 303 to the address of its result, and that one likewise.
_MOST_HANDOVERS = 20
_ERRNO = re.compile(r"^\[Errno -?\d+\] ")  # before what the operating system says in words

BuildRequest = Callable[[], httpx.Request]


class HttpSession:
    """Sends requests and turns every fault into an error of this package.

    Args:
        transport: how they are sent.
        shown_url: the server's address, for messages.
        patience: how faults are met.
    """

    def __init__(self, transport: Transport, shown_url: str, patience: RetryPolicy) -> None:
        self.transport = transport
        self.patience = patience
        self._shown_url = shown_url

    def build(self, method: str, url: str, **options: Any) -> httpx.Request:
        """Return a request; options are those of :meth:`httpx.Client.build_request`."""
        return self.transport.http.build_request(method, url, **options)

    def faults(self) -> RetryState:
        """Return a count of faults for one call."""
        return RetryState(self.patience, self.transport.pause)

    async def ask(self, build: BuildRequest) -> httpx.Response:
        """Return the whole answer of success; the request must do no harm when repeated.

        Raises:
            ServerError: the server answered with an error.
            Unreachable: no connection, or it broke, again and again.
            FetchTimeout: the server was silent for too long, again and again.
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
        """Return the whole answer, whatever it says; a platform's handovers are followed."""
        with self._own_errors():
            response = await self._send_and_read(request)
            for _ in range(_MOST_HANDOVERS):
                if response.status_code != httpx.codes.SEE_OTHER or response.next_request is None:
                    break
                # A GET: no other redirect is followed, for the media must not go elsewhere.
                response = await self._send_and_read(response.next_request)
            return response

    @asynccontextmanager
    async def open(self, request: httpx.Request) -> AsyncIterator[httpx.Response]:
        """Yield an answer of success whose body is still to be read; raises as :meth:`ask`."""
        with self._own_errors():
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
    def _own_errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectTimeout:
            raise Unreachable(f"{self._shown_url} does not answer.", field="url") from None
        except httpx.TimeoutException:
            raise FetchTimeout(f"{self._shown_url} timed out.", field="url") from None
        except httpx.HTTPError as error:
            said = _ERRNO.sub("", str(error)).rstrip(".") or type(error).__name__
            raise Unreachable(
                f"{self._shown_url} cannot be reached: {said}.", field="url"
            ) from error
