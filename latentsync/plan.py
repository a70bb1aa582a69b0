"""Plans a run: who speaks when, which frames are shown, and the sound.

A request without segments has one speaker and one recording, which determines the length. With
segments the video plays to its end and keeps its own sound between them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from latentsync.errors import NoAudio
from latentsync.formats import SAMPLE_RATE, VIDEO_FPS, Waveform
from latentsync.media.limits import check_audio_length
from latentsync.media.mix import Heard, mix
from latentsync.media.probe import AudioInfo, VideoInfo, probe_audio
from latentsync.media.segments import (
    Place,
    cut_waveform,
    end_of,
    place_segment,
    plan_segment_frames,
)
from latentsync.media.sound import Block, Sound, Speech, read_sound, read_speech
from latentsync.media.timeline import plan_frames
from latentsync.monitor import RunMonitor
from latentsync.pipelines.base import Utterance
from latentsync.schema.responses import RunWarning, SegmentDetails
from latentsync.schema.run import RunRequest, Segment, segment_recording
from latentsync.settings import Settings


@dataclass(frozen=True)
class Recording:
    """A recording that has been fetched and probed."""

    path: Path
    info: AudioInfo


@dataclass(frozen=True, eq=False)
class RunPlan:
    """The plan of a run.

    Attributes:
        utterances: who says what when.
        frame_indices: int64 (frames,), the source frame of every output frame.
        open_sound: opens the sound of the output.
        segments: places of the segments, for the response.
        warnings: what is unusual about the recordings and how it is handled.
    """

    utterances: tuple[Utterance, ...]
    frame_indices: NDArray[np.int64]
    open_sound: Callable[[], Sound]
    segments: tuple[SegmentDetails, ...] = ()
    warnings: tuple[RunWarning, ...] = ()


def plan_run(
    request: RunRequest,
    video_path: Path,
    video: VideoInfo,
    recordings: Mapping[str, Recording],
    settings: Settings,
    monitor: RunMonitor,
) -> RunPlan:
    """Read the recordings and plan the run.

    Args:
        request: the request.
        video_path: the source video, whose own sound may be kept.
        video: its probe.
        recordings: by the names of :attr:`latentsync.schema.run.RunRequest.recordings`.
        settings: limits.
        monitor: checked between packets.

    Raises:
        InvalidField: a segment is outside of its recording or the video.
        AudioTooShort, MediaTooLong, UnreadableMedia, Canceled, DeadlineExceeded
    """
    if request.segments:
        return _Segments(request, video_path, video, recordings, settings, monitor).plan()
    recording = recordings["audio"]
    speech = _read(recording, settings, monitor)
    options = request.options
    duration_s = speech.waveform.size / SAMPLE_RATE
    frame_indices = plan_frames(options.sync_mode, video.num_frames, duration_s)
    utterance = Utterance(speech.waveform, 0, frame_indices.size, options.speaker)
    open_sound = partial(read_sound, recording.path, recording.info, monitor)
    return RunPlan((utterance,), frame_indices, open_sound, warnings=speech.warnings)


def _read(recording: Recording, settings: Settings, monitor: RunMonitor) -> Speech:
    speech = read_speech(recording.path, recording.info, monitor)
    check_audio_length(speech.waveform.size / SAMPLE_RATE, settings, recording.info.field)
    return speech


class _Segments:
    """Plans a request with segments."""

    def __init__(
        self,
        request: RunRequest,
        video_path: Path,
        video: VideoInfo,
        recordings: Mapping[str, Recording],
        settings: Settings,
        monitor: RunMonitor,
    ) -> None:
        self._request = request
        self._video_path = video_path
        self._video = video
        self._settings = settings
        self._monitor = monitor
        self._warnings: tuple[RunWarning, ...] = ()
        self._of_segment = [
            recordings["audio" if segment.audio is None else segment_recording(index)]
            for index, segment in enumerate(request.segments)
        ]

    def plan(self) -> RunPlan:
        """Return the plan; of each recording only the parts in use are kept."""
        places = self._place()
        frame_indices = plan_segment_frames(
            self._request.options.sync_mode,
            self._video.num_frames,
            places,
            self._settings,
            sync_mode_given=self._request.options.sync_mode_given,
        )
        num_frames = frame_indices.size
        utterances = tuple(
            Utterance(
                waveform,
                place.start,
                min(place.stop, num_frames),
                segment.speaker,
                f"{place.name}.speaker",
            )
            for segment, place, waveform in zip(
                self._request.segments, places, self._waveforms(places, num_frames), strict=True
            )
        )
        details = tuple(
            SegmentDetails(start_s=one.start / VIDEO_FPS, end_s=one.stop / VIDEO_FPS)
            for one in utterances
        )
        background = self._background()
        return RunPlan(
            utterances,
            frame_indices,
            partial(self._open_sound, background, num_frames),
            details,
            self._warnings,
        )

    def _place(self) -> list[Place]:
        pairs = zip(self._request.segments, self._of_segment, strict=True)
        return [
            place_segment(index, segment, recording.info.duration_s)
            for index, (segment, recording) in enumerate(pairs)
        ]

    def _waveforms(self, places: list[Place], num_frames: int) -> list[Waveform]:
        """Read each recording once and cut out its segments."""
        cut: dict[int, Waveform] = {}
        for recording in dict.fromkeys(self._of_segment):
            speech = _read(recording, self._settings, self._monitor)
            self._warnings += speech.warnings
            for index, place in enumerate(places):
                if self._of_segment[index] is recording:
                    cut[index] = cut_waveform(speech.waveform, place, num_frames)
        return [cut[index] for index in range(len(places))]

    def _open_sound(self, background: AudioInfo | None, num_frames: int) -> Sound:
        parts = [recording.info for recording in self._of_segment]
        infos = parts if background is None else [background, *parts]
        sample_rate = max(info.sample_rate for info in infos)
        layout = max((info.written_layout for info in infos), key=_num_channels)
        return mix(
            None if background is None else self._own_sound(background, sample_rate, layout),
            [
                self._heard(segment, recording, sample_rate, layout)
                for segment, recording in zip(self._request.segments, self._of_segment, strict=True)
            ],
            sample_rate=sample_rate,
            layout=layout,
            num_samples=num_frames * sample_rate // VIDEO_FPS,
        )

    def _background(self) -> AudioInfo | None:
        """Return the video's own sound, if it has one and the request keeps it."""
        if not self._request.options.keep_sound:
            return None
        try:
            info = probe_audio(self._video_path, self._settings, self._video.field)
        except NoAudio:
            return None
        self._warnings += info.warnings
        return info

    def _own_sound(self, info: AudioInfo, sample_rate: int, layout: str) -> Iterator[Block]:
        """Yield the video's own sound from its first frame to its last, without repetitions."""
        sound = read_sound(self._video_path, info, self._monitor, sample_rate, layout)
        lead = round((info.start_s - self._video.start_s) * sample_rate)
        silence = np.zeros((_num_channels(layout), max(0, lead)), np.float32)
        return _between(
            chain([silence], sound.blocks),
            max(0, -lead),
            self._video.num_frames * sample_rate // VIDEO_FPS,
        )

    def _heard(
        self, segment: Segment, recording: Recording, sample_rate: int, layout: str
    ) -> Heard:
        sound = read_sound(recording.path, recording.info, self._monitor, sample_rate, layout)
        return Heard(
            sound.blocks,
            skip=round(segment.audio_start_s * sample_rate),
            start=round(segment.start_s * sample_rate),
            stop=round(end_of(segment, recording.info.duration_s) * sample_rate),
        )


def _between(blocks: Iterator[Block], skip: int, count: int) -> Iterator[Block]:
    """Yield the blocks without their first ``skip`` samples, and at most ``count`` samples."""
    for block in blocks:
        part = block[:, skip : skip + count]
        skip -= min(skip, block.shape[1])
        count -= part.shape[1]
        yield part
        if count == 0:
            return


def _num_channels(layout: str) -> int:
    return av.AudioLayout(layout).nb_channels
