"""A caller who is refused while it still sends is answered, and then cut off."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.server.engines import SquareEngine
from tests.server.live import AUTH, serving_engine


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving_engine(tmp_path_factory.mktemp("server"), SquareEngine()) as url:
        yield url


def start_sending(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    head = "POST /predict HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer wrong\r\n"
    connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
    return connection


def test_an_endless_body_without_a_key_is_cut_off(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentsync.server.middleware._LINGER_S", 0.2)
    with start_sending(url) as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 401")  # while it is sending
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            send_for(connection, seconds=30)


def send_for(connection: socket.socket, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        connection.sendall(b"400\r\n" + b"x" * 1024 + b"\r\n")
        time.sleep(0.02)


def test_a_body_that_ends_in_time_is_answered_at_once(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentsync.server.middleware._LINGER_S", 60.0)
    with start_sending(url) as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 401")
        connection.sendall(b"1\r\nx\r\n0\r\n\r\n")
        while connection.recv(65536):  # fails after ten seconds of silence
            pass


def test_a_large_body_that_is_refused_loses_no_answer(url: str) -> None:
    answer = httpx.post(f"{url}/predict", content=b"x" * 20_000_000)
    assert (answer.status_code, answer.headers["connection"]) == (401, "close")


def test_a_body_that_was_read_keeps_the_connection(url: str) -> None:
    with httpx.Client(base_url=url, headers=AUTH) as client:
        assert "connection" not in client.post("/predict", json={}).headers
        assert "connection" not in client.get("/health").headers
