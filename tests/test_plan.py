"""Requests with segments through the runner: speakers, pictures and sound."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from latentsync.errors import AudioTooShort, InvalidField, MediaTooLong
from latentsync.formats import SAMPLE_RATE, VIDEO_FPS, Frame
from latentsync.monitor import RunMonitor
from latentsync.pipelines.base import FrameSource, Generation, GenerationReport, Utterance
from latentsync.runner import Result, run
from latentsync.schema.fields import SpeakerPoint, SyncMode
from latentsync.schema.run import PathSource, RunOptions, RunRequest, Segment
from latentsync.settings import Settings
from tests.media.makers import make_sound, make_video, read_number, tone
from tests.utterances import is_loud

STEP = SAMPLE_RATE // VIDEO_FPS
LEFT, RIGHT = SpeakerPoint(frame=0, point=(1, 1)), SpeakerPoint(frame=0, point=(90, 1))


class LampPipeline:
    """A small engine: each speaker has a lamp, which burns while what it says is loud."""

    name = "lamp"
    model_version = "1"

    def __call__(
        self,
        source: FrameSource,
        utterances: Sequence[Utterance],
        *,
        frame_indices: NDArray[np.int64],
        options: RunOptions,
        monitor: RunMonitor,
    ) -> Generation:
        self.utterances = utterances

        def frames() -> Iterator[Frame]:
            for index, frame in enumerate(source.read(frame_indices.tolist())):
                frame[32:] = 0
                for one in utterances:
                    if is_loud(one, index):
                        frame[32:, slice(48) if one.speaker == LEFT else slice(48, 96)] = 255
                yield frame

        return Generation(frames(), GenerationReport(faces_found=2))


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return make_video(tmp_path / "in.mp4", 50, size=(96, 64))


def beep(path: Path, duration_s: float, rate: int = 16_000, before_s: float = 0.0) -> Path:
    samples = tone(before_s + duration_s, rate, 1, hz=1000)
    samples[:, : round(before_s * rate)] = 0
    return make_sound(path, samples, rate)


def segment(audio: Path | None, **fields: object) -> Segment:
    source = None if audio is None else PathSource(audio, "segments.0.audio_url")
    return Segment(source, **fields)  # type: ignore[arg-type]


def make(
    video: Path,
    tmp_path: Path,
    settings: Settings,
    *segments: Segment,
    audio: Path | None = None,
    **options: object,
) -> Result:
    request = RunRequest(
        PathSource(video, "video_url"),
        None if audio is None else PathSource(audio, "audio_url"),
        RunOptions(**{"sync_mode": SyncMode.BOUNCE, **options}),  # type: ignore[arg-type]
        segments,
    )
    return run(request, tmp_path / "out.mp4", settings=settings, pipeline=LampPipeline())


def seen(path: Path) -> tuple[list[int], list[str]]:
    """Return the source frame's number and the lamps that burn, per frame."""
    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    lamps = [
        "".join(
            name
            for name, part in (("L", picture[36:, 4:44]), ("R", picture[36:, 52:92]))
            if part.mean() > 128
        )
        for picture in pictures
    ]
    return [read_number(picture[:28]) for picture in pictures], lamps


def loudness(path: Path) -> NDArray[np.float32]:
    """Return the mean level of the sound in the middle half of every frame."""
    with av.open(str(path)) as container:
        packer = av.AudioResampler("flt", "mono", SAMPLE_RATE)
        frames = [*container.decode(audio=0), None]
        samples = np.concatenate([p.to_ndarray()[0] for f in frames for p in packer.resample(f)])
    middle = np.abs(samples[: samples.size // STEP * STEP].reshape(-1, STEP)[:, 160:480])
    return middle.mean(axis=1)


def spans(flags: Sequence[bool]) -> list[tuple[int, int]]:
    """Return the runs of true ones, first and behind the last."""
    edges = np.flatnonzero(np.diff([False, *flags, False]))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def test_two_people_speak_each_in_its_time(video: Path, tmp_path: Path, settings: Settings) -> None:
    result = make(
        video,
        tmp_path,
        settings,
        segment(beep(tmp_path / "a.wav", 0.8), start_s=0.2, speaker=LEFT),
        segment(beep(tmp_path / "b.wav", 1.2, 44_100), start_s=0.6, end_s=1.4, speaker=RIGHT),
    )
    numbers, lamps = seen(result.video_path)
    assert numbers == list(range(50))
    assert spans(["L" in lamp for lamp in lamps]) == [(5, 25)]
    assert spans(["R" in lamp for lamp in lamps]) == [(15, 35)]
    assert spans(list(loudness(result.video_path) > 0.1)) == [(5, 35)]
    assert [(one.start_s, one.end_s) for one in result.details.segments] == [(0.2, 1.0), (0.6, 1.4)]
    assert (result.details.frames, result.details.duration_s) == (50, 2.0)


def test_parts_of_one_recording_are_said_where_they_are_put(
    video: Path, tmp_path: Path, settings: Settings
) -> None:
    speech = beep(tmp_path / "a.wav", 0.4, before_s=0.6)
    result = make(
        video,
        tmp_path,
        settings,
        segment(None, start_s=0.0, end_s=0.6, speaker=LEFT),  # silence
        segment(None, start_s=1.2, end_s=1.6, audio_start_s=0.6, speaker=RIGHT),
        audio=speech,
    )
    _, lamps = seen(result.video_path)
    assert spans([bool(lamp) for lamp in lamps]) == [(30, 40)]
    assert spans(list(loudness(result.video_path) > 0.1)) == [(30, 40)]


def with_sound(video: Path, path: Path, level: float) -> Path:
    """Return a copy of the video with a steady tone."""
    with av.open(str(video)) as source, av.open(str(path), "w") as target:
        pictures = target.add_stream_from_template(source.streams.video[0])
        sound = target.add_stream("aac", rate=48_000)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = pictures
                target.mux(packet)
        samples = (tone(2.0, 48_000, 1, hz=500) * level).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 48_000
        target.mux(sound.encode(frame))
        target.mux(sound.encode(None))
    return path


@pytest.mark.parametrize("keep_sound", [True, False])
def test_the_videos_own_sound_is_heard_outside_the_segments(
    video: Path, tmp_path: Path, settings: Settings, keep_sound: bool
) -> None:
    result = make(
        with_sound(video, tmp_path / "loud.mp4", 0.2),
        tmp_path,
        settings,
        segment(beep(tmp_path / "a.wav", 0.8), start_s=0.4, speaker=LEFT),
        segment(beep(tmp_path / "b.wav", 1.0), start_s=2.0, speaker=LEFT),
        keep_sound=keep_sound,
    )
    levels = loudness(result.video_path)
    own = levels[2:8].mean()
    assert own > 0.02 if keep_sound else own < 0.001
    assert (levels[11:29] > 0.2).all()
    assert abs(levels[32:48].mean() - own) < 0.01
    assert (levels[51:74] > 0.2).all()
    assert seen(result.video_path)[0][50:54] == [48, 47, 46, 45]  # the video continues, backwards


def test_a_segment_before_all_speech_of_its_recording_is_refused(
    video: Path, tmp_path: Path, settings: Settings
) -> None:
    speech = beep(tmp_path / "a.wav", 0.5)
    with pytest.raises(InvalidField, match=r"segments\.0\.audio_start_s is 0\.6"):
        make(video, tmp_path, settings, segment(speech, audio_start_s=0.6))
    with pytest.raises(InvalidField, match=r"segments\.0\.start_s is 3"):
        make(video, tmp_path, settings, segment(speech, start_s=3.0), sync_mode=SyncMode.CUT_OFF)


def test_limits_hold_for_every_segment(video: Path, tmp_path: Path, settings: Settings) -> None:
    speech = beep(tmp_path / "a.wav", 0.5)
    short = settings.model_copy(update={"max_duration_s": 2.4})
    with pytest.raises(MediaTooLong, match=r"segments\.0 lasts longer than 2\.4 s"):
        make(video, tmp_path, short, segment(speech, start_s=2.0))
    with pytest.raises(AudioTooShort, match=r"segments\.0\.audio_url"):
        make(video, tmp_path, settings, segment(beep(tmp_path / "b.wav", 0.01)))
