"""Decodes packets, with another decoder than FFmpeg's usual one where that drops the transparency.

VP8 and VP9 store transparency beside their pictures. FFmpeg's own decoders ignore it, those of
libvpx do not.
"""

from __future__ import annotations  # the generics of av exist for type checkers only

import av
from av.packet import Packet
from av.stream import Stream
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


def choose_decoder(stream: Stream) -> str | None:
    """Return the name of the decoder that keeps a stream's transparency; None for the usual one."""
    tags = {name.lower(): value for name, value in stream.metadata.items()}
    if stream.codec_context is None or tags.get("alpha_mode") != "1":
        return None
    return _WITH_ALPHA.get(stream.codec_context.codec.canonical_name)


class Decoder:
    """Decodes the packets of a video stream.

    Args:
        name: of a decoder; None for the usual one.
    """

    def __init__(self, name: str | None) -> None:
        self._context: VideoCodecContext | None = None
        if name is not None:
            context = av.CodecContext.create(name, "r")
            assert isinstance(context, VideoCodecContext)
            self._context = context

    def decode(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        """Return the frames that a packet completes; an empty packet flushes the decoder.

        Raises:
            av.FFmpegError: the packet is damaged.
        """
        if self._context is None:
            return packet.decode()
        return self._context.decode(packet if packet.size else None)
