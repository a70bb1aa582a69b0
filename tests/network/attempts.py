"""Notes what this process tries to reach beyond loopback, so that the test at fault is known.

Python's own calls only: libraries in C and other processes are for :mod:`tests.network.tracing`.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import sys
from typing import Any

_EVENTS = ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname")
# The C library refuses any other name by itself, without asking for it.
_NAME = re.compile(r"(?!-)[\w-]+(\.(?!-)[\w-]+)*\.?", re.ASCII)


class JobExecutor:
    """The attempts since the last look."""

    def __init__(self) -> None:
        self._found: list[str] = []

    def watch(self) -> None:
        """Begin; it cannot be ended."""
        sys.addaudithook(self._note)

    def take(self) -> list[str]:
        """Return the attempts so far and forget them."""
        found, self._found = self._found, []
        return found

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _EVENTS:
            return
        if event in ("socket.connect", "socket.sendto"):
            address = arguments[1]
            if isinstance(address, tuple) and is_beyond(str(address[0])):
                self._found.append(f"{event} {address}")
        elif arguments[0] and asks_for(arguments[0]):
            self._found.append(f"{event} {arguments[0]}")


def is_beyond(host: str) -> bool:
    """Tell whether an address, or a name, leads away from this machine."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return asks_for(host)
    address = getattr(address, "ipv4_mapped", None) or address
    return not (address.is_loopback or address.is_unspecified)


def asks_for(host: str | bytes) -> bool:
    """Tell whether resolving ``host`` asks somebody: it is a name, and not this machine's."""
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else host
    try:
        socket.inet_aton(name)
    except (OSError, UnicodeError):
        return _NAME.fullmatch(name) is not None and name != "localhost"
    return False
