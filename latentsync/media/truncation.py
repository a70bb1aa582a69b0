"""Finds truncated files by the sizes in their outermost headers.

FFmpeg plays truncated files, often without an error. These three container families store their
size, so a truncated upload is recognized before anything is decoded.

Sources: ISO/IEC 14496-12 (boxes of MP4 and MOV), RFC 8794 (EBML of Matroska and WebM), the RIFF
header of WAV and AVI.
"""

import os
import struct
from pathlib import Path
from typing import BinaryIO

from latentsync.errors import UnreadableMedia

_OPENING_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp"}
_CONTENT_BOXES = _OPENING_BOXES | {b"moof", b"mfra", b"sidx", b"uuid", b"udta", b"meta"}
_MOST_BOXES = 100_000  # ten minutes in fragments of one frame have fewer
_EBML_HEADER, _EBML_SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_RIFF_SIZE_UNKNOWN = 0x7FFF0000  # written by programs that write to a pipe, or more


def find_truncation(path: Path, field: str) -> str | None:
    """Return why the file is incomplete, as the end of a sentence, or None if it looks whole.

    Raises:
        UnreadableMedia: an MP4 has too many boxes.
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
            break  # trailing data after the last box, which players ignore
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
    """Read a variable-length integer (RFC 8794, section 4); None means unknown size."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    num_more = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0x7F >> num_more)]) + file.read(num_more), "big")
    return None if value == (1 << (7 * (num_more + 1))) - 1 else value


def _missing_bytes(claimed_bytes: int, size_bytes: int) -> str:
    return f"it should have {claimed_bytes} bytes but has {size_bytes}"
