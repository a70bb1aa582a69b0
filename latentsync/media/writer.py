"""Writes the MP4, with H.264 and AAC, and verifies it."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.video.stream import VideoStream

from latentsync.errors import CodecFailed
from latentsync.formats import VIDEO_FPS, Frame
from latentsync.media.channels import build_resampler
from latentsync.media.colour import Colour, ToYuv
from latentsync.media.container import describe
from latentsync.media.sound import Block, Sound, to_block
from latentsync.monitor import RunMonitor
from latentsync.workspace import is_disk_full, translate_disk_full

_ONE_FRAME_S = 1 / VIDEO_FPS


def verify_video(path: Path, num_frames: int) -> None:
    """Check that a written MP4 has all frames, sound of the same length, and can be decoded.

    Packets are counted without decoding; the first and the last group of pictures and the first
    sound are decoded.

    Raises:
        CodecFailed: the video is not as expected.
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


logger = logging.getLogger(__name__)

_VIDEO_OPTIONS = {"preset": "veryfast", "crf": "18"}
_KEYFRAME_EVERY = 2 * VIDEO_FPS  # frames: a keyframe every two seconds

_AAC_RATES = (
    *(96_000, 88_200, 64_000, 48_000, 44_100, 32_000),
    *(24_000, 22_050, 16_000, 12_000, 11_025, 8_000),
)
_AAC_BLOCK = 1024  # samples of one AAC packet
_AAC_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}
_BITS_PER_CHANNEL = 96_000  # per second; transparent for speech
_MOST_BITS_PER_SAMPLE = 4  # AAC allows 6; more than this is refused at 8 kHz


def write_video(
    path: Path,
    frames: Iterator[Frame],
    sound: Sound,
    *,
    num_frames: int,
    width: int,
    height: int,
    colour: Colour,
    monitor: RunMonitor,
) -> None:
    """Write frames and sound to ``path``, which appears only once it is complete and verified.

    The sound is cut or padded with silence to the length of the frames. H.264 in 4:2:0 requires
    even sides, so odd sides are extended by repeating the last row or column. The range is always
    limited, because players misinterpret full range; matrix, primaries and transfer are those of
    the source.

    Args:
        path: of the MP4; its folder is created if missing.
        frames: exactly ``num_frames`` frames, each height,width,3 uint8 RGB, 25 per second.
        sound: the recording, from the start of the video.
        num_frames: number of frames.
        width: width of the frames in pixels.
        height: height of the frames in pixels.
        colour: colour metadata of the source.
        monitor: checked between frames.

    Raises:
        CodecFailed: FFmpeg failed; nothing is left at ``path``.
        DiskFull, Canceled, DeadlineExceeded
        ValueError: the frames have another number, size or type.
    """
    with translate_disk_full():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{secrets.token_hex(8)}.part")
        try:
            with _Mp4(part, even_size(width, height), colour, sound, num_frames) as mp4:
                count = 0
                for frame in frames:
                    monitor.check()
                    _check_frame(frame, count, (height, width, 3), num_frames)
                    mp4.write(frame)
                    count += 1
                _check_count(count, num_frames)
            verify_video(part, num_frames)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def even_size(width: int, height: int) -> tuple[int, int]:
    """Return the size of the written picture: each side rounded up to an even number."""
    return width + width % 2, height + height % 2


class _Mp4:
    """An MP4 being written; a context manager that finishes it, or discards it on an error."""

    def __init__(
        self, path: Path, size: tuple[int, int], colour: Colour, sound: Sound, num_frames: int
    ) -> None:
        rate, layout = _aac_format(sound)
        with _codec_errors("open the output"):
            self._container = av.open(
                f"file:{path}", "w", format="mp4", options={"movflags": "+faststart"}
            )
        with ExitStack() as on_error, _codec_errors("start the encoders"):
            on_error.callback(self._drop)
            self._video = _add_video(self._container, size, colour)
            self._audio = _add_audio(self._container, rate, layout)
            on_error.pop_all()
        self._size = size
        self._to_yuv = ToYuv(colour)
        self._rate = rate
        num_samples = -(-num_frames * rate // VIDEO_FPS)
        blocks = _exactly(_convert(sound, rate, layout), num_samples, layout)
        self._sound = _aac_frames(blocks, rate, layout)
        self._frames_written = 0
        self._samples_written = 0

    def __enter__(self) -> _Mp4:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._drop()
            return
        with _codec_errors("finish the video"):
            self._container.mux(self._video.encode(None))
        self._write_sound_until(None)
        with _codec_errors("finish the file"):
            self._container.mux(self._audio.encode(None))
            self._container.close()

    def write(self, frame: Frame) -> None:
        """Encode one frame and its sound."""
        yuv = self._to_yuv(_pad(frame, self._size))
        yuv.pts = self._frames_written
        with _codec_errors("encode the video"):
            self._container.mux(self._video.encode(yuv))
        self._frames_written += 1
        self._write_sound_until(self._frames_written * self._rate // VIDEO_FPS)

    def _write_sound_until(self, sample: int | None) -> None:
        while sample is None or self._samples_written < sample:
            frame = next(self._sound, None)
            if frame is None:
                return
            self._samples_written += frame.samples
            with _codec_errors("encode the sound"):
                self._container.mux(self._audio.encode(frame))

    def _drop(self) -> None:
        try:
            self._container.close()
        except av.FFmpegError as error:  # another error is being raised
            logger.debug("Closing the unfinished video: %s", describe(error))


@contextmanager
def _codec_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except av.FFmpegError as error:
        if is_disk_full(error):
            raise
        raise CodecFailed(f"FFmpeg could not {doing}: {describe(error)}.") from error


def _add_video(container: OutputContainer, size: tuple[int, int], colour: Colour) -> VideoStream:
    stream = container.add_stream("libx264", rate=VIDEO_FPS, options=_VIDEO_OPTIONS)
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.gop_size = _KEYFRAME_EVERY
    context.thread_type = "FRAME"  # slices would cost quality
    context.color_range = 1
    context.colorspace = colour.matrix
    context.color_primaries = colour.primaries
    context.color_trc = colour.transfer
    return stream


def _add_audio(container: OutputContainer, rate: int, layout: str) -> AudioStream:
    channels = av.AudioLayout(layout).nb_channels
    stream = container.add_stream("aac", rate=rate)
    stream.codec_context.layout = layout
    stream.codec_context.bit_rate = channels * min(_BITS_PER_CHANNEL, _MOST_BITS_PER_SAMPLE * rate)
    return stream


def _aac_format(sound: Sound) -> tuple[int, str]:
    """Return the sample rate and layout of AAC nearest to the recording's."""
    rate = min(_AAC_RATES, key=lambda legal: abs(legal - sound.sample_rate))
    channels = av.AudioLayout(sound.layout).nb_channels
    return rate, _AAC_LAYOUTS.get(channels, "7.1" if channels == 7 else "stereo")


def _convert(sound: Sound, rate: int, layout: str) -> Iterator[Block]:
    """Yield the recording's blocks at the rate and layout of the encoder."""
    if (sound.sample_rate, sound.layout) == (rate, layout):
        yield from sound.blocks
        return
    resampler = build_resampler(layout, rate)
    for block in sound.blocks:
        yield from _resample(resampler, _to_frame(block, sound.sample_rate, sound.layout))
    yield from _resample(resampler, None)


def _resample(resampler: AudioResampler, frame: AudioFrame | None) -> list[Block]:
    with _codec_errors("convert the sound"):
        return [to_block(converted) for converted in resampler.resample(frame)]


def _exactly(blocks: Iterator[Block], num_samples: int, layout: str) -> Iterator[Block]:
    """Cut the blocks after ``num_samples`` samples, or pad them with silence."""
    missing, channels = num_samples, av.AudioLayout(layout).nb_channels
    for block in blocks:
        yield block[:, :missing]
        missing -= min(missing, block.shape[1])
        if missing == 0:
            return
    while missing:
        length = min(missing, _AAC_BLOCK)
        yield np.zeros((channels, length), np.float32)
        missing -= length


def _aac_frames(blocks: Iterator[Block], rate: int, layout: str) -> Iterator[AudioFrame]:
    """Yield frames of 1,024 samples, the last one shorter, with timestamps."""
    pending: list[Block] = []  # fewer than 1,024 samples between two blocks
    num_pending, start = 0, 0
    for block in blocks:
        pending.append(block)
        num_pending += block.shape[1]
        if num_pending < _AAC_BLOCK:
            continue
        joined = np.concatenate(pending, axis=1)
        num_pending %= _AAC_BLOCK
        whole = joined.shape[1] - num_pending
        for offset in range(0, whole, _AAC_BLOCK):
            packet = joined[:, offset : offset + _AAC_BLOCK]
            yield _to_frame(packet, rate, layout, start + offset)
        pending, start = [joined[:, whole:].copy()], start + whole
    if num_pending:
        yield _to_frame(np.concatenate(pending, axis=1), rate, layout, start)


def _to_frame(block: Block, rate: int, layout: str, start: int | None = None) -> AudioFrame:
    packed = np.ascontiguousarray(block.T).reshape(1, -1)
    frame = AudioFrame.from_ndarray(packed, format="flt", layout=layout)
    frame.sample_rate = rate
    frame.pts = start
    return frame


def _pad(frame: Frame, size: tuple[int, int]) -> Frame:
    height, width = frame.shape[:2]
    if (width, height) == size:
        return frame
    return np.pad(frame, ((0, size[1] - height), (0, size[0] - width), (0, 0)), mode="edge")


def _check_frame(frame: Frame, index: int, shape: tuple[int, int, int], num_frames: int) -> None:
    if index >= num_frames:
        _check_count(index + 1, num_frames)
    if frame.shape != shape or frame.dtype != np.uint8:
        raise ValueError(f"frame {index} is {frame.dtype} {frame.shape} instead of uint8 {shape}")


def _check_count(count: int, num_frames: int) -> None:
    if count != num_frames:
        raise ValueError(f"there are {count} frames or more instead of {num_frames}")
