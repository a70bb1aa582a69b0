"""Request bodies: bounded in size and time while they arrive, then read as one strict JSON object.

The limits are a pure ASGI middleware around ``receive``: they cost nothing until somebody reads the
body, so a request that is refused for another reason (a wrong token) is never read at all.

An answer that comes before the end of the request's body closes the connection.

Otherwise the server would go on receiving, and throwing away, whatever a refused caller sends: for
ever, if it likes. The connection is not cut at once, because a caller who is still sending might
then lose the answer.
"""

import asyncio
import json
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from latentsync import errors

Meaning = TypeVar("Meaning")

JSON_TYPE_REQUIRED = "latentsync.json_type_required"  # in a scope: see require_json_type

_LOOK_EVERY_BYTES = 4 * 1024 * 1024  # of a body on its way to the disk
_SMALL_BYTES = 64 * 1024  # read faster than a thread is asked to
_MAX_DIGITS = 4000  # of one number; Python itself refuses to read more than 4300


class BodyLimit:
    """ASGI middleware: raises inside the reader of a body that is too large or too slow.

    Args:
        app: the wrapped application.
        max_bytes: largest JSON body, as declared and as counted; it is held in memory.
        max_streamed_bytes: largest body of any other type; such bodies go to the disk.
        timeout_s: longest time from the first read to the end of the body.
        streamed_paths: where a body goes to the disk whatever it is declared as.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_bytes: int,
        max_streamed_bytes: int,
        timeout_s: float,
        streamed_paths: Collection[str] = (),
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_streamed_bytes = max_streamed_bytes
        self._timeout_s = timeout_s
        self._streamed_paths = streamed_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on with a guarded ``receive``."""
        if scope["type"] == "http":
            receive = _GuardedBody(scope, receive, self._limit_of(scope), self._timeout_s)
        await self._app(scope, receive, send)

    def _limit_of(self, scope: Scope) -> int:
        in_memory = is_json(Headers(scope=scope).get("content-type"))
        if in_memory and scope["path"] not in self._streamed_paths:
            return self._max_bytes
        return self._max_streamed_bytes


class _GuardedBody:
    """The ``receive`` of one request. After the body's end it only waits for the disconnect."""

    def __init__(self, scope: Scope, receive: Receive, max_bytes: int, timeout_s: float) -> None:
        self._declared_bytes = declared_bytes(scope)
        self._receive = receive
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._deadline: float | None = None
        self._received_bytes = 0
        self._complete = False

    async def __call__(self) -> Message:
        if self._complete:
            return await self._receive()
        self._check(self._declared_bytes)
        message = await self._receive_in_time()
        self._received_bytes += len(message.get("body", b""))
        self._check(self._received_bytes)
        self._complete = not message.get("more_body", False)
        return message

    async def _receive_in_time(self) -> Message:
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + self._timeout_s
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._receive()
        except TimeoutError:
            raise errors.FetchTimeout(
                f"The request body did not arrive within {self._timeout_s:g} s."
            ) from None

    def _check(self, size_bytes: int) -> None:
        if size_bytes > self._max_bytes:
            raise errors.TooManyBytes(f"The request body is larger than {self._max_bytes} bytes.")


def asking_for_room(
    request: Request, require: Callable[[int, int], None], max_bytes: int
) -> Request:
    """Return the request with a body that is broken off where the disk has no room for it.

    Args:
        request: with its body still to come.
        require: raises DiskFull; called before the first read and every few MiB, with the bytes
            that the body is declared to have (0 if it is not) and those that have come.
        max_bytes: what a body may have; one that declares more is refused for that when it is read.
    """
    declared = min(declared_bytes(request.scope), max_bytes)
    received, looked_at = 0, -_LOOK_EVERY_BYTES

    async def receive() -> Message:
        nonlocal received, looked_at
        if received - looked_at >= _LOOK_EVERY_BYTES:
            looked_at = received
            await run_in_threadpool(require, declared, received)
        message = await request.receive()
        received += len(message.get("body", b""))
        return message

    return Request(request.scope, receive)


def declared_bytes(scope: Scope) -> int:
    """Return the Content-Length of a request; 0 if it declares none."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0  # chunked: only counting tells


async def read_json(request: Request) -> object:
    """Return the decoded JSON body of a request; see :func:`parse_json_body`."""
    return await parse_json_body(request, lambda body: body)


async def parse_json_body(request: Request, understand: Callable[[object], Meaning]) -> Meaning:
    """Return what ``understand`` makes of the JSON body of a request.

    Raises:
        MalformedBody: not declared as JSON, not UTF-8, not JSON, a key twice, nested too deeply.
        UnsupportedContentType: see :func:`require_json_type`.
        TooManyBytes, FetchTimeout: see :class:`BodyLimit`.
    """
    require_json_type(request.scope)
    try:
        body = b"".join([part async for part in request.stream()])
    except ClientDisconnect:
        raise errors.Canceled("The caller hung up while sending the body.") from None
    if len(body) <= _SMALL_BYTES:
        return understand(parse_json(body))
    # Base64 media make bodies of hundreds of megabytes: keep the event loop free.
    return await run_in_threadpool(lambda: understand(parse_json(body)))


def parse_json(body: bytes) -> object:
    """Return the value of a JSON text in UTF-8; raises MalformedBody."""
    try:
        value: object = json.loads(
            body.decode("utf-8"), object_pairs_hook=_object_without_repeats, parse_int=_read_int
        )
    except UnicodeDecodeError as error:
        raise errors.MalformedBody(f"The body is not UTF-8 text (byte {error.start}).") from None
    except json.JSONDecodeError as error:
        raise errors.MalformedBody(f"The body is not JSON: {error.msg} (at {error.pos}).") from None
    except RecursionError:
        raise errors.MalformedBody("The body is nested too deeply.") from None
    return value


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for position, name in enumerate(names) if name in names[:position])
        raise errors.MalformedBody(f"The key {errors.shorten(repeated)} is in the body twice.")
    return value


def _read_int(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise errors.MalformedBody(f"A number in the body has more than {_MAX_DIGITS} digits.")
    return int(digits)


def is_json(content_type: str | None) -> bool:
    """Tell whether a body is declared as JSON; an absent header is taken for that."""
    if content_type is None:
        return True
    kind = content_type.split(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def require_json_type(scope: Scope) -> None:
    """Refuse a body that is declared as something else than JSON.

    Published clients may leave the declaration out where they send a key. Where there is none it is
    required: a web page of somebody else can send only what it does not declare as JSON.

    Raises:
        MalformedBody: it is declared as something else.
        UnsupportedContentType: the same, or it is not declared at all, on a server without a key.
    """
    content_type = Headers(scope=scope).get("content-type")
    if scope.get(JSON_TYPE_REQUIRED, False):
        if content_type is None or not _is_application_json(content_type):
            given = "missing" if content_type is None else errors.shorten(content_type)
            raise errors.UnsupportedContentType(
                f"The Content-Type header is {given}. Allowed without a key: application/json and "
                "application/*+json.",
                field="Content-Type",
            )
    elif not is_json(content_type):
        raise errors.MalformedBody(
            f"The Content-Type is {errors.shorten(content_type)}; send application/json."
        )


def _is_application_json(content_type: str) -> bool:
    return is_json(content_type) and content_type.strip().lower().startswith("application/")


_LINGER_S = 2.0


class UnreadBodyClose:
    """ASGI middleware, the outermost one: it must see everything that is received and sent."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on; watch its body, if it has one."""
        if scope["type"] == "http" and _has_body(scope):
            exchange = _Exchange(receive, send)
            receive, send = exchange.receive, exchange.send
        await self._app(scope, receive, send)


class _Exchange:
    """One request with a body, and its answer."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._is_read = False
        self._closes = False

    async def receive(self) -> Message:
        """Receive for the application, noting the body's end."""
        message = await self._receive()
        self._is_read = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Send the application's answer; before its end, let the caller finish for a moment."""
        if message["type"] == "http.response.start":
            self._closes = not self._is_read
            if self._closes:
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await self._send(message)
        elif not self._closes or message.get("more_body", False):
            await self._send(message)
        else:
            await self._send({**message, "more_body": True})
            await self._linger()
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _linger(self) -> None:
        try:
            async with asyncio.timeout(_LINGER_S):
                while not self._is_read:
                    await self.receive()
        except TimeoutError:
            return


def _has_body(scope: Scope) -> bool:
    headers = dict(scope["headers"])
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
