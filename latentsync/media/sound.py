"""Reads a recording, as the waveform for a pipeline and as the sound of the output.

Both start with the first audible sample: encoder delay (MP3, AAC, Opus) is skipped where the file
marks it. Gaps in the timestamps become silence, so speech after a lost packet keeps its position.
"""

from __future__ import annotations  # the generics of av exist for type checkers only

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.packet import Packet
from numpy.typing import NDArray

from latentsync.errors import UnreadableMedia
from latentsync.formats import SAMPLE_RATE, Waveform
from latentsync.media import channels
from latentsync.media.channels import ChannelChoice, build_resampler
from latentsync.media.container import open_media, read_packets, unreadable_errors
from latentsync.media.limits import check_length
from latentsync.media.probe import AudioInfo, name_layout
from latentsync.monitor import RunMonitor
from latentsync.schema.responses import RunWarning, WarningCode

Block = NDArray[np.float32]  # (channels, samples), about -1..1

_GAP_S = 0.05  # shorter gaps between timestamps are rounding of the container
_JOINT_S = 0.002
_SILENCE_SAMPLES = 4096  # block size of silence in gaps
_ROUNDING_S = 0.01  # each change of the rate rounds up to whole samples
_LOUDEST = 1e6  # full scale is 1; float files on the scale of 16-bit integers are allowed
_AUDIO_PICTURE_PIXELS = 4096 * 4096  # cover art is never decoded


@dataclass(frozen=True)
class Sound:
    """A recording at its own rate and channels, decoded while ``blocks`` is consumed.

    Attributes:
        blocks: float32 (channels, samples) each, in order; can be iterated once.
        sample_rate: samples per second.
        layout: FFmpeg's name of the channel layout, such as ``stereo``.
    """

    blocks: Iterator[Block]
    sample_rate: int
    layout: str


@dataclass(frozen=True, eq=False)
class Speech:
    """What the lips follow of a recording.

    Attributes:
        waveform: float32 mono at 16 kHz, (num_samples,), about -1..1.
        warnings: which channels were chosen, if not the usual mix.
    """

    waveform: Waveform
    warnings: tuple[RunWarning, ...] = ()


def read_waveform(path: Path, info: AudioInfo, monitor: RunMonitor | None = None) -> Waveform:
    """Return the waveform of :func:`read_speech`."""
    return read_speech(path, info, monitor).waveform


def read_speech(path: Path, info: AudioInfo, monitor: RunMonitor | None = None) -> Speech:
    """Read what the lips follow of a recording: the mono mix, unless it loses the speech.

    Args:
        path: the file that was probed.
        info: what the probe found.
        monitor: checked between packets.

    Raises:
        MediaTooLong: sound and gaps together last longer than ``info.max_duration_s``.
        UnreadableMedia: it cannot be decoded, or has invalid samples.
        Canceled, DeadlineExceeded
    """
    choice = _choose(path, info, monitor)
    samples = bytearray()  # grows in place; blocks may have a single sample
    for block in _read_mono(path, info, choice, monitor):
        samples += block.tobytes()
    waveform = np.frombuffer(samples, np.float32)
    if not choice.description:
        return Speech(waveform)
    message = (
        f"The usual mix of the {av.AudioLayout(info.layout).nb_channels} channels of {info.field} "
        f"loses the speech; the lips follow {choice.description}."
    )
    return Speech(waveform, (RunWarning(code=WarningCode.CHANNEL_CHOSEN, message=message),))


def _read_mono(
    path: Path, info: AudioInfo, choice: ChannelChoice, monitor: RunMonitor | None
) -> Iterator[Block]:
    if choice.weights is None:
        yield from _read_blocks(path, info, "mono", SAMPLE_RATE, monitor)
        return
    weights = choice.weights.astype(np.float32)[None]
    for block in _read_blocks(path, info, info.layout, SAMPLE_RATE, monitor):
        yield weights @ block


def _choose(path: Path, info: AudioInfo, monitor: RunMonitor | None) -> ChannelChoice:
    """Decide which channels are heard, in one more pass over a recording that has several."""
    num_channels = av.AudioLayout(info.layout).nb_channels
    everything = tuple(range(num_channels))
    if num_channels == 1:
        return ChannelChoice(None, everything)
    has_mix = channels.mono_weights(info.layout) is not None
    variation = _measure(path, info, channels.first_candidates(info.layout), monitor)
    if has_mix and channels.keeps_speech(variation):
        return ChannelChoice(None, channels.audible_channels(variation))
    further = _measure(path, info, channels.further_candidates(variation), monitor)
    return channels.choose_channels(variation, further)


def _measure(
    path: Path, info: AudioInfo, mixes: channels.Weights, monitor: RunMonitor | None
) -> channels.Weights:
    meter = channels.LevelMeter(mixes)
    for block in _read_blocks(path, info, info.layout, SAMPLE_RATE, monitor):
        meter.feed(block)
    return meter.variation()


def read_sound(
    path: Path,
    info: AudioInfo,
    monitor: RunMonitor | None = None,
    sample_rate: int | None = None,
    layout: str | None = None,
) -> Sound:
    """Open the recording, by default at its own rate and channel layout.

    More than eight channels become stereo. Consuming its blocks raises the errors of
    :func:`read_speech`.
    """
    sample_rate, layout = sample_rate or info.sample_rate, layout or info.written_layout
    if layout != info.layout and channels.mono_weights(info.layout) is None:
        blocks = _mix_audible(path, info, layout, sample_rate, monitor)
    else:
        blocks = _read_blocks(path, info, layout, sample_rate, monitor)
    return Sound(blocks=blocks, sample_rate=sample_rate, layout=layout)


def _mix_audible(
    path: Path, info: AudioInfo, layout: str, sample_rate: int, monitor: RunMonitor | None
) -> Iterator[Block]:
    """Yield the mean of the audible channels on all sides, for channels without positions."""
    audible = list(_choose(path, info, monitor).audible)
    num_channels = av.AudioLayout(layout).nb_channels
    for block in _read_blocks(path, info, info.layout, sample_rate, monitor):
        yield np.repeat(block[audible].mean(axis=0, keepdims=True), num_channels, axis=0)


def _read_blocks(
    path: Path, info: AudioInfo, layout: str, sample_rate: int, monitor: RunMonitor | None
) -> Iterator[Block]:
    """Yield the recording's blocks and check their samples and total length."""
    monitor = monitor or RunMonitor()
    num_samples = 0
    for block in _convert_file(path, info, layout, sample_rate, monitor):
        monitor.check()
        num_samples += block.shape[1]
        check_length(num_samples / sample_rate - _ROUNDING_S, info.max_duration_s, info.field)
        _check_samples(block, info.field)
        yield block


def _check_samples(block: Block, field: str) -> None:
    if not np.abs(block).max(initial=0) <= _LOUDEST:  # also refuses NaN
        raise UnreadableMedia(
            f"{field} has samples that are not numbers or exceed {_LOUDEST:.0f} times full scale.",
            field=field,
        )


def _convert_file(
    path: Path, info: AudioInfo, layout: str, sample_rate: int, monitor: RunMonitor
) -> Iterator[Block]:
    """Decode, fill gaps and convert; damaged packets become gaps."""
    with (
        open_media(path, info.field, _AUDIO_PICTURE_PIXELS) as container,
        unreadable_errors(info.field),
    ):
        stream = container.streams[info.stream_index]
        assert isinstance(stream, AudioStream)
        name_layout(stream)
        convert = _Converter(layout, sample_rate)
        num_channels = av.AudioLayout(layout).nb_channels
        packets = info.clock.mend(read_packets(container, stream))
        num_samples = 0
        unit_s = float(stream.time_base or 1)
        joints_s = [joint * unit_s for joint in info.clock.joints]
        for gap_s, frame, is_last in _place(_decode(packets, monitor), joints_s):
            blocks: Iterator[Block] = chain(
                _silence(num_channels, round(gap_s * sample_rate)),
                convert(frame),
                convert(None) if is_last else (),
            )
            if is_last:  # decoders fill up the last frame
                blocks = _cut(blocks, round(info.duration_s * sample_rate) - num_samples)
            for block in blocks:
                num_samples += block.shape[1]
                yield block


def _place(
    frames: Iterator[AudioFrame], joints_s: Sequence[float]
) -> Iterator[tuple[float, AudioFrame, bool]]:
    """Yield each frame with the gap in front of it, in seconds, and whether it is the last.

    Short gaps are rounding of the container, except where sections of the file were joined.
    """
    started_s, heard_s = None, 0.0
    left_s = deque(joints_s)
    frame = next(frames, None)
    while frame is not None:
        following = next(frames, None)
        gap_s = 0.0
        if frame.time is not None:
            started_s = frame.time if started_s is None else started_s
            gap_s = frame.time - started_s - heard_s
            kept_s = _GAP_S
            while left_s and frame.time > left_s[0] - _JOINT_S:
                left_s.popleft()
                kept_s = _JOINT_S
            if abs(gap_s) <= kept_s:
                gap_s = 0.0
            else:
                started_s = frame.time - heard_s
        yield max(0.0, gap_s), frame, following is None
        heard_s += frame.samples / frame.sample_rate
        frame = following


def _cut(blocks: Iterator[Block], num_samples: int) -> Iterator[Block]:
    """Cut the blocks after ``num_samples`` samples; if it is negative, the file was wrong."""
    for block in blocks:
        if num_samples < 0:
            yield block
            continue
        yield block[:, :num_samples]
        num_samples -= min(num_samples, block.shape[1])


def _silence(num_channels: int, num_samples: int) -> Iterator[Block]:
    for start in range(0, num_samples, _SILENCE_SAMPLES):
        length = min(_SILENCE_SAMPLES, num_samples - start)
        yield np.zeros((num_channels, length), np.float32)


def _decode(packets: Iterator[Packet[AudioStream]], monitor: RunMonitor) -> Iterator[AudioFrame]:
    for packet in packets:
        monitor.check()  # also while all packets are damaged
        try:
            frames = packet.decode()
        except av.FFmpegError:
            continue  # the gap in the timestamps becomes silence
        yield from (frame for frame in frames if frame.samples)


def to_block(frame: AudioFrame) -> Block:
    """Return the samples of a packed float frame."""
    samples = np.asarray(frame.to_ndarray(), dtype=np.float32)
    return samples.reshape(-1, frame.layout.nb_channels).T


class _Converter:
    """Converts decoded frames of any rate, layout and depth to blocks of one kind."""

    def __init__(self, layout: str, sample_rate: int) -> None:
        self._layout, self._sample_rate = layout, sample_rate
        self._resampler: AudioResampler | None = None
        self._kind: tuple[int, str, str] | None = None

    def __call__(self, frame: AudioFrame | None) -> Iterator[Block]:
        """Yield the converted blocks of ``frame``; None flushes the converter."""
        if frame is None:
            yield from self._push(None)
            return
        kind = (frame.sample_rate, frame.format.name, frame.layout.name)
        if kind != self._kind:  # streams may change their rate or channels
            yield from self._push(None)
            self._kind = kind
            self._resampler = build_resampler(self._layout, self._sample_rate)
        frame.pts = None
        yield from self._push(frame)

    def _push(self, frame: AudioFrame | None) -> Iterator[Block]:
        if self._resampler is None:
            return
        for converted in self._resampler.resample(frame):
            yield to_block(converted)
