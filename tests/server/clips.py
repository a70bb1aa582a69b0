"""Tiny media files, made with PyAV: a moving picture, a recording, and broken variations."""

from __future__ import annotations

import base64
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SAMPLE_RATE = 16_000


def write_clip(
    path: Path,
    *,
    seconds: float = 0.4,
    width: int = 96,
    height: int = 64,
    fps: Fraction | int = 25,
    faststart: bool = False,
) -> Path:
    """Write a small MP4 without sound; a bar moves through it, one step per frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"movflags": "faststart"} if faststart else {}
    with av.open(path, "w", format="mp4", options=options) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height = width - width % 2, height - height % 2
        stream.pix_fmt = "yuv420p"
        if (width % 2, height % 2) != (0, 0):  # only 4:4:4 has odd sizes
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv444p"
        for number in range(round(seconds * fps)):
            picture = np.full((height, width, 3), 40, np.uint8)
            picture[:, number % width] = 200
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_speech(
    path: Path,
    *,
    seconds: float = 0.4,
    sample_rate: int = SAMPLE_RATE,
    layout: str = "mono",
    sample_format: str = "s16",
    codec: str = "pcm_s16le",
    hertz: float = 220.0,
) -> Path:
    """Write a tone as WAV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = max(1, round(seconds * sample_rate))
    channels = av.AudioLayout(layout).nb_channels
    wave = np.sin(2 * np.pi * hertz * np.arange(samples) / sample_rate)
    with av.open(path, "w", format="wav") as container:
        stream = container.add_stream(codec, rate=sample_rate, layout=layout)
        scaled = wave * 100 + 128 if sample_format == "u8" else wave * 20_000
        kind = np.uint8 if sample_format == "u8" else np.int16
        data = np.repeat(scaled.astype(kind), channels).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(data, format=sample_format, layout=layout)
        frame.sample_rate = sample_rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def as_base64(path: Path) -> str:
    """Return a file's content as base64 text."""
    return base64.b64encode(path.read_bytes()).decode("ascii")
