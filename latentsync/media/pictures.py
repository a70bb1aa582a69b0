"""Recognises still pictures by their content, whatever the file is called.

Sources: ISO/IEC 23008-12 (HEIF: brands and boxes), the specifications of GIF89a, PNG (with acTL)
and WebP, and the signatures that other formats begin with.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from latentsync.media.animation import is_animation

_HEAD_BYTES = 4096
_MOST_BOXES = 1000  # at the top level of a picture there are less than ten
_MOST_CHUNKS = 1000  # before the pixels of a PNG
_MOST_BLOCKS = 100_000  # in the first frame of a GIF: 25 MB


class PictureKind(StrEnum):
    """A format of still pictures; the value is its name in messages."""

    AVIF = "AVIF"
    BMP = "BMP"
    CAMERA_RAW = "camera raw"
    GIF = "GIF"
    HEIC = "HEIC"
    HEIF = "HEIF"
    ICO = "ICO"
    JPEG = "JPEG"
    JPEG_2000 = "JPEG 2000"
    JPEG_XL = "JPEG XL"
    PNG = "PNG"
    PSD = "PSD"
    SVG = "SVG"
    TIFF = "TIFF"  # DNG and other formats of cameras, too
    WEBP = "WebP"


_SIGNATURES = (
    (b"\xff\xd8\xff", PictureKind.JPEG),
    (b"\x89PNG\r\n\x1a\n", PictureKind.PNG),
    (b"GIF87a", PictureKind.GIF),
    (b"GIF89a", PictureKind.GIF),
    (b"8BPS\0\1", PictureKind.PSD),
    (b"8BPS\0\2", PictureKind.PSD),
    (b"\xff\x0a", PictureKind.JPEG_XL),
    (b"\0\0\0\x0cJXL \r\n\x87\n", PictureKind.JPEG_XL),
    (b"\0\0\0\x0cjP  \r\n\x87\n", PictureKind.JPEG_2000),
    (b"\xff\x4f\xff\x51", PictureKind.JPEG_2000),
    (b"FUJIFILMCCD-RAW", PictureKind.CAMERA_RAW),
    (b"IIU\0", PictureKind.CAMERA_RAW),  # Panasonic
    (b"IIRO", PictureKind.CAMERA_RAW),  # Olympus
    (b"IIRS", PictureKind.CAMERA_RAW),
    (b"MMOR", PictureKind.CAMERA_RAW),
    *((start, PictureKind.TIFF) for start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
)
# Brands of pictures. Those of sequences (avis, hevc, msf1) are not here: what begins with one and
# has no index is a video that was cut off.
_AVIF, _HEIC = {b"avif"}, {b"heic", b"heix", b"heim", b"heis"}
_HEIF = {b"mif1", b"mif2", b"miaf", b"1pic", b"avci", b"jpeg", b"j2ki", b"vvic", b"evbi"}
_CANON_RAW = b"crx "
_BMP_HEADER_BYTES = {12, 16, 40, 52, 56, 64, 108, 124}
_ICO_BITS = {0, 1, 4, 8, 16, 24, 32}


def recognise_picture(path: Path) -> PictureKind | None:
    """Return the kind of a still picture; None for anything else, animations included.

    Nothing is decoded: a damaged or cut-off picture is one as long as its beginning is intact. A
    file with a picture and an index of a video (an MP4 with a cover) is a video.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        kind = _kind_of(head)
        if kind is None or _is_moving(kind, file, head, path):
            return None
        return kind


def _kind_of(head: bytes) -> PictureKind | None:
    for start, kind in _SIGNATURES:
        if head.startswith(start):
            is_canon = kind is PictureKind.TIFF and head[8:10] == b"CR"
            return PictureKind.CAMERA_RAW if is_canon else kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return PictureKind.WEBP
    if head[4:8] == b"ftyp":
        return _kind_of_brands(head)
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_BYTES:
        return PictureKind.BMP
    if _is_icon(head):
        return PictureKind.ICO
    return PictureKind.SVG if _is_svg(head) else None


def _is_moving(kind: PictureKind, file: BinaryIO, head: bytes, path: Path) -> bool:
    """Return whether a file that begins like a picture is a video or an animation."""
    if kind is PictureKind.PNG:
        return _is_animated_png(file)
    if kind is PictureKind.GIF:
        return _has_second_frame(file, head)
    if kind is PictureKind.WEBP:
        return is_animation(path)
    # Motion JPEG 2000 begins with a box as well.
    is_boxes = head[4:8] in (b"ftyp", b"jP  ") and kind is not PictureKind.CAMERA_RAW
    return is_boxes and _has_index(file)


def _kind_of_brands(head: bytes) -> PictureKind | None:
    major, end = head[8:12], min(_uint32(head, 0), len(head))
    brands = {major, *(head[start : start + 4] for start in range(16, end, 4))}
    if major == _CANON_RAW:
        return PictureKind.CAMERA_RAW  # its index has tracks, of a kind that nothing plays
    if major not in _AVIF | _HEIC | _HEIF:
        return None
    if brands & _AVIF:
        return PictureKind.AVIF
    return PictureKind.HEIC if brands & _HEIC else PictureKind.HEIF


def _has_index(file: BinaryIO) -> bool:
    """Return whether boxes have tracks."""
    return any(kind in (b"moov", b"moof") for kind in _box_kinds(file))


def _box_kinds(file: BinaryIO) -> Iterator[bytes]:
    start, size_bytes = 0, os.fstat(file.fileno()).st_size
    for _ in range(_MOST_BOXES):
        file.seek(start)
        head = file.read(16)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head[:8])
        if length == 1 and len(head) == 16:
            length = int(struct.unpack(">Q", head[8:])[0])
        yield kind
        if length < 8 or start + length > size_bytes:  # 0: up to the end of the file
            return
        start += length


def _is_animated_png(file: BinaryIO) -> bool:
    start = 8
    for _ in range(_MOST_CHUNKS):
        file.seek(start)
        head = file.read(12)
        if len(head) < 12 or head[4:8] == b"IDAT":
            return False
        if head[4:8] == b"acTL":
            return _uint32(head, 8) > 1
        start += 12 + _uint32(head, 0)
    return False


def _has_second_frame(file: BinaryIO, head: bytes) -> bool:
    """Return whether a GIF has more than one frame."""
    if len(head) < 13:
        return False
    file.seek(13 + _palette_bytes(head[10]))
    num_frames = num_blocks = 0
    while num_blocks < _MOST_BLOCKS:
        opening = file.read(1)
        if opening == b",":
            num_frames += 1
            if num_frames > 1:
                return True
            frame = file.read(9)
            file.seek(_palette_bytes(frame[8]) if len(frame) == 9 else 0, os.SEEK_CUR)
        elif opening != b"!":
            return False  # the end, or damage
        file.read(1)  # the kind of an extension, or the size of codes
        num_blocks += 1 + _skip_blocks(file, _MOST_BLOCKS - num_blocks)
    return True  # too long to tell, so not taken for a picture


def _palette_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _skip_blocks(file: BinaryIO, most: int) -> int:
    """Skip sub-blocks of a GIF up to the empty one; returns their number."""
    for number in range(most):
        length = file.read(1)
        if not length or not length[0]:
            return number
        file.seek(length[0], os.SEEK_CUR)
    return most


def _is_icon(head: bytes) -> bool:
    """Return whether a file begins with a plausible list of icons (its signature is weak)."""
    if head[:4] != b"\0\0\1\0" or len(head) < 22:
        return False
    count, planes, bits, size_bytes, start = struct.unpack_from("<H4xHHII", head, 4)
    is_sane = head[9] == 0 and planes <= 1 and bits in _ICO_BITS
    return 0 < count <= 256 and is_sane and size_bytes > 0 and start >= 6 + 16 * count


def _is_svg(head: bytes) -> bool:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return text.startswith((b"<svg", b"<?xml", b"<!doctype svg", b"<!--")) and b"<svg" in text


def _uint32(data: bytes, start: int) -> int:
    return int.from_bytes(data[start : start + 4], "big")
