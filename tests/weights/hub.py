"""A hub on localhost, over real HTTP, with the troubles that real ones have.

It speaks what huggingface_hub's client asks of ``/{owner}/{repo}/resolve/{revision}/{file}`` (ETag,
X-Repo-Commit, X-Linked-Size, redirect to a store on another port) and serves plain files beside it.
"""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_CHUNK_BYTES = 16 * 1024
_LINGER_NOT = struct.pack("ii", 1, 0)  # close with a reset


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    range: str | None
    authorization: str | None


@dataclass
class Trouble:
    """What goes wrong with one path; each list is used up from the front, one entry a GET."""

    cut_after: list[int] = field(default_factory=list)  # bytes, then the connection ends
    reset_after: list[int] = field(default_factory=list)  # bytes, then the connection is reset
    statuses: list[int] = field(default_factory=list)  # of HEAD and GET alike
    wrong_bytes: list[bool] = field(default_factory=list)  # one flipped byte
    hold: threading.Event | None = None  # the second half of the body waits for it
    ignores_ranges: bool = False


class Hub:
    """The files, the log and the troubles of a running server."""

    def __init__(self) -> None:
        self.url = ""
        self.store_url = ""  # another port, that hub files are read from if ``redirects``
        self.redirects = False
        self.files: dict[str, bytes] = {}
        self.troubles: dict[str, Trouble] = {}
        self.requests: list[Request] = []
        self.sent_bytes: Counter[str] = Counter()
        self.sending = threading.Event()  # set once a body is on its way

    def put(self, path: str, content: bytes) -> None:
        self.files[path] = content

    def trouble(self, path: str) -> Trouble:
        return self.troubles.setdefault(path, Trouble())

    def gets(self, path: str) -> list[Request]:
        return [seen for seen in self.requests if seen.method == "GET" and seen.path == path]


def etag_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Serve a hub, and a store that it may redirect to, until the block ends."""
    hub = Hub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    servers = [_Server(("127.0.0.1", 0), Handler) for _ in range(2)]
    threads = [threading.Thread(target=server.serve_forever, args=(0.01,)) for server in servers]
    for thread in threads:
        thread.start()
    hub.url, hub.store_url = (f"http://127.0.0.1:{server.server_port}" for server in servers)

    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            server.close_connections()
            thread.join()
            server.server_close()


class _Server(ThreadingHTTPServer):
    """Knows its open connections, so that none outlives it."""

    daemon_threads = True

    def __init__(self, *args: object) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(*args)  # type: ignore[arg-type]

    def process_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        self._open.add(request)
        super().process_request(request, client_address)  # type: ignore[arg-type]

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        self._open.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # gone already
                continue

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients of these tests hang up in the middle; that is no error of the server."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        hub, path = self.hub, self.path.partition("?")[0]
        method = "GET" if with_body else "HEAD"
        hub.requests.append(
            Request(method, path, self.headers["Range"], self.headers["Authorization"])
        )
        trouble = hub.trouble(path)
        content = hub.files.get(path)
        if trouble.statuses:
            return self._head(trouble.statuses.pop(0), 0)
        if content is None:
            return self._head(404, 0)
        on_store = self.server.server_port != int(hub.url.rpartition(":")[2])  # type: ignore[attr-defined]
        if hub.redirects and not on_store and "/resolve/" in path:
            return self._redirect(f"{hub.store_url}{path}?Signature=secret", content)
        start = self._start(content, trouble)
        status = 206 if start else 200
        self._head(status, len(content) - start, content, start)
        if with_body:
            self._send(path, content, start, trouble)
        return None

    def _start(self, content: bytes, trouble: Trouble) -> int:
        asked = self.headers["Range"]
        if_range = self.headers["If-Range"]
        if asked is None or trouble.ignores_ranges:
            return 0
        if if_range is not None and if_range != f'"{etag_of(content)}"':
            return 0
        return int(asked.removeprefix("bytes=").removesuffix("-"))

    def _head(self, status: int, length: int, content: bytes = b"", start: int = 0) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        if content:
            self.send_header("ETag", f'"{etag_of(content)}"')
            self.send_header("X-Repo-Commit", COMMIT)
        if status == 206:
            end = len(content) - 1
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
        self.end_headers()

    def _redirect(self, url: str, content: bytes) -> None:
        self.send_response(302)
        self.send_header("Location", url)
        self.send_header("Content-Length", "0")
        self.send_header("X-Linked-ETag", f'"{etag_of(content)}"')
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()

    def _send(self, path: str, content: bytes, start: int, trouble: Trouble) -> None:
        body = bytearray(content[start:])
        if trouble.wrong_bytes and trouble.wrong_bytes.pop(0):
            body[len(body) // 2] ^= 1
        end, reset = len(body), False
        if trouble.cut_after:
            end = trouble.cut_after.pop(0)
        elif trouble.reset_after:
            end, reset = trouble.reset_after.pop(0), True
        for offset in range(0, end, _CHUNK_BYTES):
            chunk = body[offset : min(end, offset + _CHUNK_BYTES)]
            self.hub.sent_bytes[path] += len(chunk)  # before its reader can ask for it
            self.wfile.write(chunk)
            self.hub.sending.set()
            if trouble.hold is not None and offset >= end // 2:
                trouble.hold.wait(20)
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        if end < len(body):
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Say nothing: the log is ``hub.requests``."""
