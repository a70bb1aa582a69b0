"""Places segments on the frames of the output, and cuts their recordings.

A segment starts and ends at the frame nearest to the requested time, so that consecutive segments
do not share a frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentsync.errors import InvalidField
from latentsync.formats import ROUNDING, SAMPLE_RATE, VIDEO_FPS, Waveform
from latentsync.media.limits import check_length
from latentsync.media.timeline import extend_frames
from latentsync.schema.fields import SyncMode
from latentsync.schema.run import Segment
from latentsync.settings import Settings

SPEAKERS_AT_ONCE_MAX = 4  # each costs its waveform and a pass of the engine
_SAMPLES_PER_FRAME = SAMPLE_RATE // VIDEO_FPS
_ROUNDED_DIGITS = 6  # decimals of a number of frames; further ones are rounding errors
_LEAST_S = 1 / VIDEO_FPS  # shortest remaining part of a recording


@dataclass(frozen=True)
class Place:
    """A segment's place in the output.

    Attributes:
        name: of the segment, for error messages, such as ``segments.2``.
        start, stop: the output frames that it covers, stop excluded.
        skip_s: seconds of its recording before frame ``start``; negative if the recording begins
            later.
    """

    name: str
    start: int
    stop: int
    skip_s: float

    @property
    def start_s(self) -> float:
        """Start in seconds of the output."""
        return self.start / VIDEO_FPS


def end_of(segment: Segment, recording_s: float) -> float:
    """Return the end of a segment in seconds of the output.

    Args:
        segment: the requested segment.
        recording_s: length of its recording.
    """
    if segment.end_s is not None:
        return segment.end_s
    return segment.start_s + recording_s - segment.audio_start_s


def place_segment(index: int, segment: Segment, recording_s: float) -> Place:
    """Return the place of a segment.

    Args:
        index: its number in the request, for messages.
        segment: the requested segment.
        recording_s: length of its recording.

    Raises:
        InvalidField: it starts after the end of its recording.
    """
    name = f"segments.{index}"
    if recording_s - segment.audio_start_s < _LEAST_S - ROUNDING:
        raise InvalidField(
            f"{name}.audio_start_s is {segment.audio_start_s:g}, but the recording lasts "
            f"{recording_s:.2f} s.",
            field=f"{name}.audio_start_s",
        )
    end_s = end_of(segment, recording_s)
    start = _nearest_frame(segment.start_s)
    stop = max(start + 1, _nearest_frame(end_s))
    return Place(name, start, stop, segment.audio_start_s + start / VIDEO_FPS - segment.start_s)


def plan_segment_frames(
    sync_mode: SyncMode,
    num_source_frames: int,
    places: Sequence[Place],
    settings: Settings,
    *,
    sync_mode_given: bool = True,
) -> NDArray[np.int64]:
    """Return the source frame of each output frame, int64 (num_output_frames,).

    The video plays to its end. If segments continue after it, ``sync_mode`` determines the frames.

    Args:
        sync_mode: ``cut_off`` ends with the video, the others with the last segment.
        num_source_frames: frames of the source at 25 fps, at least 1.
        places: of the segments.
        settings: limits of the length.
        sync_mode_given: whether the request has it. Otherwise a segment that starts after the end
            of the video is refused as a mistake.

    Raises:
        InvalidField: a segment starts after the end, or too many people speak at once.
        MediaTooLong: the last segment ends after the maximum duration.
    """
    _check_simultaneous(places)
    for place in places:
        _check_start(place, num_source_frames, sync_mode, sync_mode_given)
    num_frames = num_source_frames
    if sync_mode is not SyncMode.CUT_OFF:
        num_frames = max(num_frames, *(place.stop for place in places))
    for place in places:
        check_length(min(place.stop, num_frames) / VIDEO_FPS, settings.max_duration_s, place.name)
    return extend_frames(sync_mode, num_source_frames, num_frames)


def cut_waveform(waveform: Waveform, place: Place, num_frames: int) -> Waveform:
    """Return the waveform of a segment: its part of the recording, padded with silence.

    Args:
        waveform: float32 mono 16 kHz, the whole recording.
        place: the segment's.
        num_frames: of the output; a segment may continue after its end.

    Returns:
        float32 (samples,), 640 for each frame of the segment; a copy.
    """
    num_samples = (min(place.stop, num_frames) - place.start) * _SAMPLES_PER_FRAME
    skip = round(place.skip_s * SAMPLE_RATE)
    heard = np.zeros(num_samples, np.float32)
    lead = max(0, -skip)
    part = waveform[max(0, skip) : max(0, skip + num_samples)]
    heard[lead : lead + part.size] = part
    return heard


def _check_start(
    place: Place, num_source_frames: int, sync_mode: SyncMode, sync_mode_given: bool
) -> None:
    """Refuse a segment after the end of the video, unless ``sync_mode`` extends the video."""
    if place.start < num_source_frames:
        return
    if not sync_mode_given:
        hint = "; to continue after it, set sync_mode to bounce, loop or silence"
    elif sync_mode is SyncMode.CUT_OFF:
        hint = " and sync_mode is cut_off"
    else:
        return
    raise InvalidField(
        f"{place.name}.start_s is {place.start_s:g}, but the video ends at "
        f"{num_source_frames / VIDEO_FPS:g} s{hint}.",
        field=f"{place.name}.start_s",
    )


def _nearest_frame(moment_s: float) -> int:
    """Return the frame nearest to a time, halves to even.

    Times that differ by rounding errors only, such as 0.1 and 0.3 - 0.2, have the same frame.
    """
    return round(round(moment_s * VIDEO_FPS, _ROUNDED_DIGITS))


def _check_simultaneous(places: Sequence[Place]) -> None:
    for place in places:
        speaking = [other.name for other in places if other.start <= place.start < other.stop]
        if len(speaking) > SPEAKERS_AT_ONCE_MAX:
            raise InvalidField(
                f"{', '.join(speaking)} all speak at {place.start_s:g} s "
                f"(allowed: {SPEAKERS_AT_ONCE_MAX} at once).",
                field=place.name,
            )
