"""What files hold besides pictures and sound: chapters, covers, subtitles, time codes, data."""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import Any

import av
from av.container import OutputContainer
from av.stream import Disposition

from tests.media.makers import numbered

_MS = Fraction(1, 1000)


def chapters(container: OutputContainer) -> list[av.Packet]:
    """Add two chapters."""
    container.set_chapters(
        [
            {"id": 1, "start": 0, "end": 400, "time_base": _MS, "metadata": {"title": "One"}},
            {"id": 2, "start": 400, "end": 800, "time_base": _MS, "metadata": {"title": "Two"}},
        ]
    )
    return []


def cover(container: OutputContainer) -> list[av.Packet]:
    """Add a JPEG as the cover."""
    stream: Any = container.add_stream("mjpeg", rate=25)
    stream.width, stream.height, stream.pix_fmt = 96, 96, "yuvj420p"
    stream.disposition = Disposition.attached_pic
    frame = av.VideoFrame.from_ndarray(numbered(1023, 96, 96), format="rgb24")
    frame = frame.reformat(format="yuvj420p")
    frame.pts = 0
    container.start_encoding()
    return [*stream.encode(frame), *stream.encode(None)]


def text_track(container: OutputContainer) -> list[av.Packet]:
    """Add a line of MP4 subtitles."""
    text = b"Hello"
    return [_packet(container.add_mux_stream("mov_text"), struct.pack(">H", len(text)) + text)]


def subrip(container: OutputContainer) -> list[av.Packet]:
    """Add a line of SubRip subtitles."""
    return [_packet(container.add_mux_stream("subrip"), b"Hello")]


def timecode(container: OutputContainer) -> list[av.Packet]:
    """Add a time code that starts at ten o'clock."""
    container.streams.video[0].metadata["timecode"] = "10:00:00:00"
    return []


def data_track(container: OutputContainer) -> list[av.Packet]:
    """Add a packet of metadata of the kind drones write (KLV)."""
    return [_packet(container.add_data_stream("klv"), bytes(16) + b"\x04text")]


def _packet(stream: Any, content: bytes) -> av.Packet:
    packet = av.Packet(content)
    packet.stream, packet.time_base = stream, _MS
    packet.pts = packet.dts = 100
    packet.duration = 300
    return packet
