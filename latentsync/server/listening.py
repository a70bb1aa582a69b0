"""The sockets of a server, opened before anything else of it is started.

They listen at once: an address that is only bound may still be bound, and taken, by another
process. Callers that come before the server is ready wait in the sockets' backlog.
"""

from __future__ import annotations

import errno
import socket
from typing import Any

from latentsync.errors import shorten

_BACKLOG = 2048  # connections that wait to be accepted; uvicorn's own number
_NOT_HERE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}  # no such address, or no such protocol


class CannotListen(Exception):
    """The address cannot be listened on; the text is one sentence for whoever named it."""


def listen(host: str, port: int) -> list[socket.socket]:
    """Listen on every address that ``host`` stands for, such as both of ``localhost``.

    Args:
        host: name or address of this machine.
        port: 0 takes a free one, the same for every address.

    Raises:
        CannotListen: the name is unknown, the address is not this machine's, the port is taken or
            needs privileges.
    """
    listeners: list[socket.socket] = []
    absent: OSError | None = None
    try:
        for family, protocol, (ip, number, *rest) in _addresses_of(host, port):
            if listeners:
                number = listeners[0].getsockname()[1]
            try:
                listeners.append(_open(family, protocol, (ip, number, *rest)))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                absent = error  # a machine without IPv6 still has the other address
        if absent is not None and not listeners:
            raise absent
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise CannotListen(explain(error, host, port)) from error
    return listeners


def explain(error: OSError, host: str, port: int) -> str:
    """Return one sentence on why an address cannot be listened on, and what to do."""
    if isinstance(error, socket.gaierror):
        return f"--host {shorten(host)} is no name or address that is known here: {error.strerror}."
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {port} of {host} is in use by another program. "
            "Stop that one, or choose another port with --port (0 takes a free one)."
        )
    if error.errno == errno.EACCES:
        return (
            f"Port {port} of {host} needs privileges that this user does not have. "
            "Choose one from 1024 up with --port."
        )
    if error.errno in _NOT_HERE:
        return (
            f"--host {host} is no address of this machine. "
            "Give one of its own, 127.0.0.1 for calls from here alone, or 0.0.0.0 for all."
        )
    return f"Port {port} of {host} cannot be listened on: {error.strerror}."


def address_of(listener: socket.socket) -> str:
    """Return the http address of a listening socket."""
    host, port = listener.getsockname()[:2]
    return (
        f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"
    )


def _open(family: int, protocol: int, address: tuple[Any, ...]) -> socket.socket:
    # With the protocol spelled out asyncio turns Nagle's algorithm off.
    listener = socket.socket(family, socket.SOCK_STREAM, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # IPv4 has a socket of its own where it is meant
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _addresses_of(host: str, port: int) -> list[tuple[int, int, tuple[Any, ...]]]:
    """Return family, protocol and address of all that a name stands for, each once."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except UnicodeError:  # of what cannot be a name: too long, or a dot too many
        raise socket.gaierror(socket.EAI_NONAME, "it is not a name") from None
    return list(dict.fromkeys((family, protocol, at) for family, _, protocol, _, at in found))
