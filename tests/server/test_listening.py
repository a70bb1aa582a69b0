"""The sockets of a server: all addresses of a name at once, or a one-sentence error."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest

from latentsync.server.serve import CannotListen, address_of, explain, listen


@contextmanager
def listening(host: str, port: int = 0) -> Iterator[list[socket.socket]]:
    with ExitStack() as closed:
        yield [closed.enter_context(closing(one)) for one in listen(host, port)]


def test_a_free_port_is_taken_and_answers_at_once() -> None:
    with listening("127.0.0.1") as (listener,):
        with socket.create_connection(listener.getsockname(), timeout=60):
            pass
        host, port = listener.getsockname()
        assert address_of(listener) == f"http://{host}:{port}"
        assert listener.proto == socket.IPPROTO_TCP  # or asyncio leaves Nagle's algorithm on


def test_a_name_is_all_its_addresses_with_one_port() -> None:
    found = socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)
    with listening("localhost") as listeners:
        assert len({listener.getsockname()[1] for listener in listeners}) == 1
        assert {one.getsockname()[0] for one in listeners} <= {at[0] for *_, at in found}


def test_two_servers_never_have_one_port() -> None:
    with listening("127.0.0.1") as (first,), pytest.raises(CannotListen, match="in use"):
        listen("127.0.0.1", first.getsockname()[1])


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_ipv6() -> None:
    with listening("::1") as (listener,):
        assert address_of(listener) == f"http://[::1]:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EACCES, "Permission denied"), "Port 80 of ::1 requires privileges"),
        (OSError(errno.EMFILE, "Too many open files"), "cannot be listened on: Too many open"),
    ],
)
def test_other_reasons(error: OSError, said: str) -> None:
    assert said in explain(error, "::1", 80)
