"""Animated WebP as a video: FFmpeg reads only its still pictures, so Pillow decodes each frame.

A frame is a picture of its own that covers a part of the canvas. It is read, decoded and drawn on
the canvas when it is needed, so memory does not grow with the length of the animation. How often it
should repeat is ignored. Sources: the WebP container specification (chunks, blending, disposal) and
the header of VP8L (RFC 9649).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from av.video.frame import VideoFrame
from PIL import Image
from PIL.WebPImagePlugin import WebPImageFile

from latentsync.errors import TruncatedMedia, UnreadableMedia

TIME_BASE = Fraction(1, 1000)  # seconds per unit of the timestamps
# Browsers show frames of up to 10 ms, which many old programs wrote for "as it comes", for 100 ms.
_SHORTEST_MS, _DEFAULT_MS = 11, 100
_HEAD_BYTES = 30  # up to the end of the VP8X chunk
_ANIMATED, _TRANSPARENT = 0x02, 0x10  # flags of VP8X
_DISPOSES, _REPLACES = 0x01, 0x02  # flags of ANMF
_FRAME_HEAD = 16  # bytes of an ANMF chunk before the picture
_RIFF_SIZE_UNKNOWN = 0x7FFF0000  # programs that write to a pipe leave this or more, or 0
# More than any encoder needs for a frame, uncompressed pixels included.
_MOST_BYTES, _MOST_BYTES_PER_PIXEL = 65_536, 8
_CLEAR = (0, 0, 0, 0)


@dataclass(frozen=True)
class AnimationFrame:
    """One frame as the container describes it.

    Attributes:
        pts: milliseconds since the first frame.
        duration_ms: how long it is shown.
        box: x1, y1, x2, y2 on the canvas.
        blends: its transparent pixels show the canvas; otherwise it replaces them.
        disposes: its box becomes transparent before the next frame.
        is_opaque: it has no transparent pixels for sure.
        is_keyframe: the canvas does not depend on earlier frames.
        start, size_bytes: where its picture is in the file.
    """

    pts: int
    duration_ms: int
    box: tuple[int, int, int, int]
    blends: bool
    disposes: bool
    is_opaque: bool
    is_keyframe: bool
    start: int
    size_bytes: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        x1, y1, x2, y2 = self.box
        return x2 - x1, y2 - y1


def is_animation(path: Path) -> bool:
    """Return whether a file is an animated WebP of several frames, or the beginning of one."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        if head[:4] != b"RIFF" or head[8:16] != b"WEBPVP8X" or len(head) < _HEAD_BYTES:
            return False
        if not head[20] & _ANIMATED:
            return False
        size_bytes = os.fstat(file.fileno()).st_size
        end = _riff_end(head, size_bytes)
        num_frames = 0
        for kind, start, length in _chunks(file, min(end, size_bytes)):
            num_frames += kind == b"ANMF"
            if num_frames > 1 or start + length > size_bytes:
                return True
        return end > size_bytes + 1


@contextmanager
def open_animation(path: Path, field: str) -> Iterator[Animation]:
    """Open an animated WebP; a context manager.

    Args:
        path: a file for which :func:`is_animation` is true.
        field: request field of the file, for messages.

    Raises:
        TruncatedMedia
    """
    with path.open("rb") as file:
        yield Animation(file, field)


class Animation:
    """The frames of an open animated WebP.

    Attributes:
        width, height: of the canvas in pixels, as declared.
    """

    def __init__(self, file: BinaryIO, field: str) -> None:
        self._file, self._field = file, field
        head = file.read(_HEAD_BYTES)
        self._size_bytes = os.fstat(file.fileno()).st_size
        self._end = _riff_end(head, self._size_bytes)
        if self._end > self._size_bytes + 1:  # the last pad byte may be missing
            raise TruncatedMedia(
                f"{field} is cut off: it should have {self._end} bytes but has {self._size_bytes}.",
                field=field,
            )
        self.width, self.height = 1 + _uint24(head, 24), 1 + _uint24(head, 27)

    def frames(self) -> Iterator[AnimationFrame]:
        """Yield what the container says of each frame; nothing is decoded.

        Raises:
            TruncatedMedia, UnreadableMedia
        """
        previous = None
        for kind, start, length in _chunks(self._file, self._end):
            if start + length > self._size_bytes:
                raise TruncatedMedia(
                    f"{self._field} is cut off in the middle of a frame.", field=self._field
                )
            if start + length > self._end + 1:
                raise self._damage("a frame ends after the end of the file")
            if kind == b"ANMF":
                previous = self._read_frame(start, length, previous)
                yield previous

    def first_picture(self) -> tuple[VideoFrame, bool]:
        """Return the first frame on black, and whether it has transparent pixels.

        Raises:
            UnreadableMedia: it cannot be decoded.
        """
        canvas = Image.new("RGBA", (self.width, self.height), _CLEAR)
        frame = next(self.frames(), None)
        if frame is None or not self._draw(canvas, frame):
            raise UnreadableMedia(
                f"{self._field} cannot be decoded: its first frame is damaged.", field=self._field
            )
        return _on_black(canvas, frame.pts), _is_transparent(canvas)

    def decode(self, start_pts: int = 0) -> Iterator[VideoFrame]:
        """Yield the frames from a keyframe on: whole canvases on black as rgb24, pts in ms.

        Damaged frames are left out.

        Args:
            start_pts: timestamp of a keyframe.
        """
        canvas = Image.new("RGBA", (self.width, self.height), _CLEAR)
        previous = None
        for frame in self.frames():
            if frame.pts < start_pts:
                continue
            if previous is not None and previous.disposes:
                canvas.paste(_CLEAR, previous.box)
            previous = frame
            if self._draw(canvas, frame):
                yield _on_black(canvas, frame.pts)

    def _read_frame(
        self, start: int, length: int, previous: AnimationFrame | None
    ) -> AnimationFrame:
        self._file.seek(start)
        head = self._file.read(_FRAME_HEAD + 13)  # and the heads of a chunk and of VP8L
        if length < _FRAME_HEAD:
            raise self._damage("a frame has no picture")
        x, y = 2 * _uint24(head, 0), 2 * _uint24(head, 3)
        width, height = 1 + _uint24(head, 6), 1 + _uint24(head, 9)
        if x + width > self.width or y + height > self.height:
            raise self._damage("a frame is larger than the picture")
        if length > _MOST_BYTES + _MOST_BYTES_PER_PIXEL * width * height:
            raise self._damage(f"a frame of {width}x{height} pixels has {length} bytes")
        duration_ms, flags = _uint24(head, 12), head[15]
        blends, is_opaque = not flags & _REPLACES, _is_opaque(head[_FRAME_HEAD:])
        is_full = (width, height) == (self.width, self.height)
        return AnimationFrame(
            pts=0 if previous is None else previous.pts + previous.duration_ms,
            duration_ms=duration_ms if duration_ms >= _SHORTEST_MS else _DEFAULT_MS,
            box=(x, y, x + width, y + height),
            blends=blends,
            disposes=bool(flags & _DISPOSES),
            is_opaque=is_opaque,
            is_keyframe=(is_full and (is_opaque or not blends)) or self._is_cleared(previous),
            start=start + _FRAME_HEAD,
            size_bytes=length - _FRAME_HEAD,
        )

    def _is_cleared(self, previous: AnimationFrame | None) -> bool:
        """Return whether the canvas is empty after a frame, or before the first one."""
        if previous is None:
            return True
        is_full = previous.size == (self.width, self.height)
        return previous.disposes and (is_full or previous.is_keyframe)

    def _draw(self, canvas: Image.Image, frame: AnimationFrame) -> bool:
        """Draw a frame; returns False, leaving the canvas as it is, if it cannot be decoded."""
        self._file.seek(frame.start)
        still = _as_still(self._file.read(frame.size_bytes), frame)
        try:
            # Image.open would compare the size with a limit of its own, and warn.
            with WebPImageFile(BytesIO(still)) as picture:
                drawn = picture.convert("RGBA")
        except (OSError, SyntaxError, ValueError):
            return False
        if drawn.size != frame.size:
            return False
        if frame.blends:
            canvas.alpha_composite(drawn, frame.box[:2])
        else:
            canvas.paste(drawn, frame.box)
        return True

    def _damage(self, reason: str) -> UnreadableMedia:
        return UnreadableMedia(f"{self._field} is damaged: {reason}.", field=self._field)


def _riff_end(head: bytes, size_bytes: int) -> int:
    """Return where the file should end; its actual end if the header does not say."""
    claimed_bytes = int(struct.unpack("<I", head[4:8])[0])
    is_known = 0 < claimed_bytes < _RIFF_SIZE_UNKNOWN
    return claimed_bytes + 8 if is_known else size_bytes


def _chunks(file: BinaryIO, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind, start and length of the content of each chunk that begins before ``end``."""
    start = 12
    while start + 8 <= end:
        file.seek(start)
        head = file.read(8)
        if len(head) < 8:
            return
        kind, length = struct.unpack("<4sI", head)
        yield kind, start + 8, length
        start += 8 + length + length % 2


def _uint24(data: bytes, start: int) -> int:
    return int.from_bytes(data[start : start + 3], "little")


def _is_opaque(head: bytes) -> bool:
    """Return whether a frame without transparent pixels begins like this."""
    if head[:4] == b"VP8L":
        return len(head) == 13 and not head[12] & 0x10  # the flag "alpha is used"
    return head[:4] == b"VP8 "


def _as_still(content: bytes, frame: AnimationFrame) -> bytes:
    """Return the picture of a frame as a WebP file of its own."""
    width, height = frame.size
    flags = 0 if frame.is_opaque else _TRANSPARENT
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunks = b"WEBPVP8X" + struct.pack("<II", 10, flags) + size + content
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def _is_transparent(canvas: Image.Image) -> bool:
    return bool(np.asarray(canvas)[..., 3].min() < 255)


def _on_black(canvas: Image.Image, pts: int) -> VideoFrame:
    black = Image.new("RGBA", canvas.size, (0, 0, 0, 255))
    black.alpha_composite(canvas)
    frame = VideoFrame.from_ndarray(np.asarray(black.convert("RGB")), format="rgb24")
    frame.pts, frame.time_base = pts, TIME_BASE
    return frame
