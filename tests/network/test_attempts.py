"""What the tests' own process tries to reach is noted."""

from __future__ import annotations

import socket

import pytest

from tests.network.attempts import JobExecutor, asks_for, is_beyond


@pytest.mark.processes  # the ordinary tests are watched and must not try
def test_a_connection_beyond_loopback_is_noted(attempts: JobExecutor) -> None:
    with socket.socket() as reaching:
        reaching.setblocking(False)
        reaching.connect_ex(("192.0.2.1", 80))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as telling:
        telling.connect_ex(("192.0.2.2", 9))
    assert attempts.take() == [
        "socket.connect ('192.0.2.1', 80)",
        "socket.connect ('192.0.2.2', 9)",
    ]


def test_this_machine_is_not_noted(attempts: JobExecutor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        for host in ("127.0.0.1", "localhost"):
            socket.create_connection((host, server.getsockname()[1])).close()
    here, there = socket.socketpair()
    here.send(b"x")
    here.close()
    there.close()
    assert attempts.take() == []


@pytest.mark.parametrize("host", ["example.com", "example", b"a.example", "nowhere.invalid."])
def test_names_have_to_be_asked_for(host: str | bytes) -> None:
    assert asks_for(host)


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "0x7f.1", "2130706433", "::1", "fe80::1%1", "-a.b", "a%20b"]
)
def test_numbers_and_what_is_no_name_are_not_asked_for(host: str) -> None:
    assert not asks_for(host)


@pytest.mark.parametrize(
    ("host", "beyond"),
    [
        ("127.0.0.1", False),
        ("::1", False),
        ("0.0.0.0", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:10.0.0.1", True),
        ("fe80::1%2", True),
        ("10.0.0.1", True),
        ("example.com", True),
        ("localhost", False),
    ],
)
def test_addresses_are_judged(host: str, beyond: bool) -> None:
    assert is_beyond(host) is beyond
