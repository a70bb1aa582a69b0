"""Opens untrusted media files: only known containers, and no other files.

Playlists (HLS, DASH, concat, SDP) could make FFmpeg open other files or URLs. They are not in the
list of formats, and ``file`` is the only protocol allowed.

FFmpeg plays what is left of a truncated file, often without an error. MP4 and MOV, Matroska and
WebM, WAV and AVI declare their length, so truncation is detected before anything is decoded.
Sources: ISO/IEC 14496-12 (boxes of MP4 and MOV), RFC 8794 (EBML of Matroska and WebM), the RIFF
header of WAV and AVI.
"""

from __future__ import annotations  # the generics of av exist for type checkers only

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

from latentsync.errors import EmptyMedia, TruncatedMedia, UnreadableMedia

_FORMATS = (
    # with pictures: MP4/MOV/M4A/3GP, Matroska/WebM, AVI, transport and program streams, …
    *("mov", "matroska", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "asf", "ogg", "mxf"),
    *("gif", "apng", "ivf", "yuv4mpegpipe", "nut"),
    # sound alone
    *("wav", "w64", "mp3", "aac", "loas", "flac", "aiff", "caf", "amr", "au", "ac3", "eac3"),
    *("ape", "wv", "tta", "dts"),
    # still pictures, which are refused with their own message
    *("png_pipe", "jpeg_pipe", "webp_pipe", "bmp_pipe", "tiff_pipe", "gif_pipe", "jpegxl_pipe"),
)
StreamT = TypeVar("StreamT", bound=Stream)
MAX_STREAMS = 32
# Decoders round sizes up to whole blocks, so their limit is higher.
_DECODER_PIXELS_MARGIN = 1.25

_OPENING_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp"}
_CONTENT_BOXES = _OPENING_BOXES | {b"moof", b"mfra", b"sidx", b"uuid", b"udta", b"meta"}
_MOST_BOXES = 100_000  # more than ten minutes in fragments of one frame each
_EBML_HEADER, _EBML_SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_RIFF_SIZE_UNKNOWN = 0x7FFF0000  # programs that write to a pipe leave this or more


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
    _refuse_cut_file(path, field)
    options = {
        "protocol_whitelist": "file",
        "format_whitelist": ",".join(_FORMATS),
        "max_pixels": str(int(max_pixels * _DECODER_PIXELS_MARGIN)),
    }
    try:
        container = av.open(f"file:{path}", "r", options=options, metadata_errors="replace")
    except av.FFmpegError as error:
        raise UnreadableMedia(
            f"{field} is not a media file that can be read: {describe(error)}.", field=field
        ) from error
    with container:
        if len(container.streams) > MAX_STREAMS:
            raise UnreadableMedia(
                f"{field} holds {len(container.streams)} streams (allowed: {MAX_STREAMS}).",
                field=field,
            )
        yield container


class BrokenOff(Exception):
    """A container cannot be read any further; the message is FFmpeg's."""


def read_packets(container: InputContainer, stream: StreamT) -> Iterator[Packet[StreamT]]:
    """Yield the packets of one stream, then an empty one that flushes its decoder.

    Raises:
        BrokenOff: the container is damaged here.
    """
    try:
        yield from container.demux(stream)  # type: ignore[misc]  # overloaded by kind of stream
    except av.FFmpegError as error:
        raise BrokenOff(describe(error)) from error
    except IndexError as error:  # PyAV does not support streams that appear in the middle of a file
        raise BrokenOff("its streams change on the way") from error


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


def _refuse_cut_file(path: Path, field: str) -> None:
    if path.stat().st_size == 0:
        raise EmptyMedia(f"{field} is an empty file.", field=field)
    reason = _find_truncation(path, field)
    if reason is not None:
        raise TruncatedMedia(f"{field} is cut off: {reason}.", field=field)


def _find_truncation(path: Path, field: str) -> str | None:
    """Return why the file is incomplete, as the end of a sentence, or None if it looks whole.

    Raises:
        UnreadableMedia: an MP4 with so many boxes that it looks like an attack.
    """
    with path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        head = file.read(12)
        if head[4:8] in _OPENING_BOXES:
            return _check_boxes(file, size_bytes, field)
        if head[:4] in (b"RIFF", b"RIFX"):
            order = "<" if head[:4] == b"RIFF" else ">"
            return _check_riff(struct.unpack(f"{order}I", head[4:8].ljust(4))[0], size_bytes)
        if head[:4] == _EBML_HEADER:
            return _check_ebml(file, size_bytes)
    return None


def _check_boxes(file: BinaryIO, size_bytes: int, field: str) -> str | None:
    start, count, kinds = 0, 0, set()
    while start + 8 <= size_bytes:
        count += 1
        if count > _MOST_BOXES:
            raise UnreadableMedia(
                f"{field} is made of more than {_MOST_BOXES} boxes, the most allowed.",
                field=field,
            )
        length, kind = _read_box(file, start, size_bytes)
        if length < 8 or (start + length > size_bytes and kind not in _CONTENT_BOXES):
            break  # garbage after the last box; players ignore it
        if start + length > size_bytes:
            return _missing_bytes(start + length, size_bytes)
        kinds.add(kind)
        start += length
    if not kinds & {b"moov", b"moof"}:
        return "it ends before its index (the moov box)"
    return None


def _read_box(file: BinaryIO, start: int, size_bytes: int) -> tuple[int, bytes]:
    file.seek(start)
    header = file.read(16).ljust(16, b"\0")
    length, kind = struct.unpack(">I4s", header[:8])
    if length == 1:
        return struct.unpack(">Q", header[8:])[0], kind
    return (size_bytes - start if length == 0 else length), kind


def _check_riff(claimed_bytes: int, size_bytes: int) -> str | None:
    if 0 < claimed_bytes < _RIFF_SIZE_UNKNOWN and claimed_bytes + 8 > size_bytes + 1:
        return _missing_bytes(claimed_bytes + 8, size_bytes)
    return None


def _check_ebml(file: BinaryIO, size_bytes: int) -> str | None:
    file.seek(4)
    header_bytes = _read_ebml_size(file)
    if header_bytes is None:
        return None
    file.seek(header_bytes, os.SEEK_CUR)
    if file.read(4) != _EBML_SEGMENT:
        return None
    segment_bytes = _read_ebml_size(file)
    end = file.tell() + (segment_bytes or 0)
    return _missing_bytes(end, size_bytes) if end > size_bytes else None


def _read_ebml_size(file: BinaryIO) -> int | None:
    """Read a variable-length integer (RFC 8794, section 4); None means of unknown size."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    num_more = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0x7F >> num_more)]) + file.read(num_more), "big")
    return None if value == (1 << (7 * (num_more + 1))) - 1 else value


def _missing_bytes(claimed_bytes: int, size_bytes: int) -> str:
    return f"it should have {claimed_bytes} bytes but has {size_bytes}"
