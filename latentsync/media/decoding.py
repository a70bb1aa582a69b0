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

# Decoders round sizes up to whole blocks, so their limit is higher.
_PIXELS_MARGIN = 1.25
StreamT = TypeVar("StreamT", bound=Stream)
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
_WITHOUT_ALPHA = {with_alpha: usual for usual, with_alpha in _WITH_ALPHA.items()}
_ALPHA_ID_BYTES = 8
_ELEMENTARY = {"mpegvideo"}
# FFmpeg guesses when frames of these are shown, for the codecs below in the wrong order.
ONE_TIME_PER_FRAME = {"avi", "asf"}
_GUESSED_WRONG = {"h264", "hevc"}


def limit_pixels(max_pixels: int) -> dict[str, str]:
    """Return the option by which decoders refuse pictures of more than ``max_pixels``."""
    return {"max_pixels": str(int(max_pixels * _PIXELS_MARGIN))}


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
        max_pixels: largest picture (width x height) allowed.
        lacks_times: whether packets have the times of decoding instead of those of display.
        deinterlace: whether interlaced frames become progressive ones.
    """

    def __init__(
        self,
        name: str | None,
        max_pixels: int,
        *,
        lacks_times: bool = False,
        deinterlace: bool = True,
    ) -> None:
        self._deinterlaces = deinterlace
        self._alpha_decoder = None if name is None else _AlphaDecoder(name, max_pixels)
        self._display_times = _DisplayTimes() if lacks_times else None
        self._deinterlacer: _Deinterlacer | None = None

    @property
    def has_deinterlaced(self) -> bool:
        """Whether some frames were interlaced."""
        return self._deinterlacer is not None

    def decode(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        """Return the frames that a packet completes; an empty packet flushes the decoder.

        Raises:
            av.FFmpegError: the packet is damaged.
        """
        frames = self._decode_in_order(packet)
        if not self._deinterlaces:
            return frames
        if self._deinterlacer is None and any(frame.interlaced_frame for frame in frames):
            self._deinterlacer = _Deinterlacer()
        if self._deinterlacer is None:
            return frames
        return self._deinterlacer.feed(frames, is_end=not packet.size)

    def _decode_in_order(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        if self._display_times is None:
            return self._decode(packet)
        time = packet.pts if packet.size else None
        self._display_times.expect(time)
        try:
            frames = self._decode(packet)
        except av.FFmpegError:
            self._display_times.give_up(time)
            raise
        return self._display_times.stamp(frames)

    def _decode(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        if self._alpha_decoder is None:
            return packet.decode()
        return self._alpha_decoder.decode(packet)


class _AlphaDecoder:
    """A decoder of libvpx.

    It would allocate a picture of any size. FFmpeg's decoders, which refuse too large ones, try
    each packet first: its pictures, and its transparency.
    """

    def __init__(self, name: str, max_pixels: int) -> None:
        self._context = _open_decoder(name)
        usual, limit = _WITHOUT_ALPHA[name], limit_pixels(max_pixels)
        self._pictures, self._alpha = (_open_decoder(usual, limit) for _ in range(2))

    def decode(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        """Return the frames that a packet completes; raises av.FFmpegError if it is damaged."""
        if not packet.size:
            return self._context.decode(None)
        self._pictures.decode(av.Packet(bytes(packet)))
        if packet.has_sidedata("matroska_block_additional"):
            alpha = bytes(packet.get_sidedata("matroska_block_additional"))[_ALPHA_ID_BYTES:]
            self._alpha.decode(av.Packet(alpha))
        return self._context.decode(packet)


def _open_decoder(name: str, options: dict[str, str] | None = None) -> VideoCodecContext:
    context = av.CodecContext.create(name, "r")
    assert isinstance(context, VideoCodecContext)
    context.options = options or {}
    context.thread_count = 1  # errors come with the packet that causes them
    return context


class _DisplayTimes:
    """Gives frames, in the order of display, the times of decoding in ascending order.

    A packet of which nothing is shown would leave its time to the frame of another packet, and so
    on for the rest of the file. Frames decoded before a keyframe are shown before it, so that what
    has not been shown by then is given up.
    """

    def __init__(self) -> None:
        self._times: list[int] = []  # not given to a frame yet, ascending
        self._expected: set[int] = set()  # of packets whose own frame has not been shown

    def expect(self, time: int | None) -> None:
        """Expect a frame for a packet of this time."""
        if time is not None:
            insort(self._times, time)
            self._expected.add(time)

    def give_up(self, time: int | None) -> None:
        """Expect no frame of this packet."""
        if time in self._times:
            self._times.remove(time)
            self._expected.discard(time)

    def stamp(self, frames: list[VideoFrame]) -> list[VideoFrame]:
        """Return the frames with the times of their display."""
        for frame in frames:
            own = frame.pts
            if own is not None:
                self._expected.discard(own)
                if frame.key_frame:
                    self._give_up_before(own)
            frame.pts = self._times.pop(0) if self._times else None
        return frames

    def _give_up_before(self, own: int) -> None:
        lost = {time for time in self._expected if time < own}
        self._expected -= lost
        del self._times[: len(lost)]


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
