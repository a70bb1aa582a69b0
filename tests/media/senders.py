"""A real HTTP server on a free loopback port that behaves as badly as a path asks it to."""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from urllib.parse import parse_qs, urlsplit

CONTENT = bytes(range(256)) * 40


class _Sender(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Sender

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.server.asked.append(self.path)
        try:
            getattr(self, f"_{url.path.strip('/')}")(parse_qs(url.query))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def _file(self, _query: object) -> None:
        self._head(200, Content_Length=len(CONTENT))
        self.wfile.write(CONTENT)

    def _empty(self, _query: object) -> None:
        self._head(200, Content_Length=0)

    def _redirect(self, query: dict[str, list[str]]) -> None:
        self._head(302, Location=query["to"][0], Content_Length=0)

    def _circle(self, _query: object) -> None:
        self._head(302, Location="/circle", Content_Length=0)

    def _status(self, query: dict[str, list[str]]) -> None:
        self._head(int(query["code"][0]), Content_Length=0)

    def _drip(self, _query: object) -> None:
        self._head(200, Content_Length=10**6)
        while not self.server.stopping.is_set():
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.02)

    def _silent(self, _query: object) -> None:
        self.server.stopping.wait(20)
        self.close_connection = True

    def _endless(self, _query: object) -> None:
        self._head(200, Transfer_Encoding="chunked")
        while not self.server.stopping.is_set():
            self.wfile.write(b"1000\r\n" + bytes(4096) + b"\r\n")

    def _announced(self, _query: object) -> None:
        self._head(200, Content_Length=10**12)

    def _short(self, _query: object) -> None:
        self._head(200, Content_Length=len(CONTENT) * 2)
        self.wfile.write(CONTENT)
        self.close_connection = True

    def _gzip(self, _query: object) -> None:
        packed = gzip.compress(CONTENT)
        self._head(200, Content_Length=len(packed), Content_Encoding="gzip")
        self.wfile.write(packed)

    def _bomb(self, _query: object) -> None:
        packed = gzip.compress(bytes(20_000_000))
        self._head(200, Content_Length=len(packed), Content_Encoding="gzip")
        self.wfile.write(packed)

    def _brotli(self, _query: object) -> None:
        self._head(200, Content_Length=len(CONTENT), Content_Encoding="br")
        self.wfile.write(CONTENT)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Sender(ThreadingHTTPServer):
    """The server; ``asked`` lists every path that was requested."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Sender)
        self.stopping = Event()
        self.asked: list[str] = []

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.server_port}/{path}"


@contextmanager
def running_sender() -> Iterator[Sender]:
    """Run the server for the length of the block."""
    with Sender() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.stopping.set()
            server.shutdown()
            thread.join()
