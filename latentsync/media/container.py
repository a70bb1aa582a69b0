"""Opens untrusted media files: only known containers, and no other files.

Playlists (HLS, DASH, concat, SDP) could make FFmpeg open other files or URLs. They are not in the
list of formats, and ``file`` is the only protocol allowed.
"""

from __future__ import annotations  # the generics of av exist for type checkers only

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

from latentsync.errors import UnreadableMedia
from latentsync.media.decoding import limit_pixels
from latentsync.media.truncation import ASF_HEADER, EBML_HEADER, refuse_truncated_file

_FORMATS = (
    # with pictures: MP4/MOV/M4A/3GP, Matroska/WebM, AVI, transport and program streams, …
    *("mov", "matroska", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "asf", "ogg", "mxf"),
    *("gif", "apng", "ivf", "yuv4mpegpipe", "nut"),
    # sound alone
    *("wav", "w64", "mp3", "aac", "loas", "flac", "aiff", "caf", "amr", "au", "ac3", "eac3"),
    *("ape", "wv", "tta", "dts"),
)
# Of damaged files, to say what they were.
_BEGINNINGS = (
    (4, b"ftyp", "an MP4 or MOV"),
    (0, EBML_HEADER, "a Matroska or WebM"),
    (8, b"AVI ", "an AVI"),
    (8, b"WAVE", "a WAV"),
    (0, b"FLV", "an FLV"),
    (0, b"OggS", "an Ogg"),
    (0, b"ID3", "an MP3"),
    (0, b"fLaC", "a FLAC"),
    (8, b"AIF", "an AIFF"),
    (0, b"caff", "a CAF"),
    (0, ASF_HEADER, "a WMV or WMA"),
)
StreamT = TypeVar("StreamT", bound=Stream)
MAX_STREAMS = 32
_LAST_STAMP = 1 << 60  # shifting a timestamp must not exceed 64 bits


@contextmanager
def open_media(path: Path, field: str, max_pixels: int) -> Iterator[InputContainer]:
    """Open a media file for reading; a context manager.

    Args:
        path: the file; its name is not used.
        field: request field of the file, for messages.
        max_pixels: largest picture (width x height) that a decoder may allocate.

    Raises:
        EmptyMedia, TruncatedMedia, UnreadableMedia
    """
    refuse_truncated_file(path, field)
    options = {
        "protocol_whitelist": "file",
        "format_whitelist": ",".join(_FORMATS),
        **limit_pixels(max_pixels),
    }
    try:
        container = av.open(f"file:{path}", "r", options=options, metadata_errors="replace")
    except av.FFmpegError as error:
        raise _unopened(path, error, field) from error
    with container:
        if len(container.streams) > MAX_STREAMS:
            raise UnreadableMedia(
                f"{field} holds {len(container.streams)} streams (allowed: {MAX_STREAMS}).",
                field=field,
            )
        yield container


def _unopened(path: Path, error: av.FFmpegError, field: str) -> UnreadableMedia:
    """Return the error about a file that FFmpeg cannot open."""
    reason = describe(error)
    if isinstance(error, av.EOFError):
        reason = "it ends before anything can be decoded"
    with path.open("rb") as file:
        head = file.read(16)
    for position, start, kind in _BEGINNINGS:
        if head.startswith(start, position):
            message = f"{field} begins like {kind} but is damaged or cut off: {reason}."
            return UnreadableMedia(message, field=field)
    return UnreadableMedia(f"{field} is not a media file that can be read: {reason}.", field=field)


class BrokenOff(Exception):
    """A container cannot be read any further; the message is FFmpeg's."""


def read_packets(container: InputContainer, *streams: StreamT) -> Iterator[Packet[StreamT]]:
    """Yield the packets of some streams, then an empty one for each that flushes its decoder.

    Timestamps that no clock reaches are taken away.

    Raises:
        BrokenOff: the container is damaged here.
    """
    try:
        for packet in container.demux(*streams):
            if abs(packet.pts or 0) > _LAST_STAMP or abs(packet.dts or 0) > _LAST_STAMP:
                packet.pts = packet.dts = None
            yield packet  # type: ignore[misc]  # demux is overloaded by kind of stream
    except av.FFmpegError as error:
        raise BrokenOff(describe(error)) from error
    except IndexError:  # at the end of a file in the middle of which a stream appeared
        for stream in streams:
            flush: Any = Packet()
            flush.stream = stream
            yield flush


@contextmanager
def unreadable_errors(field: str) -> Iterator[None]:
    """Raise UnreadableMedia with FFmpeg's message if FFmpeg cannot convert something."""
    try:
        yield
    except (av.FFmpegError, BrokenOff) as error:
        reason = describe(error) if isinstance(error, av.FFmpegError) else str(error)
        raise UnreadableMedia(f"{field} cannot be converted: {reason}.", field=field) from error


def describe(error: av.FFmpegError) -> str:
    """Return FFmpeg's message without the file name, starting in lower case."""
    words = error.strerror or type(error).__name__
    return words[:1].lower() + words[1:]
