"""Bodies that arrive at once: bounded in number and memory, and never one caller's alone."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from latentsync.errors import LineFull
from latentsync.server.request_body import UploadSlots
from latentsync.settings import Settings
from tests.server.live import AUTH, KEY, wait_until
from tests.server.queues import OTHER_AUTH, Server, queue_server

KB = 1024
MB = 1024 * KB
LARGE = 200 * KB


def a_request(size_bytes: int | None = None, content_type: str = "application/json") -> Request:
    headers = [(b"content-type", content_type.encode())]
    if size_bytes is not None:
        headers.append((b"content-length", str(size_bytes).encode()))
    return Request({"type": "http", "method": "POST", "path": "/", "headers": headers})


def upload_slots(**limits: int) -> UploadSlots:
    return UploadSlots(Settings(**{"max_body_bytes": 10 * MB, **limits}))


@contextmanager
def taken(slots: UploadSlots, *bodies: tuple[Request, str]) -> Iterator[None]:
    with ExitStack() as held:
        for request, owner in bodies:
            held.enter_context(slots.place(request, owner))
        yield


def test_large_bodies_are_bounded_in_number_and_places_are_given_back() -> None:
    slots = upload_slots(max_arriving_bodies=4)
    four = [(a_request(LARGE), owner) for owner in ("a", "a", "b", "b")]
    for _ in range(2):
        with (
            taken(slots, *four),
            pytest.raises(LineFull) as refused,
            taken(slots, (a_request(LARGE), "c")),
        ):
            pass
        assert refused.value.retry_after_s == 5
    with taken(slots, *four[:3], (a_request(LARGE), "c")):
        pass


def test_one_caller_can_use_half_of_the_slots() -> None:
    slots = upload_slots(max_arriving_bodies=4)
    with taken(slots, (a_request(LARGE), "slow"), (a_request(LARGE), "slow")):
        with (
            pytest.raises(LineFull, match="from this key"),
            taken(slots, (a_request(LARGE), "slow")),
        ):
            pass
        with taken(slots, (a_request(LARGE), "other")):
            pass


def test_memory_is_bounded_by_what_is_declared_or_by_the_largest_body() -> None:
    slots = upload_slots(max_arriving_bytes=40 * MB)
    half = [(a_request(10 * MB), "a"), (a_request(), "a")]
    with taken(slots, *half), pytest.raises(LineFull), taken(slots, (a_request(KB), "a")):
        pass
    whole = [*half, (a_request(), "b"), (a_request(10 * MB), "b")]
    with taken(slots, *whole), pytest.raises(LineFull), taken(slots, (a_request(KB), "c")):
        pass


def test_a_streamed_body_needs_little_memory() -> None:
    slots = upload_slots(max_arriving_bytes=40 * MB)
    upload, form = a_request(500 * MB, "video/mp4"), a_request(None, "multipart/form-data")
    with (
        taken(slots, *[(upload, "a"), (form, "a")] * 5),
        slots.place(a_request(500 * MB), "b", is_streamed=True),
    ):
        pass


def test_a_single_body_is_accepted_whatever_its_size() -> None:
    slots = upload_slots(max_arriving_bytes=MB, max_arriving_bodies=1)
    with taken(slots, (a_request(9 * MB), "a")):
        pass


def test_small_bodies_need_no_place() -> None:
    slots = upload_slots(max_arriving_bodies=1)
    with taken(slots, (a_request(LARGE), "a"), *[(a_request(KB), "a")] * 100):
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two keys and room for two large bodies."""
    folder: Path = tmp_path_factory.mktemp("server")
    with queue_server(folder, max_arriving_bodies=2, body_timeout_s=60.0) as server:
        yield server


CALLS = [
    ("/lipsync/submit", {"video_source": "A" * LARGE, "audio_source": "AAAA"}),
    ("/sync", {"video_url": "https://example.com/" + "v" * LARGE, "audio_url": "https://e.com/a"}),
    ("/v1/predictions", {"video_base64": "A" * LARGE, "audio_base64": "AAAA"}),
    ("/v1/uploads", {"anything": "A" * LARGE}),
]


@pytest.mark.parametrize(("path", "body"), CALLS, ids=[path for path, _ in CALLS])
def test_a_slow_sender_blocks_only_its_own_large_bodies(
    server: Server, path: str, body: dict[str, Any]
) -> None:
    def post(headers: dict[str, str], body: object = body) -> httpx.Response:
        return httpx.post(server.url + path, json=body, headers=headers, timeout=60)

    before = post(AUTH).status_code
    assert before != 429
    with sending(server.url, path):
        wait_until(lambda: post(AUTH).status_code == 429)
        refused = post(AUTH)
        assert "LINE_FULL" in refused.text
        assert int(refused.headers["Retry-After"]) >= 1
        assert post(OTHER_AUTH).status_code == before
        question = httpx.post(
            f"{server.url}/lipsync/status", json={"request_id": "none"}, headers=AUTH, timeout=60
        )
        assert question.status_code == 404
    wait_until(lambda: post(AUTH).status_code == before)  # the sender has gone


@contextmanager
def sending(url: str, path: str) -> Iterator[socket.socket]:
    """Send the beginning of a large body, for the length of the block."""
    host, port = url.removeprefix("http://").split(":")
    head = (
        f"POST {path} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {LARGE}\r\n\r\n{{"
    )
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(head.encode())
        yield connection


def test_the_slot_of_a_sender_that_is_too_slow_is_released(tmp_path: Path) -> None:
    with queue_server(tmp_path, max_arriving_bodies=2, body_timeout_s=0.3) as server:
        path, body = CALLS[0]
        with sending(server.url, path) as connection:
            assert b" 408 " in connection.recv(65536)
            answer = httpx.post(server.url + path, json=body, headers=AUTH, timeout=60)
            assert answer.status_code in (422, 408)  # it had a slot; a busy machine may be slow
