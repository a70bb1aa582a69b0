"""Make example_video.mp4 and example_audio.ogg, which the examples of the API's document hold.

    python assets/make_examples.py

They are cut from the demo clip and the demo speech and kept as small as a face and a few words
allow, because they stand in the document as base64 text.
"""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import cv2
from av.bitstream import BitStreamFilterContext

HERE = Path(__file__).resolve().parent
CROP = (80, 30, 352)  # left, top, side in pixels of the demo clip: the face
SIDE = 128  # pixels
FPS = 25
QUALITY = {"crf": "38", "preset": "veryslow", "bf": "0"}
SPEECH_S = 1.0  # "From fairest creatures"
SPEECH_RATE = 16_000
SPEECH_BITS_PER_SECOND = 8_000
_NO_ENCODER_NOTE = "filter_units=remove_types=6"  # x264 writes its settings into each file


def main() -> None:
    """Write both files."""
    _strip(_encode_face(HERE / "demo_video.mp4"), HERE / "example_video.mp4")
    _encode_speech(HERE / "demo_audio.wav", HERE / "example_audio.ogg")


def _encode_face(source: Path) -> io.BytesIO:
    """Return the first frame's face as a clip of one frame."""
    with av.open(str(source)) as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    left, top, side = CROP
    face = cv2.resize(
        frame[top : top + side, left : left + side], (SIDE, SIDE), None, 0, 0, cv2.INTER_AREA
    )
    encoded = io.BytesIO()
    with av.open(encoded, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options=QUALITY)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        picture = av.VideoFrame.from_ndarray(face, format="rgb24")
        picture.pts, picture.time_base = 0, Fraction(1, FPS)
        container.mux([*stream.encode(picture), *stream.encode()])
    encoded.seek(0)
    return encoded


def _strip(encoded: io.BytesIO, path: Path) -> None:
    with (
        av.open(encoded) as source,
        av.open(str(path), "w", options={"fflags": "+bitexact"}) as target,
    ):
        stream = source.streams.video[0]
        copied = target.add_stream_from_template(stream)
        strip = BitStreamFilterContext(_NO_ENCODER_NOTE, stream, copied)
        packets = [packet for packet in source.demux(stream) if packet.dts is not None]
        for packet in [*packets, None]:
            for stripped in strip.filter(packet):
                stripped.stream = copied
                target.mux(stripped)


def _encode_speech(source: Path, path: Path) -> None:
    with (
        av.open(str(source)) as demo,
        av.open(str(path), "w", options={"fflags": "+bitexact"}) as target,
    ):
        stream = target.add_stream("libopus", rate=SPEECH_RATE, options={"application": "voip"})
        stream.layout = "mono"
        stream.bit_rate = SPEECH_BITS_PER_SECOND
        resampler = av.AudioResampler("s16", "mono", SPEECH_RATE)
        left = int(SPEECH_S * SPEECH_RATE)
        for frame in demo.decode(audio=0):
            for part in resampler.resample(frame):
                if left > 0:
                    target.mux(stream.encode(part))
                    left -= part.samples
        target.mux(stream.encode())


if __name__ == "__main__":
    main()
