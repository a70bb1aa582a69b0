"""Bringing the media of a request here: a download, inline base64, or a file already in place.

Whatever arrives is judged by its content later; here only its origin, its size and the time it
takes are checked.
"""

from __future__ import annotations

import binascii
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from latentsync.errors import (
    EmptyMedia,
    ForbiddenPath,
    InvalidBase64,
    TooManyBytes,
    UnreadableMedia,
    shorten,
)
from latentsync.media.download import download
from latentsync.monitor import RunMonitor
from latentsync.request import InlineSource, MediaSource, PathSource, UrlSource
from latentsync.settings import Settings
from latentsync.workspace import translate_disk_full

_SLICE_CHARACTERS = 4 * 1024 * 1024
_WHITESPACE = str.maketrans("", "", " \t\r\n")
_DATA_URI = re.compile(r"\s*data:(?P<kind>[^,]{0,1000}),", re.IGNORECASE)
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/=]")


def fetch_media(source: MediaSource, folder: Path, settings: Settings, monitor: RunMonitor) -> Path:
    """Return a file with the media of ``source``; files made here lie in ``folder``.

    Base64 must use the standard alphabet (``+`` and ``/``) with its padding; line breaks and
    blanks in it are ignored.

    Args:
        source: where the media is.
        folder: the request's private working folder.
        settings: limits and permissions.
        monitor: asked several times a second whether to stop.

    Raises:
        InvalidField, InvalidBase64: the source is not well formed.
        ForbiddenAddress, ForbiddenPath: the source may not be used.
        Unreachable, FetchTimeout, TooManyBytes: the download failed.
        EmptyMedia: nothing arrived.
        UnreadableMedia: the path leads to no ordinary file.
        DiskFull, Canceled, DeadlineExceeded
    """
    if isinstance(source, PathSource):
        return _existing_file(source, settings)
    with translate_disk_full(), _new_file(folder, source.name) as (path, file):
        if isinstance(source, UrlSource):
            download(source, file, settings, monitor)
        else:
            _decode_inline(source, file, settings, monitor)
        if file.tell() == 0:
            raise EmptyMedia(f"{source.name} brought no bytes.", field=source.name)
    return path


@contextmanager
def _new_file(folder: Path, name: str) -> Iterator[tuple[Path, BinaryIO]]:
    descriptor, path = tempfile.mkstemp(prefix=f"{name}-", dir=folder)
    with os.fdopen(descriptor, "wb") as file:
        yield Path(path), file


def _decode_inline(
    source: InlineSource, file: BinaryIO, settings: Settings, monitor: RunMonitor
) -> None:
    """Decode slice by slice, so that no second copy of a large body is ever in memory."""
    text, start = source.base64, _payload_start(source)
    blanks = sum(text.count(blank, start) for blank in " \t\r\n")
    size_bytes = (len(text) - start - blanks) * 3 // 4
    if size_bytes > settings.max_media_bytes + 2:  # up to two characters are padding
        raise TooManyBytes(
            f"{source.name} holds about {size_bytes} bytes (allowed: {settings.max_media_bytes}).",
            field=source.name,
        )
    padding = text.find("=", start)
    if padding >= 0 and text[padding:].strip(" \t\r\n="):
        raise InvalidBase64(
            f"{source.name} is not base64: there is text behind its padding.", field=source.name
        )
    rest = ""
    for position in range(start, len(text), _SLICE_CHARACTERS):
        monitor.check()
        rest += text[position : position + _SLICE_CHARACTERS].translate(_WHITESPACE)
        whole = len(rest) - len(rest) % 4
        file.write(_decode_slice(rest[:whole], source.name))
        rest = rest[whole:]
    if rest:
        raise InvalidBase64(
            f"{source.name} is not base64: its length is not a multiple of 4 "
            "(the padding may be missing).",
            field=source.name,
        )


def _payload_start(source: InlineSource) -> int:
    """Return where the base64 text begins, behind a ``data:`` prefix if there is one."""
    prefix = _DATA_URI.match(source.base64)
    if prefix is None:
        return 0
    if not prefix["kind"].lower().endswith(";base64"):
        raise InvalidBase64(
            f"{source.name} is a data URI of {shorten(prefix['kind'])}; it must say ;base64.",
            field=source.name,
        )
    return prefix.end()


def _decode_slice(text: str, name: str) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        wrong = _NOT_BASE64.search(text)
        reason = f"it holds {wrong[0]!r}" if wrong else str(error).lower()
        raise InvalidBase64(f"{name} is not base64: {reason}.", field=name) from None


def _existing_file(source: PathSource, settings: Settings) -> Path:
    """Return the real path of a file inside an allowed root; symbolic links are followed first."""
    given, name = shorten(str(source.path)), source.name
    try:
        path = source.path.resolve()
        roots = [root.resolve() for root in settings.allowed_roots]
    except (OSError, RuntimeError, ValueError):
        raise ForbiddenPath(f"{name} is {given}, which is no valid path.", field=name) from None
    if not any(path.is_relative_to(root) for root in roots):
        raise ForbiddenPath(f"{name} is {given}, outside the allowed folders.", field=name)
    try:
        status = path.stat()
    except OSError:
        raise UnreadableMedia(f"{name} is {given}: there is no such file.", field=name) from None
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableMedia(f"{name} is {given}, which is not an ordinary file.", field=name)
    if not os.access(path, os.R_OK):
        raise UnreadableMedia(f"{name} is {given}, which may not be read.", field=name)
    if status.st_size > settings.max_media_bytes:
        raise TooManyBytes(
            f"{name} has {status.st_size} bytes (allowed: {settings.max_media_bytes}).", field=name
        )
    if status.st_size == 0:
        raise EmptyMedia(f"{name} is an empty file.", field=name)
    return path
