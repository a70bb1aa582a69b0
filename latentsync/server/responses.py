"""A stored video as an HTTP answer: whole or a range, and never shown as a page by a browser.

The address under which a caller knows this server; addresses in answers begin with it.
"""

import re
from collections.abc import Iterator
from typing import IO
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from latentsync.jobs.storage import Storage

_FILE_CHUNK_BYTES = 256 * 1024
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def stored_video(request: Request, files: Storage, key: str, *, name: str) -> Response:
    """Return the response with a stored video, or only its headers for HEAD.

    Supports single ranges (RFC 9110); a request for several ranges gets the whole file, as the
    standard allows. HEAD ignores ranges.

    Args:
        request: the request with Range, If-Range and If-None-Match headers.
        files: the storage.
        key: key of the file. Keys are never reused for other content, so they serve as ETag.
        name: file name for browsers; ASCII.

    Raises:
        FileNotFoundError: there is no such file.
    """
    size_bytes = files.size_bytes(key)
    etag = f'"{key.rsplit("/", 1)[-1].removesuffix(".mp4")}"'
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": etag,
        "Content-Disposition": f'attachment; filename="{name}"',
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        # Clients may cache it, but must revalidate: it may have been erased.
        "Cache-Control": "private, no-cache",
        "Vary": "Authorization",
    }
    known = request.headers.get("if-none-match", "")
    if known.strip() == "*" or etag in known:
        return Response(status_code=304, headers=headers)
    if request.method == "HEAD":
        length = {"Content-Length": str(size_bytes)}
        return Response(headers=headers | length, media_type=_PartOfFile.media_type)
    requested = _parse_range(request.headers.get("range", ""))
    if requested is None or request.headers.get("if-range", etag) != etag:
        return _partial_response(files, key, 0, size_bytes, headers, status_code=200)
    start, end = _range_bounds(*requested, size_bytes)
    if start >= end:
        headers["Content-Range"] = f"bytes */{size_bytes}"
        return Response(status_code=416, headers=headers)
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{size_bytes}"
    return _partial_response(files, key, start, end, headers, status_code=206)


def _parse_range(header: str) -> tuple[str, str] | None:
    """Return first and last byte of a single range; None if the header must be ignored.

    RFC 9110 (14.1.1 and 14.2) requires that of invalid ranges, such as one whose last byte comes
    before its first.
    """
    found = _RANGE.fullmatch(header.strip())
    if found is None:
        return None
    first, last = found.group(1, 2)
    if not (first or last) or (first and last and int(last) < int(first)):
        return None
    return first, last


def _range_bounds(first: str, last: str, size_bytes: int) -> tuple[int, int]:
    """Return the half-open byte range; it is empty if it cannot be satisfied."""
    if not first:  # a suffix range
        return max(0, size_bytes - int(last)), size_bytes
    end = int(last) + 1 if last else size_bytes
    return int(first), min(end, size_bytes)


def _partial_response(
    files: Storage, key: str, start: int, end: int, headers: dict[str, str], *, status_code: int
) -> Response:
    headers = {**headers, "Content-Length": str(end - start)}
    # Open the file before the response starts, so that a missing file is an error.
    return _PartOfFile(files.open(key), start, end, status_code, headers)


class _PartOfFile(StreamingResponse):
    """Sends a part of an open file and closes it, also if the client disconnects."""

    media_type = "video/mp4"

    def __init__(
        self, file: IO[bytes], start: int, end: int, status_code: int, headers: dict[str, str]
    ) -> None:
        self._file = file
        super().__init__(_file_chunks(file, start, end), status_code, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        with self._file:
            await super().__call__(scope, receive, send)


def _file_chunks(file: IO[bytes], start: int, end: int) -> Iterator[bytes]:
    file.seek(start)
    left = end - start
    while left > 0 and (part := file.read(min(left, _FILE_CHUNK_BYTES))):
        left -= len(part)
        yield part


def base_url_of(request: Request, public_url: str | None) -> str:
    """Return the external URL of the server, without a trailing slash.

    Args:
        request: the request, whose URL is the default.
        public_url: the setting, required behind a proxy with a path prefix.
    """
    return (public_url or str(request.base_url)).rstrip("/")


def path_of(base_url: str) -> str:
    """Return the path prefix of a URL, or an empty string."""
    return urlsplit(base_url).path.rstrip("/")
