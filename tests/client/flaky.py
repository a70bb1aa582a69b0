"""A connection that breaks on purpose: a TCP proxy before a real server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

_SLICE_BYTES = 4096


@dataclass(frozen=True)
class Fault:
    """How one connection goes.

    Attributes:
        request_bytes: break off when so many bytes of the request have passed.
        answer_bytes: break off when so many bytes of the answer have passed.
        answer: answer this instead of asking the server.
    """

    request_bytes: int | None = None
    answer_bytes: int | None = None
    answer: bytes = b""


class FlakyProxy:
    """Passes connections on; the first ones have the requested faults.

    Attributes:
        faults: of the next connections, one each; connections after them are sound.
        instead: by a part of the path, what is answered without asking the server.
        connections: how many there were.
        answered_here: how many requests were answered without the server.
        heads: what callers sent, as it came.
    """

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "", parts.port or 0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.faults: list[Fault] = []
        self.instead: dict[bytes, bytes] = {}
        self.connections = self.answered_here = 0
        self.heads: list[bytes] = []
        self._threads: list[threading.Thread] = []
        self._run(self._accept)

    def close(self) -> None:
        """Stop listening, and wait until nothing passes any more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(timeout=10)

    def _run(self, work: Callable[..., None], *args: object) -> threading.Thread:
        thread = threading.Thread(target=work, args=args)
        self._threads.append(thread)
        thread.start()
        return thread

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                caller, _ = self._listener.accept()
                fault = self.faults.pop(0) if self.faults else Fault()
                self.connections += 1
                self._run(self._serve, caller, fault)

    def _serve(self, caller: socket.socket, fault: Fault) -> None:
        with caller, socket.create_connection(self._upstream) as server:
            if fault.answer:
                self.heads.append(caller.recv(_SLICE_BYTES))
                caller.sendall(fault.answer)
                return
            asking = self._run(self._pass_requests, caller, server, fault.request_bytes)
            _pass(_parts(server), caller, fault.answer_bytes)
            _cut(caller, server)
            asking.join()

    def _pass_requests(
        self, caller: socket.socket, server: socket.socket, most: int | None
    ) -> None:
        _pass(self._requests(caller), server, most)
        _cut(caller, server)

    def _requests(self, caller: socket.socket) -> Iterator[bytes]:
        """Yield what the caller sends, up to a request that is answered here."""
        for part in _parts(caller):
            self.heads.append(part)
            first_line = part.partition(b"\r\n")[0]
            for path, answer in self.instead.items():
                if path in first_line:
                    self.answered_here += 1
                    caller.sendall(answer)
                    return
            yield part


def _parts(source: socket.socket) -> Iterator[bytes]:
    with suppress(OSError):
        while part := source.recv(_SLICE_BYTES):
            yield part


def _pass(parts: Iterator[bytes], target: socket.socket, most: int | None) -> None:
    """Pass bytes on until there are no more or so many have passed."""
    passed = 0
    with suppress(OSError):
        for part in parts:
            target.sendall(part if most is None else part[: most - passed])
            passed += len(part)
            if most is not None and passed >= most:
                return


def _cut(*connections: socket.socket) -> None:
    for connection in connections:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def flaky(upstream: str) -> Iterator[FlakyProxy]:
    """Yield a proxy before a server."""
    proxy = FlakyProxy(upstream)
    try:
        yield proxy
    finally:
        proxy.close()
