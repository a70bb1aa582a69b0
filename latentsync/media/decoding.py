"""Decodes packets of video: which decoder, whole frames of fields, and when each frame is shown.

VP8 and VP9 store transparency next to their pictures. FFmpeg's own decoders ignore it, those of
libvpx do not.

AVI, ASF and elementary streams do not say when a frame is shown, only in which order frames are
decoded; program streams may say it for one frame of many. Decoders return frames in the order of
display, so the times of decoding, in ascending order, are theirs.

An interlaced frame holds two fields of different moments. A deinterlacer (BWDIF) makes a whole
frame of the first one, as players do.
"""

from __future__ import annotations  # the generics of av exist for type checkers only

from bisect import insort
from collections.abc import Iterable, Iterator
from typing import TypeVar

import av
from av.filter import Graph
from av.packet import Packet
from av.stream import Stream
from av.video.codeccontext import VideoCodecContext
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

StreamT = TypeVar("StreamT", bound=Stream)
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
_ELEMENTARY = {"mpegvideo"}
# FFmpeg guesses when frames of these are shown, for the codecs below in the wrong order.
ONE_TIME_PER_FRAME = {"avi", "asf"}
_GUESSED_WRONG = {"h264", "hevc"}


def choose_decoder(stream: Stream) -> str | None:
    """Return the name of the decoder that keeps a stream's transparency; None for the usual one."""
    tags = {name.lower(): value for name, value in stream.metadata.items()}
    if stream.codec_context is None or tags.get("alpha_mode") != "1":
        return None
    return _WITH_ALPHA.get(stream.codec_context.codec.canonical_name)


def lacks_times(stream: Stream, container: str) -> bool:
    """Return whether nothing in a file says when the frames of a stream are shown.

    Args:
        stream: of pictures.
        container: FFmpeg's name of the container.
    """
    context = stream.codec_context
    codec = None if context is None else context.codec.canonical_name
    return container in _ELEMENTARY or (container in ONE_TIME_PER_FRAME and codec in _GUESSED_WRONG)


class DecodingTimes:
    """The times at which the packets of a stream are decoded, also of those that do not say it."""

    def __init__(self) -> None:
        self._next: int | None = None

    def time_of(self, packet: Packet[StreamT]) -> int | None:
        """Return the time of the next packet; None if it is not known yet."""
        time = packet.dts if packet.dts is not None else packet.pts
        if time is None:
            time = self._next
        if time is not None:
            self._next = time + (packet.duration or 0)
        return time


def stamp_by_decoding(packets: Iterable[Packet[VideoStream]]) -> Iterator[Packet[VideoStream]]:
    """Yield packets whose timestamps are the times of decoding."""
    times = DecodingTimes()
    for packet in packets:
        if packet.size:
            packet.pts = packet.dts = times.time_of(packet)
        yield packet


class Decoder:
    """Decodes the packets of a video stream.

    Args:
        name: of a decoder; None for the usual one.
        lacks_times: whether packets have the times of decoding instead of those of display.
        deinterlace: whether interlaced frames become progressive ones.
    """

    def __init__(
        self, name: str | None, *, lacks_times: bool = False, deinterlace: bool = False
    ) -> None:
        self._deinterlacer = _Deinterlacer() if deinterlace else None
        self._context: VideoCodecContext | None = None
        self._times: list[int] | None = [] if lacks_times else None  # ascending
        if name is not None:
            context = av.CodecContext.create(name, "r")
            assert isinstance(context, VideoCodecContext)
            self._context = context

    def decode(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        """Return the frames that a packet completes; an empty packet flushes the decoder.

        Raises:
            av.FFmpegError: the packet is damaged.
        """
        frames = self._decode_in_order(packet)
        if self._deinterlacer is None:
            return frames
        return self._deinterlacer.feed(frames, is_end=not packet.size)

    def _decode_in_order(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        if self._times is None:
            return self._decode(packet)
        time = packet.pts if packet.size else None
        if time is not None:
            insort(self._times, time)
        try:
            frames = self._decode(packet)
        except av.FFmpegError:
            if time is not None:
                self._times.remove(time)
            raise
        for frame in frames:
            frame.pts = self._times.pop(0) if self._times else None
        return frames

    def _decode(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        if self._context is None:
            return packet.decode()
        return self._context.decode(packet if packet.size else None)


class _Deinterlacer:
    """Turns interlaced frames into progressive ones, each when the next one is known."""

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self._kind: tuple[int, int, str] | None = None

    def feed(self, frames: Iterable[VideoFrame], *, is_end: bool) -> list[VideoFrame]:
        """Return the frames that are complete; frames without a timestamp are lost."""
        complete = []
        for frame in frames:
            kind = (frame.width, frame.height, frame.format.name)
            if kind != self._kind:
                complete += self._flush()
                self._kind = kind
                self._graph = self._build(frame)
            if frame.pts is not None and self._graph is not None:
                self._graph.vpush(frame)
                complete += self._pull()
        return complete + (self._flush() if is_end else [])

    @staticmethod
    def _build(frame: VideoFrame) -> Graph:
        graph = Graph()
        source = graph.add_buffer(
            width=frame.width,
            height=frame.height,
            format=VideoFormat(frame.format.name),
            time_base=frame.time_base,
        )
        bwdif = graph.add("bwdif", mode="send_frame", deint="interlaced")
        graph.link_nodes(source, bwdif, graph.add("buffersink")).configure()
        return graph

    def _pull(self) -> list[VideoFrame]:
        pulled: list[VideoFrame] = []
        while self._graph is not None:
            try:
                frame = self._graph.vpull()
            except (av.BlockingIOError, av.EOFError):
                break
            if frame.pts is not None:
                frame.pts //= 2  # the filter's unit is half of the stream's
            pulled.append(frame)
        return pulled

    def _flush(self) -> list[VideoFrame]:
        if self._graph is None:
            return []
        self._graph.vpush(None)
        rest = self._pull()
        self._graph = self._kind = None
        return rest
