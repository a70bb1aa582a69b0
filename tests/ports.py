"""Ports for servers that can't choose one themselves."""

from __future__ import annotations

import random
import socket

# Below the ports from which systems take the near ends of connections (Linux from 32768, others
# from 49152): a port that the system hands out itself may be taken again by any connection before
# the server listens on it.
_PORTS = range(20_000, 32_000)

_reservations: list[socket.socket] = []


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that is free and given to no other test.

    It is reserved, until this process ends, by holding the UDP port of the same number, which no
    server of the tests needs.
    """
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        reservation = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            reservation.bind(("127.0.0.1", port))
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except OSError:
            reservation.close()
            continue
        _reservations.append(reservation)
        return port
    raise RuntimeError(f"no port from {_PORTS.start} to {_PORTS.stop - 1} is free")
