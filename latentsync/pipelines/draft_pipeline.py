"""The draft engine: lips drawn from the sounds of speech, without weights, GPU or network.

It recognizes phones, plans a mouth shape per frame, finds the speaker's face and warps the lower
face to those shapes. It is a preview of what the diffusion engines do: lips open, close and round
with the words, but teeth and tongue are painted and the rest of the face does not change.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from latentsync.config import read_config
from latentsync.face.smoothing import smooth_track
from latentsync.face.speaker import choose_speaker
from latentsync.face.track import FaceTrack
from latentsync.face.tracker import track_faces
from latentsync.formats import Frame, Waveform
from latentsync.monitor import RunMonitor
from latentsync.pipelines import compositing
from latentsync.pipelines.base import FrameSource, Generation, GenerationReport, Utterance
from latentsync.pipelines.draft.interior import FaceWriter
from latentsync.pipelines.draft.motion import MouthMotion, plan_motion
from latentsync.pipelines.draft.mouth import Mouth
from latentsync.pipelines.draft.phones import (
    PhoneRecognizer,
    detect_voice,
    loudness_gain,
    measure_loudness_db,
)
from latentsync.pipelines.draft.visemes import DraftConfig
from latentsync.schema.run import RunOptions
from latentsync.settings import Settings


class DraftPipeline:
    """The engine that is part of the package. Safe to call from several threads."""

    name = "draft"
    options_used: Collection[str] = frozenset()  # it has no sampler

    def __init__(self) -> None:
        self._config = read_config("draft", DraftConfig)
        self.model_version = self._config.model_version
        self._recognizer = PhoneRecognizer()

    def __call__(
        self,
        source: FrameSource,
        utterances: Sequence[Utterance],
        *,
        frame_indices: NDArray[np.int64],
        options: RunOptions,
        monitor: RunMonitor,
    ) -> Generation:
        """Generate the output; see :class:`latentsync.pipelines.base.Pipeline`."""
        # 1. Analyse the speech
        monitor.report("listen", 0.0)
        with monitor.timed("generate.listen"):
            motions = [
                self.plan_mouth(one.waveform, one.stop - one.start, monitor) for one in utterances
            ]
        # 2. Find the speakers in the source frames that are shown
        report = GenerationReport()
        with monitor.timed("generate.find_face"):
            tracks, faces = find_speakers(source, frame_indices, utterances, monitor, report)
        compositing.check_mouths(utterances, faces)
        # 3. Draw the mouths, frame by frame on demand
        writers = {
            face: FaceWriter(Mouth(track.points), self._config.mouth)
            for face, track in zip(faces, tracks, strict=True)
        }

        def begin(number: int) -> compositing.FrameEdits:
            """Start an utterance; see :func:`latentsync.pipelines.compositing.composite`."""
            one = utterances[number]
            indices = frame_indices[one.start : one.stop]
            return _draw(source, indices, tracks[number], writers[faces[number]], motions[number])

        frames = compositing.composite(source, frame_indices, utterances, faces, begin, report)
        return Generation(frames, report)

    def plan_mouth(self, waveform: Waveform, num_frames: int, monitor: RunMonitor) -> MouthMotion:
        """Return the planned motion of the mouth for the speech."""
        loudness_db = measure_loudness_db(waveform)
        voiced = detect_voice(waveform, loudness_db)
        phones = self._recognizer.recognize(waveform, voiced, monitor.check)
        loudness = loudness_gain(loudness_db, voiced)
        return plan_motion(phones, loudness, voiced, num_frames, self._config.motion)


def build_draft(_name: str, _settings: Settings, _check: Callable[[], None]) -> DraftPipeline:
    """Build the engine; it has no settings and no weights."""
    return DraftPipeline()


def find_speakers(
    source: FrameSource,
    frame_indices: NDArray[np.int64],
    utterances: Sequence[Utterance],
    monitor: RunMonitor,
    report: GenerationReport,
) -> tuple[list[FaceTrack], list[int]]:
    """Return the smoothed face of each utterance's speaker, and that face's number.

    Raises:
        NoFace: there is no face, or a speaker has no usable face in any frame of an utterance.
        InvalidField: there is no face at the given position.
    """
    choices = compositing.choices_of(utterances, source.num_frames)
    num_frames = compositing.num_frames_searched(frame_indices, utterances, source.num_frames)
    tracks = track_faces(_reported(source.read(range(num_frames)), num_frames, monitor))
    report.faces_found = len(tracks)
    faces = [choose_speaker(tracks, choice, num_frames) for choice in choices]
    compositing.check_seen(utterances, frame_indices, [tracks[face].present for face in faces])
    smoothed = {face: smooth_track(tracks[face]) for face in set(faces)}
    return [smoothed[face] for face in faces], faces


def _reported(frames: Iterator[Frame], num_frames: int, monitor: RunMonitor) -> Iterator[Frame]:
    """Yield the frames and report progress."""
    for index, frame in enumerate(frames):
        monitor.report("find_face", (index + 1) / num_frames, index + 1, num_frames)
        yield frame


def _draw(
    source: FrameSource,
    frame_indices: NDArray[np.int64],
    track: FaceTrack,
    writer: FaceWriter,
    motion: MouthMotion,
) -> compositing.FrameEdits:
    """Yield the edit of each frame of one utterance."""
    for number, frame in enumerate(source.read(frame_indices)):
        source_index = int(frame_indices[number])
        points = track.at(source_index)
        if points is None:
            yield compositing.FrameEdit(frame, None)
            continue
        yield compositing.FrameEdit(
            frame,
            partial(
                writer.write,
                points=points,
                shape=motion.shape_at(number),
                shot=track.shot_at(source_index),
            ),
        )
