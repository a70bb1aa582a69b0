"""Writes one small valid file per row of a table: container, codec and way of writing.

Every picture carries its number (:mod:`tests.media.makers`). Every recording is silent but for a
tone between ``TONE_FROM_S`` and ``TONE_UNTIL_S``, so its position and its pitch can be checked.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import OutputContainer
from numpy.typing import NDArray

from tests.media.makers import numbered

# Copied from a file: the encoder of AV1, run by root, makes the whole process a real-time one.
AV1_COPY = "copy of av1.ivf"
_AV1_FILE = Path(__file__).with_name("av1.ivf")  # 20 pictures of 64x64 at 25 fps

TONE_FROM_S, TONE_UNTIL_S, TONE_HZ = 0.3, 0.6, 600.0
LENGTH_S = 0.8  # of pictures and of sound, unless a row says otherwise

# Ways of writing a file
SEEKABLE = "seekable"  # to a disk: sizes and indexes are filled in at the end
PIPE = "pipe"  # to a pipe or a connection: nothing that was written can be changed
GROWING = "growing"  # to a disk, and read before the end was written: still recording, or killed


@dataclass(frozen=True)
class Pictures:
    """How pictures are encoded.

    Attributes:
        options: of the encoder, as ``name=value name=value``.
        stamps_ms: when each picture is shown, for variable rates; else ``fps`` says it.
        pts_lost: the container has no room for presentation times.
    """

    codec: str
    options: str = ""
    pix_fmt: str = "yuv420p"
    size: tuple[int, int] = (64, 64)
    fps: Fraction | int = 25
    num_frames: int = 20
    stamps_ms: Sequence[int] = ()
    gop: int = 8
    tag: str = ""

    @property
    def shown_s(self) -> NDArray[np.float64]:
        """When each picture is shown after the first one, in seconds."""
        if self.stamps_ms:
            return (np.array(self.stamps_ms) - self.stamps_ms[0]) / 1000
        return np.arange(self.num_frames) / float(self.fps)

    @property
    def length_s(self) -> float:
        """Seconds from the first picture to the end of the last, which is as long as the others."""
        shown_s = self.shown_s
        return float(shown_s[-1] + np.median(np.diff(shown_s)))


@dataclass(frozen=True)
class Sound:
    """How sound is encoded; ``padding_ms`` is what whole blocks of the codec may add to it."""

    codec: str
    rate: int = 48_000
    layout: str = "mono"
    options: str = ""
    padding_ms: float = 0
    bit_rate: int = 0


@dataclass(frozen=True)
class Clip:
    """A row of the table: one file.

    Attributes:
        muxer: FFmpeg's name of the container.
        mux: options of the muxer, as ``name=value name=value``.
        way: SEEKABLE, PIPE or GROWING.
        sound_later_s: how much later than the pictures the sound starts; negative for earlier.
        start_s: time of the first picture on the container's clock.
        extra: adds what is neither pictures nor sound before the first packet.
        edit: changes the finished file into another valid one.
        suffix: of the file's name, where it is not what the muxer would give.
        delay_ms: how much later the sound is than it was recorded: delay of an encoder that this
            container cannot mark, less that of the pictures.
        hidden: pictures at the start that the container hides.
    """

    name: str
    muxer: str
    pictures: Pictures | None = None
    sound: Sound | None = None
    mux: str = ""
    way: str = SEEKABLE
    sound_later_s: float = 0.0
    start_s: float = 0.0
    extra: Callable[[OutputContainer], list[av.Packet]] | None = None
    edit: Callable[[bytes], bytes] | None = None
    suffix: str = ""
    delay_ms: float = 0.0
    hidden: int = 0


def write(clip: Clip, folder: Path) -> Path:
    """Write the file of a row into ``folder``."""
    suffix = clip.suffix or clip.muxer
    path = folder / f"clip.{suffix}"
    if clip.way == SEEKABLE:
        _mux(clip, str(path))
        content = path.read_bytes() if clip.edit else b""
    elif clip.way == PIPE:
        pipe = _Pipe()
        _mux(clip, pipe)
        content = bytes(pipe.content)
    else:
        content = _mux(clip, io.BytesIO())
    if clip.edit:
        content = clip.edit(content)
    if content:
        path.write_bytes(content)
    return path


class _Pipe:
    """A file that can only be written to."""

    def __init__(self) -> None:
        self.content = bytearray()

    def write(self, data: bytes) -> int:
        self.content += data
        return len(data)


def _mux(clip: Clip, target: Any) -> bytes:
    """Write the file to ``target``; returns what it held before its end was written."""
    options = {"fflags": "+flush_packets", **_split(clip.mux)}
    with av.open(target, "w", format=clip.muxer, options=options) as container:
        pictures = _add_pictures(container, clip.pictures) if clip.pictures else None
        sound = _add_sound(container, clip.sound) if clip.sound else None
        for packet in clip.extra(container) if clip.extra else []:
            container.mux(packet)
        if clip.pictures:
            _encode_pictures(container, pictures, clip.pictures, clip.start_s)
        if clip.sound:
            length_s = clip.pictures.length_s if clip.pictures else LENGTH_S
            _encode_sound(container, sound, clip.sound, length_s, clip.start_s + clip.sound_later_s)
        return target.getvalue() if isinstance(target, io.BytesIO) else b""


def _split(options: str) -> dict[str, str]:
    return dict(option.split("=", 1) for option in options.split())


def _add_pictures(container: OutputContainer, pictures: Pictures) -> Any:
    if pictures.codec == AV1_COPY:
        with av.open(_AV1_FILE) as source:
            return container.add_stream_from_template(source.streams.video[0], opaque=True)
    stream: Any = container.add_stream(pictures.codec, rate=pictures.fps)
    stream.width, stream.height = pictures.size
    stream.pix_fmt = pictures.pix_fmt
    stream.options = _split(pictures.options)
    stream.codec_context.gop_size = pictures.gop
    if pictures.tag:
        stream.codec_context.codec_tag = pictures.tag
    if pictures.stamps_ms:
        stream.codec_context.time_base = Fraction(1, 1000)
    return stream


def _encode_pictures(
    container: OutputContainer, stream: Any, pictures: Pictures, start_s: float
) -> None:
    if pictures.codec == AV1_COPY:
        _copy_av1(container, stream)
        return
    unit = Fraction(1, 1000) if pictures.stamps_ms else 1 / Fraction(pictures.fps)
    stamps = pictures.stamps_ms or range(pictures.num_frames)
    for number, stamp in enumerate(stamps):
        frame = av.VideoFrame.from_ndarray(numbered(number, *pictures.size), format="rgb24")
        frame = frame.reformat(format=pictures.pix_fmt)
        frame.pts, frame.time_base = stamp + round(start_s / unit), unit
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _copy_av1(container: OutputContainer, stream: Any) -> None:
    with av.open(_AV1_FILE) as source:
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                container.mux(packet)


def _add_sound(container: OutputContainer, sound: Sound) -> Any:
    stream: Any = container.add_stream(sound.codec, rate=sound.rate)
    stream.codec_context.layout = sound.layout
    stream.options = _split(sound.options)
    if sound.bit_rate:
        stream.codec_context.bit_rate = sound.bit_rate
    return stream


def _encode_sound(
    container: OutputContainer, stream: Any, sound: Sound, length_s: float, start_s: float
) -> None:
    samples = tone_burst(length_s, sound.rate, av.AudioLayout(sound.layout).nb_channels)
    packed = np.ascontiguousarray(samples.T).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=sound.layout)
    frame.sample_rate = sound.rate
    frame.pts, frame.time_base = round(start_s * sound.rate), Fraction(1, sound.rate)
    converter = av.AudioResampler(stream.codec_context.format, sound.layout, sound.rate)
    for converted in [*converter.resample(frame), *converter.resample(None)]:
        container.mux(stream.encode(converted))
    container.mux(stream.encode(None))


def tone_burst(length_s: float, rate: int, channels: int) -> NDArray[np.float32]:
    """Return silence with a tone in it, float32 (channels, samples)."""
    moments = np.arange(round(length_s * rate)) / rate
    sounds = (moments >= TONE_FROM_S) & (moments < TONE_UNTIL_S)
    wave = 0.5 * np.sin(2 * np.pi * TONE_HZ * (moments - TONE_FROM_S)) * sounds
    return np.tile(wave, (channels, 1)).astype(np.float32)
