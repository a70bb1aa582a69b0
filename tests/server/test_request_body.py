"""Bodies: strict JSON within bounds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from latentsync.errors import FetchTimeout, LatentSyncError, MalformedBody, TooManyBytes
from latentsync.server.middleware import BodyLimit
from latentsync.server.request_body import parse_json, read_json


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"a": 1} x', "not JSON"),
        (b'{"a": 1,}', "not JSON"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'{"a": 1, "a": 2}', "'a' is in the body twice"),
        (b'{"x": {"a": 1, "a": 1}}', "'a' is in the body twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"seed": ' + b"1" * 5000 + b"}", "more than 4000 digits"),
        (b'{"seed": -' + b"9" * 100_000 + b"}", "more than 4000 digits"),
    ],
)
def test_malformed_text_is_refused_in_plain_words(body: bytes, said: str) -> None:
    with pytest.raises(MalformedBody, match=said) as refused:
        parse_json(body)
    assert len(refused.value.message) < 200


def test_json_is_read_as_it_is() -> None:
    text = '{"a": [1, -2.5e3, true, null, "\\u00fc\\n"], "b": {}}'
    assert parse_json(text.encode()) == json.loads(text)


def receive_of(*parts: bytes, pause_s: float = 0.0) -> Receive:
    async def messages() -> AsyncIterator[Message]:
        for number, part in enumerate(parts):
            await asyncio.sleep(pause_s)
            more = number < len(parts) - 1
            yield {"type": "http.request", "body": part, "more_body": more}
        while True:
            yield {"type": "http.disconnect"}

    source = messages()
    return lambda: anext(source)


def read(
    receive: Receive, headers: dict[str, str] | None = None, *, timeout_s: float = 5.0
) -> object:
    """Read a body through the middleware, limited to 20 bytes."""
    outcome: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            outcome.append(await read_json(Request(scope, receive)))
        except LatentSyncError as error:
            outcome.append(error)

    async def send(message: Message) -> None:
        raise AssertionError(message)

    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": raw}
    limited = BodyLimit(app, max_bytes=20, max_streamed_bytes=40, timeout_s=timeout_s)
    asyncio.run(limited(scope, receive, send))
    return outcome[0]


def test_a_chunked_body_is_joined() -> None:
    assert read(receive_of(b'{"a"', b": 1", b"}")) == {"a": 1}


def test_a_declared_size_over_the_cap_is_refused_unread() -> None:
    async def no_check() -> Message:
        raise AssertionError("the body was read")

    error = read(no_check, {"content-length": "21"})
    assert isinstance(error, TooManyBytes)
    assert "20 bytes" in error.message


def test_an_undeclared_size_over_the_cap_is_noticed_while_counting() -> None:
    assert isinstance(read(receive_of(b"[1,", b"2,3,", b"4" * 30, b"]")), TooManyBytes)


def test_a_body_of_exactly_the_cap_passes() -> None:
    body = b'"' + b"a" * 18 + b'"'
    assert read(receive_of(body), {"content-length": "20"}) == "a" * 18


def test_a_dripping_body_is_cut_by_total_time() -> None:
    parts = [b"["] + [b" "] * 15 + [b"]"]
    error = read(receive_of(*parts, pause_s=0.02), timeout_s=0.1)
    assert isinstance(error, FetchTimeout)
    assert error.status == 408


def test_a_client_disconnect_is_not_logged_as_an_error() -> None:
    async def hang_up() -> Message:
        return {"type": "http.disconnect"}

    error = read(hang_up)
    assert isinstance(error, LatentSyncError)
    assert error.code == "CANCELED"


@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON; charset=utf-8", "application/x+json"]
)
def test_json_content_types_pass(content_type: str) -> None:
    assert read(receive_of(b"[]"), {"content-type": content_type}) == []


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_other_content_types_are_refused_by_name(content_type: str) -> None:
    error = read(receive_of(b"[]"), {"content-type": content_type})
    assert isinstance(error, MalformedBody)
    assert repr(content_type) in error.message
    assert "application/json" in error.message


def test_a_streamed_body_may_be_larger_than_json() -> None:
    sizes: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        sizes.append(len(await Request(scope, receive).body()))

    async def send(message: Message) -> None:
        raise AssertionError(message)

    limited = BodyLimit(app, max_bytes=20, max_streamed_bytes=40, timeout_s=5)
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "headers": [(b"content-type", b"video/mp4")],
    }
    asyncio.run(limited(scope, receive_of(b"a" * 40), send))
    with pytest.raises(TooManyBytes, match="40 bytes"):
        asyncio.run(limited(scope, receive_of(b"a" * 41), send))
    assert sizes == [40]
