"""The draft engine: lips drawn from the sounds of speech, without weights, GPU or network.

It hears phones, plans a mouth shape per frame, finds the speaker's face and moves the lower face
to those shapes. It is a stand-in for the diffusion engines and says so in every answer: lips open,
close and round with the words, but teeth and tongue are painted and the rest of the expression
stays the source's own.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

import numpy as np
from numpy.typing import NDArray

from latentsync.audio.activity import detect_voice, loudness_gain, measure_loudness_db
from latentsync.audio.phones import PhoneRecognizer
from latentsync.config import read_config
from latentsync.draft.config import DraftConfig
from latentsync.draft.face_writer import FaceWriter
from latentsync.draft.motion import MouthMotion, plan_motion
from latentsync.draft.mouth import Mouth
from latentsync.face.smoothing import smooth_track
from latentsync.face.speaker import check_frame, choose_speaker
from latentsync.face.track import FaceTrack
from latentsync.face.tracker import track_faces
from latentsync.formats import Frame, Waveform
from latentsync.monitor import RunMonitor
from latentsync.pipelines.base import FrameSource, Generation, GenerationReport
from latentsync.schema import RunOptions
from latentsync.settings import Settings


class DraftPipeline:
    """The embedded default engine. Built once; safe to call from several threads."""

    name = "draft"

    def __init__(self) -> None:
        self._config = read_config("draft", DraftConfig)
        self.model_version = self._config.model_version
        self._recognizer = PhoneRecognizer()

    def __call__(
        self,
        source: FrameSource,
        waveform: Waveform,
        *,
        frame_indices: NDArray[np.int64],
        options: RunOptions,
        monitor: RunMonitor,
    ) -> Generation:
        """Make the lips say ``waveform``; see :class:`latentsync.pipelines.base.Pipeline`."""
        # 1. Listen
        monitor.report("listen", 0.0)
        with monitor.timed("generate.listen"):
            motion = self.plan_mouth(waveform, len(frame_indices), monitor)
        # 2. Find the speaker in every source frame that is needed
        report = GenerationReport()
        with monitor.timed("generate.find_face"):
            track = find_speaker(source, frame_indices, options, monitor, report)
        # 3. Draw the mouth, frame by frame as they are taken
        writer = FaceWriter(Mouth(track.points), self._config.mouth)
        return Generation(_draw(source, frame_indices, track, writer, motion, report), report)

    def plan_mouth(self, waveform: Waveform, num_frames: int, monitor: RunMonitor) -> MouthMotion:
        """Return the mouth's motion for the speech: what the lips are meant to do in each frame."""
        loudness_db = measure_loudness_db(waveform)
        voiced = detect_voice(waveform, loudness_db)
        phones = self._recognizer.recognize(waveform, voiced, monitor.check)
        loudness = loudness_gain(loudness_db, voiced)
        return plan_motion(phones, loudness, voiced, num_frames, self._config.motion)


def build_draft(_name: str, _settings: Settings, _check: Callable[[], None]) -> DraftPipeline:
    """Build the engine; it has nothing to set and nothing to fetch."""
    return DraftPipeline()


def find_speaker(
    source: FrameSource,
    frame_indices: NDArray[np.int64],
    options: RunOptions,
    monitor: RunMonitor,
    report: GenerationReport,
) -> FaceTrack:
    """Return the smoothed face of the speaker through the source; raises NoFace, InvalidField."""
    check_frame(options.speaker, source.num_frames)
    last = int(frame_indices.max(initial=0))
    if options.speaker != "auto":
        last = max(last, options.speaker.frame)
    num_frames = min(last + 1, source.num_frames)
    tracks = track_faces(_reported(source.read(range(num_frames)), num_frames, monitor))
    report.faces_found = len(tracks)
    return smooth_track(choose_speaker(tracks, options.speaker, num_frames=num_frames))


def _reported(frames: Iterator[Frame], num_frames: int, monitor: RunMonitor) -> Iterator[Frame]:
    """Pass the frames on, telling the listener how many have been searched."""
    for index, frame in enumerate(frames):
        monitor.report("find_face", (index + 1) / num_frames, index + 1, num_frames)
        yield frame


def _draw(
    source: FrameSource,
    frame_indices: NDArray[np.int64],
    track: FaceTrack,
    writer: FaceWriter,
    motion: MouthMotion,
    report: GenerationReport,
) -> Generator[Frame, None, None]:
    for output_index, frame in enumerate(source.read(frame_indices)):
        source_index = int(frame_indices[output_index])
        points = track.at(source_index)
        if points is None:
            report.frames_without_face += 1
            yield frame
        else:
            shape = motion.shape_at(output_index)
            yield writer.write(frame, points, shape, shot=track.shot_at(source_index))
