"""Reads request bodies: as strict JSON, with enough free disk space, and not too many at once."""

import json
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Generic, TypeVar, get_args

from fastapi import Depends
from fastapi.routing import APIRoute
from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Scope

from latentsync import errors
from latentsync.server.middleware import JSON_TYPE_REQUIRED, declared_bytes, is_json
from latentsync.settings import Settings

Meaning = TypeVar("Meaning")
Model = TypeVar("Model")

_LOOK_EVERY_BYTES = 4 * 1024 * 1024  # of a body streamed to the disk
_SMALL_BYTES = 64 * 1024  # faster than starting a thread
_MAX_DIGITS = 4000  # of one number; Python itself refuses to read more than 4300


def asking_for_room(
    request: Request, require: Callable[[int, int], None], max_bytes: int
) -> Request:
    """Return the request with a body that fails to read if the disk has too little space.

    Args:
        request: with an unread body.
        require: raises DiskFull; called before the first read and every few MiB, with the declared
            bytes (0 if unknown) and the received ones.
        max_bytes: largest body; a larger declared size is refused when it is read.
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


async def read_json(request: Request) -> object:
    """Return the decoded JSON body of a request; see :func:`parse_json_body`."""
    return await parse_json_body(request, lambda body: body)


async def parse_json_body(request: Request, understand: Callable[[object], Meaning]) -> Meaning:
    """Return the result of ``understand`` for the JSON body of a request.

    Large bodies are parsed in a thread.

    Raises:
        MalformedBody: not declared as JSON, not UTF-8, not JSON, a key twice, nested too deeply.
        UnsupportedContentType: see :func:`require_json_type`.
        TooManyBytes, FetchTimeout: see :class:`latentsync.server.middleware.BodyLimit`.
    """
    require_json_type(request.scope)
    try:
        body = b"".join([part async for part in request.stream()])
    except ClientDisconnect:
        raise errors.Canceled("The client disconnected while sending the body.") from None
    if len(body) <= _SMALL_BYTES:
        return understand(parse_json(body))
    # Bodies with base64 media have hundreds of megabytes: do not block the event loop.
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


def require_json_type(scope: Scope) -> None:
    """Check that a body is declared as JSON.

    With a key, the Content-Type may be missing, as some published clients do. Without a key it is
    required: a web page of another site cannot send a body that is declared as JSON.

    Raises:
        MalformedBody: it has another type.
        UnsupportedContentType: it has another type or none, on a server without keys.
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


_RETRY_AFTER_S = 5.0
_SLOTLESS_BYTES = 64 * 1024  # smaller bodies need no slot, so that status requests pass
_STREAMED_BYTES = 2 * 1024 * 1024  # of a body streamed to the disk, in memory


class UploadSlots:
    """Limits the number and size of bodies that arrive at once, for one event loop.

    A slot is taken before a body is read and held until its media are stored, because JSON bodies
    are in memory that long. One key can take half of the slots at most.

    Args:
        settings: number of bodies, and bytes in memory.
    """

    def __init__(self, settings: Settings) -> None:
        self._max_body_bytes = settings.max_body_bytes
        self._max_bodies = settings.max_arriving_bodies
        self._max_bytes = settings.max_arriving_bytes
        self._bodies = Counter[str]()
        self._bytes = Counter[str]()

    @contextmanager
    def place(self, request: Request, owner: str, *, is_streamed: bool = False) -> Iterator[None]:
        """Hold a slot for the body of a request.

        Args:
            request: with an unread body.
            owner: the sender.
            is_streamed: the body goes to the disk, whatever its type.

        Raises:
            LineFull: too many bodies or bytes arrive, in all or from this owner.
        """
        in_memory = not is_streamed and is_json(request.headers.get("content-type"))
        size_bytes = self._expected_bytes(request, in_memory)
        is_large = size_bytes > _SLOTLESS_BYTES
        self._require_room(owner, size_bytes, is_large)
        self._count(owner, size_bytes, int(is_large))
        try:
            yield
        finally:
            self._count(owner, -size_bytes, -int(is_large))

    def _expected_bytes(self, request: Request, in_memory: bool) -> int:
        """Return the largest amount of memory that a body can take."""
        at_most = self._max_body_bytes if in_memory else _STREAMED_BYTES
        return min(declared_bytes(request.scope) or at_most, at_most)

    def _require_room(self, owner: str, size_bytes: int, is_large: bool) -> None:
        for counted, bodies, held_bytes, part in (
            ("", self._bodies.total(), self._bytes.total(), 1),
            (" from this key", self._bodies[owner], self._bytes[owner], 2),
        ):
            too_many = is_large and bodies >= max(1, self._max_bodies // part)
            # A single body always passes; its size has a limit of its own.
            too_large = held_bytes > 0 and held_bytes + size_bytes > self._max_bytes // part
            if too_many or too_large:
                raise errors.LineFull(
                    f"{bodies} large request bodies with {held_bytes} bytes are arriving{counted}, "
                    "which is the limit.",
                    retry_after_s=_RETRY_AFTER_S,
                )

    def _count(self, owner: str, size_bytes: int, bodies: int) -> None:
        for counts, more in ((self._bytes, size_bytes), (self._bodies, bodies)):
            counts[owner] += more
            if not counts[owner]:
                del counts[owner]  # keep no entry for idle clients


class UnreadRequest(Request, Generic[Model]):
    """A request whose JSON body is a ``Model`` in OpenAPI, and is still to be read.

    An endpoint declares it as its body: ``Annotated[UnreadRequest[Fields], Body(...)]``. FastAPI
    would read the body before the endpoint can limit how many arrive at once, and validate it on
    the event loop; bodies of hundreds of megabytes need both. Needs :class:`UnreadBodyRoute`.
    """

    async def body(self) -> Any:
        """Return the request in place of its body, for FastAPI to pass to the endpoint."""
        return self

    json = body

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        (model,) = get_args(source)
        return core_schema.json_or_python_schema(
            json_schema=handler(model), python_schema=core_schema.is_instance_schema(cls)
        )


class UnreadBodyRoute(APIRoute):
    """Route whose endpoint may take an :class:`UnreadRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler, called with an unread request."""
        handle = super().get_route_handler()

        async def handle_unread(request: Request) -> Response:
            return await handle(UnreadRequest(request.scope, request.receive))

        return handle_unread


async def _owner_of(request: Request) -> str:
    owner: str = request.state.owner
    return owner


Owner = Annotated[str, Depends(_owner_of)]
"""Owner of the jobs that a request submits or asks for; set by the authentication middleware."""
