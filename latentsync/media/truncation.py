"""Tells a file that was cut off from one whose length was never known.

FFmpeg plays what is left of a truncated file, often without an error. Most containers declare
their length, so that truncation can be detected before anything is decoded. A program that writes
to a pipe cannot go back to fill in the length, though, and leaves a placeholder: zero, the largest
number that fits, or two billion. Such a file is as long as it is.

Sources: ISO/IEC 14496-12 (boxes of MP4 and MOV), RFC 8794 (EBML of Matroska and WebM), the chunks
of RIFF, RF64 and AIFF, and the headers of ASF, Wave64, AU and CAF.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from latentsync.errors import EmptyMedia, TruncatedMedia, UnreadableMedia

_OPENING_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp"}
_CONTENT_BOXES = _OPENING_BOXES | {b"moof", b"mfra", b"sidx", b"uuid", b"udta", b"meta"}
_MOST_BOXES = 100_000  # more than ten minutes in fragments of one frame each
_MOST_CHUNKS = 1_000  # in front of the samples
EBML_HEADER, _EBML_SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_WAVE64_HEADER = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_IS_LIVE = 1  # flag of a stream whose size is not known
# Placeholders in use: 0, 2,000,000,000, 0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF, each less a header.
_PLACEHOLDER = 0x7000_0000  # a declared size from here on, 1.9 GB, was never known
_PADDING_BYTES = 1  # chunks are padded to even lengths, and some programs count the padding


def refuse_truncated_file(path: Path, field: str) -> None:
    """Check that a media file has all the bytes that its container declares.

    Args:
        path: the file.
        field: request field of the file, for messages.

    Raises:
        EmptyMedia, TruncatedMedia
        UnreadableMedia: an MP4 with so many boxes that it looks like an attack.
    """
    with path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        if size_bytes == 0:
            raise EmptyMedia(f"{field} is an empty file.", field=field)
        reason = _find_truncation(file, size_bytes, field)
    if reason is not None:
        raise TruncatedMedia(f"{field} is cut off: {reason}.", field=field)


def _find_truncation(file: BinaryIO, size_bytes: int, field: str) -> str | None:
    """Return why the file is incomplete, as the end of a sentence, or None if it looks whole."""
    head = file.read(16)
    if head[4:8] in _OPENING_BOXES:
        return _check_boxes(file, size_bytes, field)
    if head[:4] == EBML_HEADER:
        return _check_ebml(file, size_bytes)
    declared_end = _declared_end(file, head, size_bytes)
    if declared_end is not None and declared_end > size_bytes + _PADDING_BYTES:
        return _missing_bytes(declared_end, size_bytes)
    return None


def _declared_end(file: BinaryIO, head: bytes, size_bytes: int) -> int | None:
    """Return the position at which the samples or the file should end; None if not declared."""
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        return _end_of_samples(file, size_bytes, b"data", ">" if head[:4] == b"RIFX" else "<")
    if head[:4] == b"RIFF":
        return _end(8, struct.unpack("<I", head[4:8])[0])
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _end_of_samples(file, size_bytes, b"SSND", ">")
    if head[:4] == b"caff":
        return _end_of_caf(file, size_bytes)
    if head[:4] == b".snd":
        start, length = struct.unpack(">II", head[4:12].ljust(8, b"\0"))
        return _end(start, length)
    if head == ASF_HEADER:
        return _end_of_asf(file, size_bytes)
    if head == _WAVE64_HEADER:
        return _end(0, struct.unpack("<Q", file.read(8).ljust(8, b"\0"))[0])
    return None


def _end(start: int, length: int) -> int | None:
    return start + length if 0 < length < _PLACEHOLDER else None


@dataclass(frozen=True)
class _Chunk:
    kind: bytes
    start: int  # of its content
    length: int


def _chunks(
    file: BinaryIO,
    position: int,
    size_bytes: int,
    header: str,
    align: int = 2,
    *,
    counts_header: bool = False,
) -> Iterator[_Chunk]:
    """Yield the chunks from ``position`` on.

    Args:
        file: the file.
        position: of the first chunk.
        size_bytes: of the file.
        header: layout of kind and length.
        align: chunks begin at multiples of so many bytes.
        counts_header: whether the length includes the header.
    """
    header_bytes = struct.calcsize(header)
    for _ in range(_MOST_CHUNKS):
        if position + header_bytes > size_bytes:
            return
        file.seek(position)
        kind, length = struct.unpack(header, file.read(header_bytes))
        length -= header_bytes if counts_header else 0
        chunk = _Chunk(kind, position + header_bytes, length)
        yield chunk
        position = chunk.start + max(0, length) + length % align


def _end_of_samples(file: BinaryIO, size_bytes: int, kind: bytes, order: str) -> int | None:
    """Return the end of the samples in a WAV or AIFF; in an RF64 the chunk ds64 has their size."""
    long_size = None
    for chunk in _chunks(file, 12, size_bytes, f"{order}4sI"):
        if chunk.kind == b"ds64":
            file.seek(chunk.start)
            long_size = struct.unpack("<QQ", file.read(16).ljust(16, b"\0"))[1]
        if chunk.kind == kind:
            length = long_size if long_size and chunk.length == 0xFFFFFFFF else chunk.length
            return _end(chunk.start, length)
    return None


def _end_of_caf(file: BinaryIO, size_bytes: int) -> int | None:
    sizes = (
        _end(chunk.start, chunk.length)
        for chunk in _chunks(file, 8, size_bytes, ">4sq", align=1)
        if chunk.kind == b"data"
    )
    return next(sizes, None)


def _end_of_asf(file: BinaryIO, size_bytes: int) -> int | None:
    """Return the end by the properties in the header; a live stream has none."""
    for chunk in _chunks(file, 30, size_bytes, "<16sQ", align=1, counts_header=True):
        if chunk.kind == _ASF_PROPERTIES:
            file.seek(chunk.start)
            file_bytes, flags = struct.unpack("<16xQ40xI", file.read(68).ljust(68, b"\0"))
            return None if flags & _ASF_IS_LIVE else _end(0, file_bytes)
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
            break  # damaged, or garbage after the last box, which players ignore
        if start + length > size_bytes:
            return _missing_bytes(start + length, size_bytes)
        kinds.add(kind)
        start += length
    if kinds & {b"moov", b"moof"}:
        return None
    if start < size_bytes:
        raise UnreadableMedia(
            f"{field} is damaged: there is no valid box at byte {start}, and none before it is "
            "the index (moov).",
            field=field,
        )
    return "it ends before its index (the moov box)"


def _read_box(file: BinaryIO, start: int, size_bytes: int) -> tuple[int, bytes]:
    file.seek(start)
    header = file.read(16).ljust(16, b"\0")
    length, kind = struct.unpack(">I4s", header[:8])
    if length == 1:
        return struct.unpack(">Q", header[8:])[0], kind
    return (size_bytes - start if length == 0 else length), kind


def _check_ebml(file: BinaryIO, size_bytes: int) -> str | None:
    file.seek(4)
    header_bytes = _read_ebml_size(file)
    if header_bytes is None or file.tell() + header_bytes > size_bytes:
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


def _missing_bytes(declared_bytes: int, size_bytes: int) -> str:
    return f"it should have {declared_bytes} bytes but has {size_bytes}"
