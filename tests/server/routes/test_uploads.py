"""Uploads: streamed to the disk, cut when too large or too slow, and private to their key."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.server.live import (
    AUTH,
    KEY,
    OTHER_AUTH,
    OTHER_KEY,
    files_in,
    serving_jobs,
    settings_for,
    wait_until,
)

pytestmark = pytest.mark.processes

LIMIT = 2_000_000


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server that takes little and waits briefly; its address and folder."""
    folder = tmp_path_factory.mktemp("strict")
    settings = settings_for(
        folder, max_media_bytes=LIMIT, body_timeout_s=3.0, max_body_bytes=100_000
    )
    with serving_jobs(settings, workers=0) as url:
        yield url, folder


def is_clean(folder: Path) -> bool:
    stored = [path for path in (folder / "data" / "files").rglob("*") if path.is_file()]
    return stored == [] and files_in(folder / "work") == []


def test_an_upload_is_used_like_an_address(client: httpx.Client, media: Path) -> None:
    urls = {}
    for name, file in (("video_url", "clip.mp4"), ("audio_url", "speech.wav")):
        content = (media / file).read_bytes()
        answer = client.post("/uploads", content=content)
        assert answer.status_code == 201
        upload = answer.json()
        assert upload == {
            "id": upload["id"],
            "url": f"upload://{upload['id']}",
            "size_bytes": len(content),
        }
        urls[name] = upload["url"]
    for _ in range(2):  # as often as one likes
        job = client.post("/predictions", json=urls, headers={"Prefer": "wait=60"}).json()
        assert job["status"] == "succeeded", job


def test_an_upload_of_another_key_is_not_found(
    client: httpx.Client, stranger: httpx.Client, media: Path
) -> None:
    video = client.post("/uploads", content=(media / "clip.mp4").read_bytes()).json()["url"]
    audio = stranger.post("/uploads", content=(media / "speech.wav").read_bytes()).json()["url"]
    answer = stranger.post("/predictions", json={"video_url": video, "audio_url": audio})
    assert (answer.status_code, answer.json()["code"]) == (404, "UPLOAD_NOT_FOUND")
    assert answer.json()["field"] == "video_url"


@pytest.mark.parametrize("name", ["", "nothing", "../../jobs.db", "a/b", "%2e%2e", "x" * 5000])
def test_an_upload_that_never_was_is_not_there(
    client: httpx.Client, media: Path, name: str
) -> None:
    audio = client.post("/uploads", content=(media / "speech.wav").read_bytes()).json()["url"]
    body = {"video_url": f"upload://{name}", "audio_url": audio}
    answer = client.post("/predictions", json=body)
    assert (answer.status_code, answer.json()["code"]) == (404, "UPLOAD_NOT_FOUND"), answer.text


def test_a_form_and_an_empty_body_are_no_uploads(client: httpx.Client) -> None:
    form = client.post("/uploads", files={"file": b"x"})
    assert (form.status_code, form.json()["code"]) == (400, "BODY_MALFORMED")
    empty = client.post("/uploads", content=b"")
    assert (empty.status_code, empty.json()["code"]) == (422, "MEDIA_EMPTY")


@pytest.mark.parametrize("content_type", ["video/mp4", "application/json", None])
def test_an_oversized_upload_is_cut(strict: tuple[str, Path], content_type: str | None) -> None:
    url, folder = strict
    headers = AUTH | ({} if content_type is None else {"Content-Type": content_type})

    def content() -> Iterator[bytes]:  # no length is declared
        for _ in range(LIMIT // 50_000 + 2):
            yield b"x" * 50_000

    answer = httpx.post(f"{url}/v1/uploads", content=content(), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "TOO_MANY_BYTES")
    assert is_clean(folder)


@pytest.mark.parametrize("content_type", ["video/mp4", "application/json", None])
def test_an_upload_may_be_larger_than_a_body_held_in_memory(
    strict: tuple[str, Path], content_type: str | None
) -> None:
    url, folder = strict
    headers = AUTH | ({} if content_type is None else {"Content-Type": content_type})
    answer = httpx.post(f"{url}/v1/uploads", content=b"x" * 200_000, headers=headers)
    assert (answer.status_code, answer.json()["size_bytes"]) == (201, 200_000)
    shutil.rmtree(folder / "data" / "files" / "uploads")  # for the tests that count files


def test_a_key_keeps_so_many_bytes_of_uploads_and_no_more(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, api_keys=(KEY, OTHER_KEY), max_job_bytes_per_key=1000)
    with serving_jobs(settings, workers=0) as url:

        def upload(size_bytes: int, headers: dict[str, str] = AUTH) -> httpx.Response:
            return httpx.post(f"{url}/v1/uploads", content=b"x" * size_bytes, headers=headers)

        assert [upload(size_bytes).status_code for size_bytes in (600, 400)] == [201, 201]
        refused = upload(1)
        assert (refused.status_code, refused.json()["code"]) == (429, "LINE_FULL")
        assert int(refused.headers["Retry-After"]) >= 1
        assert upload(1000, OTHER_AUTH).status_code == 201
        with connected(url) as connection:  # refused before its content is sent
            connection.sendall(head("Content-Length: 1"))
            assert b" 429 " in connection.recv(65536)


def test_a_declared_size_beyond_the_limit_is_refused_unread(strict: tuple[str, Path]) -> None:
    url, _folder = strict
    with connected(url) as connection:
        connection.sendall(head(f"Content-Length: {10**12}"))
        assert b" 413 " in connection.recv(65536)
        assert is_closed(connection)


def test_a_full_disk_refuses_uploads_and_forms_unread(tmp_path: Path) -> None:
    with serving_jobs(settings_for(tmp_path, min_free_bytes=2**60), workers=0) as url:
        form = head("Content-Length: 1000").replace(b"uploads", b"predictions")
        form = form.replace(b"video/mp4", b"multipart/form-data; boundary=b")
        for sent in (head("Content-Length: 1000"), head("Transfer-Encoding: chunked"), form):
            with connected(url) as connection:
                connection.sendall(sent)
                assert b" 507 " in connection.recv(65536)
    assert is_clean(tmp_path)


def test_an_upload_that_stalls_is_cut(strict: tuple[str, Path]) -> None:
    url, folder = strict
    with connected(url) as connection:
        connection.sendall(head("Content-Length: 1000") + b"only this")
        started = time.monotonic()
        assert b" 408 " in connection.recv(65536)
        assert time.monotonic() - started < 60
        assert is_closed(connection)
    assert is_clean(folder)


def test_an_upload_that_never_ends_is_cut(strict: tuple[str, Path]) -> None:
    url, folder = strict
    with connected(url) as connection:
        connection.sendall(head("Transfer-Encoding: chunked"))
        started = time.monotonic()
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            drip(connection, seconds=30)
        assert time.monotonic() - started < 25
    wait_until(lambda: is_clean(folder))


def test_a_disconnected_client_leaves_nothing(strict: tuple[str, Path]) -> None:
    url, folder = strict
    with connected(url) as connection:
        connection.sendall(head("Content-Length: 1000000") + b"x" * 5000)
        wait_until(lambda: files_in(folder / "work") != [])
    wait_until(lambda: is_clean(folder))


def connected(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def head(line: str) -> bytes:
    """Return the head of an upload with one more line."""
    return (
        f"POST /v1/uploads HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: video/mp4\r\n{line}\r\n\r\n"
    ).encode()


def drip(connection: socket.socket, seconds: float) -> None:
    """Send a chunk of one byte again and again."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        connection.sendall(b"1\r\nx\r\n")
        time.sleep(0.02)


def is_closed(connection: socket.socket) -> bool:
    """Return whether the other side has closed the connection."""
    while connection.recv(65536):
        pass
    return True
