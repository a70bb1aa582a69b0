"""A last look at a finished video, as its first viewer would see it."""

from __future__ import annotations

from pathlib import Path

import av
from av.container import InputContainer

from latentsync.errors import CodecFailed
from latentsync.formats import VIDEO_FPS
from latentsync.media.container import describe

_ONE_FRAME_S = 1 / VIDEO_FPS


def verify_video(path: Path, num_frames: int) -> None:
    """Check that a written MP4 has all its frames, sound of the same length, and decodes.

    Packets are counted without decoding; the first and the last group of pictures and the first
    sound are decoded.

    Raises:
        CodecFailed: with what is wrong.
    """
    try:
        with av.open(f"file:{path}", "r", format="mp4") as container:
            _check_lengths(container, num_frames)
            _check_decoding(container, num_frames)
    except av.FFmpegError as error:
        raise CodecFailed(f"The finished video cannot be read: {describe(error)}.") from error


def _check_lengths(container: InputContainer, num_frames: int) -> None:
    found, sound_s = 0, 0.0
    for packet in container.demux():
        if packet.stream.type == "video":
            found += packet.size > 0
        else:
            end = (packet.pts or 0) + (packet.duration or 0)
            sound_s = max(sound_s, float(end * packet.time_base))
    if found != num_frames:
        raise CodecFailed(f"The finished video has {found} of {num_frames} frames.")
    if abs(sound_s - num_frames / VIDEO_FPS) > _ONE_FRAME_S:
        raise CodecFailed(
            f"The finished sound lasts {sound_s:.3f} s, "
            f"the pictures {num_frames / VIDEO_FPS:.3f} s."
        )


def _check_decoding(container: InputContainer, num_frames: int) -> None:
    video, audio = container.streams.video[0], container.streams.audio[0]
    for stream in (video, audio):
        container.seek(0)
        if next(container.decode(stream), None) is None:
            raise CodecFailed(f"The finished {stream.type} does not decode from its start.")
    last_s = (num_frames - 1) / VIDEO_FPS
    container.seek(int(last_s * av.time_base))
    decoded_until_s = max((frame.time for frame in container.decode(video)), default=-1.0)
    if decoded_until_s < last_s - _ONE_FRAME_S / 2:
        raise CodecFailed("The finished video does not decode to its end.")
