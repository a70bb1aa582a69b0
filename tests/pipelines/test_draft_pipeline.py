from __future__ import annotations

from threading import Event

import numpy as np
import pytest

from latentsync.errors import Canceled, EngineUnavailable, InvalidField, NoFace
from latentsync.face.geometry import LOWER_LIP_INNER, UPPER_LIP_INNER
from latentsync.face.tracker import track_faces
from latentsync.formats import SAMPLE_RATE, Frame
from latentsync.monitor import RunMonitor
from latentsync.pipelines.base import Utterance
from latentsync.pipelines.draft_pipeline import DraftPipeline
from latentsync.pipelines.registry import build_pipeline
from latentsync.schema.fields import SpeakerPoint
from latentsync.schema.run import RunOptions
from latentsync.settings import Settings
from tests.demo_media import FramesInMemory, demo_frames, demo_speech
from tests.utterances import whole


@pytest.fixture(scope="module")
def pipeline() -> DraftPipeline:
    return DraftPipeline()


def generate(pipeline, frames, speech, indices=None, monitor=None, speaker="auto"):
    """Run the pipeline over frames in memory; return (frames, report)."""
    indices = np.arange(len(frames)) if indices is None else np.asarray(indices)
    generation = pipeline(
        FramesInMemory(list(frames)),
        whole(speech, indices.size, speaker),
        frame_indices=indices,
        options=RunOptions(),
        monitor=monitor or RunMonitor(),
    )
    return list(generation.frames), generation.report


def lip_gap(frames) -> np.ndarray:
    points = track_faces(frames)[0].points.astype(float)
    return np.linalg.norm(points[:, UPPER_LIP_INNER] - points[:, LOWER_LIP_INNER], axis=1)


def test_the_registry_builds_it_by_name():
    built = build_pipeline("draft", Settings())
    assert (built.name, built.options_used) == ("draft", frozenset())
    with pytest.raises(EngineUnavailable, match="Known: draft"):
        build_pipeline("magic", Settings())


def test_the_lips_measured_again_follow_the_intended_motion_without_lag(pipeline):
    frames, speech = demo_frames()[:75], demo_speech()[: 3 * SAMPLE_RATE]
    finished, report = generate(pipeline, frames, speech)
    wanted = pipeline.plan_mouth(speech, len(frames), RunMonitor()).opening
    gap = lip_gap(finished)
    correlation = {
        lag: np.corrcoef(
            wanted[max(0, -lag) : 75 - max(0, lag)], gap[max(0, lag) : 75 + min(0, lag)]
        )
        for lag in (-2, -1, 0, 1, 2)
    }
    assert correlation[0][0, 1] > 0.9
    assert max(correlation, key=lambda lag: correlation[lag][0, 1]) == 0
    assert report.faces_found == 1
    assert report.frames_without_face == 0


def test_silence_closes_a_mouth_that_was_open(pipeline):
    speaking, _ = generate(pipeline, demo_frames()[:25], demo_speech()[: 25 * 640])
    frames = speaking[12:22]
    assert track_faces(frames)[0].lip_gaps.max() > 0.045  # of the eye distance
    finished, _ = generate(pipeline, frames, np.zeros(SAMPLE_RATE, np.float32))
    assert track_faces(finished)[0].lip_gaps.max() < 0.03


def test_the_upper_face_stays_bit_identical_in_every_frame(pipeline):
    frames = demo_frames()[:20]
    finished, _ = generate(pipeline, frames, demo_speech()[SAMPLE_RATE:][: 20 * 640])
    nose = track_faces(frames)[0].points[:, 1, 1].min()
    for before, after in zip(frames, finished, strict=True):
        assert np.array_equal(before[: int(nose)], after[: int(nose)])
        assert (before != after).any()


def test_frames_without_a_face_pass_through_and_are_counted(pipeline):
    blank = np.full_like(demo_frames()[0], 90)
    frames = [*demo_frames()[:6], blank, blank, *demo_frames()[6:12]]
    finished, report = generate(pipeline, frames, demo_speech()[: 14 * 640])
    assert np.array_equal(finished[6], blank)
    assert np.array_equal(finished[7], blank)
    assert report.frames_without_face == 2


def test_a_clip_without_any_face_says_in_how_many_frames_it_looked(pipeline):
    frames = [np.full((120, 160, 3), 128, np.uint8)] * 7
    with pytest.raises(NoFace, match="7 frames"):
        generate(pipeline, frames, demo_speech()[: 7 * 640])


def test_frames_come_out_in_the_order_asked_for(pipeline):
    indices = [0, 1, 2, 3, 2, 1, 0]
    finished, _ = generate(
        pipeline, demo_frames()[:4], np.zeros(7 * 640, np.float32), indices=indices
    )
    for output, source in zip(finished, indices, strict=True):
        assert np.array_equal(output[:100], demo_frames()[source][:100])


def test_only_the_frames_that_are_shown_are_searched(pipeline):
    blank = np.full_like(demo_frames()[0], 90)
    frames = [*demo_frames()[:4], *[blank] * 40]
    _, report = generate(pipeline, frames, demo_speech()[: 4 * 640], indices=range(4))
    assert report.frames_without_face == 0


def test_a_speaker_who_is_not_there_is_an_error_naming_the_field(pipeline):
    with pytest.raises(InvalidField) as caught:
        generate(
            pipeline,
            demo_frames()[:3],
            demo_speech()[: 3 * 640],
            speaker=SpeakerPoint(frame=0, point=(5.0, 500.0)),
        )
    assert caught.value.field == "speaker"


def test_cancellation_stops_the_run(pipeline):
    canceled = Event()
    canceled.set()
    with pytest.raises(Canceled):
        generate(
            pipeline, demo_frames()[:3], demo_speech()[:1920], monitor=RunMonitor(canceled=canceled)
        )


def test_stages_are_timed(pipeline):
    monitor = RunMonitor()
    generate(pipeline, demo_frames()[:3], demo_speech()[:1920], monitor=monitor)
    assert {"generate.listen", "generate.find_face"} <= set(monitor.seconds)


def test_two_runs_of_the_same_input_are_equal(pipeline):
    frames, speech = demo_frames()[:8], demo_speech()[8000 : 8000 + 8 * 640]
    first, _ = generate(pipeline, frames, speech)
    second, _ = generate(pipeline, frames, speech)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def two_people(count: int) -> list[Frame]:
    """The demo's face, and next to it the same face mirrored, 40 frames ahead."""
    frames = demo_frames()
    return [
        np.concatenate([frames[n], frames[n + 40][:, ::-1]], axis=1)[96:480] for n in range(count)
    ]


def test_two_people_speak_each_its_own_words(pipeline):
    frames = two_people(20)
    left, right = SpeakerPoint(frame=0, point=(256, 180)), SpeakerPoint(frame=0, point=(768, 180))
    words = demo_speech()[SAMPLE_RATE:]
    one = Utterance(words[: 15 * 640], 0, 15, left, "segments.0.speaker")
    other = Utterance(words[15 * 640 : 25 * 640], 10, 20, right, "segments.1.speaker")
    generation = pipeline(
        FramesInMemory(frames),
        [one, other],
        frame_indices=np.arange(20),
        options=RunOptions(),
        monitor=RunMonitor(),
    )
    finished = list(generation.frames)
    assert generation.report.faces_found == 2
    for index, (before, after) in enumerate(zip(frames, finished, strict=True)):
        changed = np.any(before != after, axis=2).any(axis=0)
        assert changed[:512].any() == (index < 15)
        assert changed[512:].any() == (index >= 10)


def test_one_person_cannot_say_two_things_at_once(pipeline):
    same = SpeakerPoint(frame=2, point=(256, 256))
    silence = np.zeros(SAMPLE_RATE, np.float32)
    utterances = [
        Utterance(silence, 0, 3, "auto", "segments.0.speaker"),
        Utterance(silence, 2, 4, same, "segments.1.speaker"),
    ]
    with pytest.raises(InvalidField, match="same person") as caught:
        pipeline(
            FramesInMemory(list(demo_frames()[:4])),
            utterances,
            frame_indices=np.arange(4),
            options=RunOptions(),
            monitor=RunMonitor(),
        )
    assert caught.value.field == "segments.1.speaker"
