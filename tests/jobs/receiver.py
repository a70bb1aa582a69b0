"""A real receiver of webhooks on a free loopback port, which answers as it is told."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import standardwebhooks

SECRET = "whsec_c2VjcmV0LW9mLXRoZS10ZXN0cy0wMTIzNDU2"


@dataclass(frozen=True)
class Received:
    """One call."""

    path: str
    headers: dict[str, str]
    body: str
    at: float


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.received.append(Received(self.path, headers, body, time.monotonic()))
        self.server.arrived.set()
        if self.path.startswith("/silent"):
            self.server.speaking.wait(120)
        status = self.server.statuses.pop(0) if self.server.statuses else 204
        try:
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", self.server.url("elsewhere"))
            self.end_headers()
            while self.path == "/endless" and not self.server.speaking.is_set():
                self.wfile.write(bytes(65536))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Receiver(ThreadingHTTPServer):
    """The server.

    Attributes:
        received: every call, in order.
        statuses: what the next calls are answered with; 204 when none is left.
        speaking: set to let calls to ``/silent…`` be answered.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[Received] = []
        self.statuses: list[int] = []
        self.arrived = Event()
        self.speaking = Event()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.server_port}/{path}"


@contextmanager
def running_receiver() -> Iterator[Receiver]:
    """Run the receiver for the length of the block."""
    with Receiver() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.speaking.set()
            server.shutdown()
            thread.join()


def verified(call: Received) -> dict[str, Any]:
    """Return what a call says, after the check that receivers are told to make."""
    content = standardwebhooks.Webhook(SECRET).verify(call.body, call.headers)
    assert isinstance(content, dict)
    return content
