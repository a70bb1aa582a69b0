"""Tiny real media files, made on the spot; every video frame carries its own number."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]  # H,W,3 RGB
BITS = 10  # of a frame number; numbers stay below 1,024


def numbered(number: int, width: int = 64, height: int = 64) -> Picture:
    """Paint ``number`` as black and white bars from left (lowest bit) to right."""
    picture = np.full((height, width, 3), 20, np.uint8)
    for bit in range(BITS):
        if number >> bit & 1:
            picture[:, bit * width // BITS : (bit + 1) * width // BITS] = 235
    return picture


def read_number(frame: Picture) -> int:
    """Read back what :func:`numbered` painted."""
    width = frame.shape[1]
    number = 0
    for bit in range(BITS):
        bar = frame[:, bit * width // BITS + 1 : (bit + 1) * width // BITS - 1]
        number |= int(bar.mean() > 128) << bit
    return number


def make_video(
    path: Path,
    num_frames: int = 10,
    *,
    fps: Fraction | int = 25,
    size: tuple[int, int] = (64, 64),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    stamps_ms: Iterable[int] | None = None,
    paint: Callable[[int, int, int], Picture] = numbered,
    display: tuple[Any, ...] | None = None,
    aspect: Fraction | None = None,
    gop: int = 12,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    format: str | None = None,
    **context: int,
) -> Path:
    """Write a video without sound; ``display`` is (degrees, flip x, flip y) of its matrix."""
    width, height = size
    with av.open(str(path), "w", format=format, options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.gop_size = gop
        if codec == "libx264":
            stream.options = {"preset": "ultrafast", "crf": "10"}
        stream.options = {**stream.options, **(options or {})}
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if display is not None:
            stream.set_display_rotation(*display)
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        if stamps_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        stamps = list(stamps_ms) if stamps_ms is not None else list(range(num_frames))
        for number, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(paint(number, width, height), format="rgb24")
            frame.pts = stamp
            frame.time_base = stream.codec_context.time_base or Fraction(1, 1) / fps
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def tone(duration_s: float, sample_rate: int, channels: int = 1, hz: float = 440.0) -> Any:
    """Return a sine of half amplitude, float32 (channels, samples)."""
    moments = np.arange(round(duration_s * sample_rate)) / sample_rate
    return np.tile(0.5 * np.sin(2 * np.pi * hz * moments), (channels, 1)).astype(np.float32)


def make_sound(
    path: Path,
    samples: NDArray[np.float32],
    sample_rate: int = 16_000,
    *,
    codec: str = "pcm_s16le",
    layout: str = "mono",
    options: dict[str, str] | None = None,
) -> Path:
    """Write float32 (channels, samples) to an audio file of the kind its suffix says."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=sample_rate)
        stream.codec_context.layout = layout
        packed = np.ascontiguousarray(samples.T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
        frame.sample_rate = sample_rate
        frame.pts = 0
        converter = av.AudioResampler(stream.codec_context.format, layout, sample_rate)
        for converted in [*converter.resample(frame), *converter.resample(None)]:
            container.mux(stream.encode(converted))
        container.mux(stream.encode(None))
    return path


def cut(path: Path, share: float) -> Path:
    """Shorten a file to a share of its bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path
