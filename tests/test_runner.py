from __future__ import annotations

import base64
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from latentsync import errors
from latentsync.formats import SAMPLE_RATE, VIDEO_FPS, Frame, Waveform
from latentsync.media.probe import Probes, probe_audio, probe_video
from latentsync.monitor import Progress, RunMonitor
from latentsync.pipelines.base import (
    ENGINE_OPTIONS,
    FrameSource,
    Generation,
    GenerationReport,
    Utterance,
)
from latentsync.runner import Result, run
from latentsync.schema.fields import SyncMode
from latentsync.schema.responses import RunWarning, WarningCode
from latentsync.schema.run import InlineSource, PathSource, RunOptions, RunRequest
from latentsync.settings import Settings
from tests.media.makers import make_sound, make_video, read_number, tone


class LoudnessPipeline:
    """A small engine: the lower half of the picture is white while the sound is loud."""

    name = "loudness"
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
        report = GenerationReport(faces_found=1)
        (one,) = utterances
        return Generation(self._frames(source, one.waveform, frame_indices, report), report)

    def _frames(
        self,
        source: FrameSource,
        waveform: Waveform,
        indices: NDArray[np.int64],
        report: GenerationReport,
    ) -> Iterator[Frame]:
        step = SAMPLE_RATE // VIDEO_FPS
        for slot, frame in enumerate(source.read(indices.tolist())):
            heard = waveform[slot * step : (slot + 1) * step]
            is_loud = heard.size > 0 and np.abs(heard).mean() > 0.1
            frame[frame.shape[0] // 2 :] = 255 if is_loud else 0
            report.frames_without_face += not is_loud
            yield frame


class BrokenPipeline(LoudnessPipeline):
    """Fails after three frames."""

    def __call__(self, *arguments: object, **options: object) -> Generation:
        whole = super().__call__(*arguments, **options)  # type: ignore[arg-type]

        def frames() -> Iterator[Frame]:
            for _ in range(3):
                yield next(whole.frames)
            raise ZeroDivisionError("a defect")

        return Generation(frames(), whole.report)


def beeps(duration_s: float, sample_rate: int, channels: int = 1) -> np.ndarray:
    """Loud in every second half second."""
    samples = tone(duration_s, sample_rate, channels, hz=1000)
    moments = np.arange(samples.shape[1]) / sample_rate
    samples[:, (moments % 1.0) < 0.5] = 0
    return samples


def request(video: Path, audio: Path, **options: object) -> RunRequest:
    return RunRequest(
        PathSource(video, "video_path"),
        PathSource(audio, "audio_path"),
        RunOptions(**options),  # type: ignore[arg-type]
    )


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return make_video(tmp_path / "in.mp4", 20, size=(96, 64))


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    return make_sound(tmp_path / "in.wav", beeps(2, 16_000))


def run_it(
    video: Path, audio: Path, tmp_path: Path, settings: Settings, **options: object
) -> Result:
    return run(
        request(video, audio, **options),
        tmp_path / "out" / "result.mp4",
        settings=settings,
        pipeline=LoudnessPipeline(),
    )


def shown(path: Path) -> tuple[list[int], list[bool]]:
    """Return the source frame number and whether the lower half is white, per frame."""
    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    numbers = [read_number(picture[: picture.shape[0] // 2 - 4]) for picture in pictures]
    return numbers, [bool(p[p.shape[0] // 2 + 4 :].mean() > 128) for p in pictures]


def heard(path: Path) -> list[bool]:
    """Return whether the sound is loud in the middle of each frame."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        packer = av.AudioResampler("flt", "mono", stream.rate)
        parts = [p.to_ndarray()[0] for f in container.decode(stream) for p in packer.resample(f)]
        frames = round(float(stream.duration * stream.time_base) * 25)
        rate = stream.rate
    samples = np.abs(np.concatenate(parts))
    middles = [int((slot + 0.5) / 25 * rate) for slot in range(frames)]
    return [bool(samples[m - rate // 100 : m + rate // 100].mean() > 0.1) for m in middles]


@pytest.mark.parametrize(
    ("rate", "codec", "suffix", "layout"),
    [
        (16_000, "pcm_s16le", "wav", "mono"),
        (8_000, "pcm_u8", "wav", "mono"),
        (44_100, "libmp3lame", "mp3", "stereo"),
        (48_000, "pcm_s24le", "wav", "5.1"),
        (48_000, "aac", "m4a", "mono"),
    ],
)
def test_picture_and_sound_stay_in_step_from_end_to_end(
    tmp_path: Path,
    settings: Settings,
    video: Path,
    rate: int,
    codec: str,
    suffix: str,
    layout: str,
) -> None:
    channels = av.AudioLayout(layout).nb_channels
    audio = make_sound(
        tmp_path / f"a.{suffix}", beeps(3, rate, channels), rate, codec=codec, layout=layout
    )
    result = run_it(video, audio, tmp_path, settings)
    numbers, white = shown(result.video_path)
    loud = heard(result.video_path)
    assert 75 <= len(numbers) <= 77
    assert len(loud) == len(white)
    edges = {0, 12, 13, 25, 37, 38, 50, 62, 63, 75, 76}  # frames in which the loudness changes
    for slot in set(range(75)) - edges:
        assert white[slot] == loud[slot] == (slot % 25 > 12), slot
    assert numbers[:41] == [*range(20), *range(18, -1, -1), 1, 2]


@pytest.mark.parametrize(
    ("mode", "frames"),
    [
        (SyncMode.BOUNCE, 50),
        (SyncMode.LOOP, 50),
        (SyncMode.CUT_OFF, 20),
        (SyncMode.SILENCE, 50),
        (SyncMode.REMAP, 50),
    ],
)
def test_every_way_of_matching_lengths_gives_its_length(
    tmp_path: Path, settings: Settings, video: Path, audio: Path, mode: SyncMode, frames: int
) -> None:
    result = run_it(video, audio, tmp_path, settings, sync_mode=mode)
    assert result.details.frames == frames
    assert result.details.duration_s == frames / 25
    numbers, _ = shown(result.video_path)
    assert len(numbers) == frames
    assert numbers[-1] == {"bounce": 11, "loop": 9}.get(mode, 19)


def test_a_longer_video_goes_on_in_silence(tmp_path: Path, settings: Settings, audio: Path) -> None:
    video = make_video(tmp_path / "long.mp4", 80, size=(96, 64))
    result = run_it(video, audio, tmp_path, settings, sync_mode=SyncMode.SILENCE)
    assert result.details.frames == 80
    assert not any(heard(result.video_path)[52:])


def test_options_that_the_engine_did_not_use_are_null(
    tmp_path: Path, settings: Settings, video: Path, audio: Path
) -> None:
    class Random(LoudnessPipeline):
        options_used = frozenset({"seed"})

    requested = request(video, audio, seed=7, sync_mode=SyncMode.LOOP)
    result = run(requested, tmp_path / "result.mp4", settings=settings, pipeline=Random())
    details = result.details.model_dump(mode="json")
    assert [details[name] for name in ENGINE_OPTIONS] == [None, None, 7, None, None, None]
    assert details["sync_mode"] == "loop"


def test_the_details_tell_how_the_result_was_made(
    tmp_path: Path, settings: Settings, audio: Path
) -> None:
    video = make_video(tmp_path / "odd.mkv", 20, size=(97, 65), codec="ffv1", pix_fmt="yuv444p")
    result = run_it(video, audio, tmp_path, settings, seed=7, inference_steps=3)
    details = result.details
    assert (details.engine, details.model_version) == ("loudness", "1")
    assert (details.seed, details.inference_steps, details.guidance_scale) == (7, 3, 1.5)
    assert (details.width, details.height, details.fps) == (98, 66, 25.0)
    assert details.faces_found == 1
    assert details.frames_without_face == 24  # the quiet ones
    assert set(details.seconds) == {"fetch", "probe", "read", "generate", "write"}
    assert all(seconds >= 0 for seconds in details.seconds.values())
    with av.open(str(result.video_path)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (98, 66)


def test_progress_rises_to_one_and_every_stage_is_logged_once(
    tmp_path: Path,
    settings: Settings,
    video: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[Progress] = []
    loud = make_sound(tmp_path / "loud.wav", tone(2, 16_000))  # no frame is without a face
    with caplog.at_level(logging.INFO, "latentsync.runner"):
        run(
            request(video, loud),
            tmp_path / "o.mp4",
            settings=settings,
            pipeline=LoudnessPipeline(),
            on_progress=seen.append,
        )
    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert len(seen) >= 50
    assert (seen[-1].frames_done, seen[-1].frames_total) == (50, 50)
    stages = [record.getMessage().split(":")[0] for record in caplog.records]
    assert stages == ["fetch", "probe", "read", "generate", "write"]


def messages_of(caplog: pytest.LogCaptureFixture, stage: str) -> list[str]:
    """Return the messages of the run's log that begin with a stage or ``warning``."""
    parted = [record.getMessage().partition(": ") for record in caplog.records]
    return [message for name, _, message in parted if name == stage]


def test_warnings_are_in_the_details_and_once_in_the_log(
    tmp_path: Path, settings: Settings, audio: Path, caplog: pytest.LogCaptureFixture
) -> None:
    video = make_video(tmp_path / "odd.mkv", 20, size=(97, 65), codec="ffv1", pix_fmt="yuv444p")
    with caplog.at_level(logging.INFO, "latentsync.runner"):
        warnings = run_it(video, audio, tmp_path, settings).details.warnings
    assert [(warning.code, warning.message) for warning in warnings] == [
        (
            WarningCode.SIZE_ROUNDED,
            "video_path is 97x65 pixels; its frames were extended to 98x66, because H.264 needs "
            "even sides.",
        ),
        (
            WarningCode.FRAMES_WITHOUT_FACE,
            "video_path shows no usable face of the speaker in 24 of the result's 50 frames; the "
            "lips were left unchanged there.",
        ),
    ]
    assert messages_of(caplog, "warning") == [warning.message for warning in warnings]


def test_an_ordinary_run_has_no_warnings(tmp_path: Path, settings: Settings, video: Path) -> None:
    loud = make_sound(tmp_path / "loud.wav", tone(1, 16_000))
    assert run_it(video, loud, tmp_path, settings).details.warnings == []


def test_warnings_of_each_medium_are_passed_on_once(
    tmp_path: Path, settings: Settings, video: Path
) -> None:
    loud = make_sound(tmp_path / "loud.wav", tone(1, 16_000))
    seen = RunWarning(code=WarningCode.STREAM_CHOSEN, message="video_path has 2 streams.")
    heard = RunWarning(code=WarningCode.CHANNEL_CHOSEN, message="audio_path has one voice.")
    known = Probes(
        replace(probe_video(video, settings, "video_path"), warnings=(seen, seen)),
        {"audio": replace(probe_audio(loud, settings, "audio_path"), warnings=(heard,))},
    )
    result = run(
        request(video, loud),
        tmp_path / "o.mp4",
        settings=settings,
        pipeline=LoudnessPipeline(),
        probes=known,
    )
    assert result.details.warnings == [seen, heard]


def test_the_log_of_a_failed_run_has_the_warnings_of_its_media(
    tmp_path: Path, settings: Settings, audio: Path, caplog: pytest.LogCaptureFixture
) -> None:
    video = make_video(tmp_path / "odd.mkv", 20, size=(97, 64), codec="ffv1", pix_fmt="yuv444p")
    with (
        caplog.at_level(logging.INFO, "latentsync.runner"),
        pytest.raises(ZeroDivisionError),
    ):
        run(
            request(video, audio),
            tmp_path / "o.mp4",
            settings=settings,
            pipeline=BrokenPipeline(),
        )
    [said] = messages_of(caplog, "warning")
    assert "97x64 pixels" in said


def assert_nothing_left(tmp_path: Path, settings: Settings) -> None:
    assert not (tmp_path / "o.mp4").exists()
    assert [p for p in settings.work_dir.rglob("*") if p.name.startswith("r-")] == []


def test_inline_media_leaves_no_working_files(
    tmp_path: Path, settings: Settings, video: Path, audio: Path
) -> None:
    sources = (
        InlineSource(base64.b64encode(path.read_bytes()).decode(), name)
        for path, name in ((video, "video_base64"), (audio, "audio_base64"))
    )
    pipeline = LoudnessPipeline()
    result = run(RunRequest(*sources), tmp_path / "r.mp4", settings=settings, pipeline=pipeline)
    assert result.video_path.exists()
    assert_nothing_left(tmp_path, settings)


def test_canceling_stops_between_frames_and_leaves_nothing(
    tmp_path: Path, settings: Settings, video: Path, audio: Path
) -> None:
    canceled = Event()

    def cancel_at_ten(progress: Progress) -> None:
        if progress.frames_done == 10:
            canceled.set()
        assert progress.frames_done <= 10

    with pytest.raises(errors.Canceled):
        run(
            request(video, audio),
            tmp_path / "o.mp4",
            settings=settings,
            pipeline=LoudnessPipeline(),
            on_progress=cancel_at_ten,
            canceled=canceled,
        )
    assert_nothing_left(tmp_path, settings)


@pytest.mark.parametrize("by", ["request", "settings"])
def test_the_shorter_deadline_counts(
    tmp_path: Path, settings: Settings, video: Path, audio: Path, by: str
) -> None:
    deadlines = {"request": (1e-9, 900.0), "settings": (900.0, 1e-9)}[by]
    with pytest.raises(errors.DeadlineExceeded):
        run(
            request(video, audio, deadline_s=deadlines[0]),
            tmp_path / "o.mp4",
            settings=settings.model_copy(update={"deadline_s": deadlines[1]}),
            pipeline=LoudnessPipeline(),
        )
    assert_nothing_left(tmp_path, settings)


def test_a_defect_of_the_pipeline_passes_through_and_leaves_nothing(
    tmp_path: Path, settings: Settings, video: Path, audio: Path
) -> None:
    with pytest.raises(ZeroDivisionError, match="a defect"):
        run(
            request(video, audio),
            tmp_path / "o.mp4",
            settings=settings,
            pipeline=BrokenPipeline(),
        )
    assert_nothing_left(tmp_path, settings)


def test_errors_name_the_field_they_are_about(
    tmp_path: Path, settings: Settings, video: Path, audio: Path
) -> None:
    for wrong, error, field in (
        (request(audio, audio), errors.NoVideo, "video_path"),
        (request(video, video), errors.NoAudio, "audio_path"),
    ):
        with pytest.raises(error) as caught:
            run(wrong, tmp_path / "o.mp4", settings=settings, pipeline=LoudnessPipeline())
        assert caught.value.field == field
        assert str(tmp_path) not in caught.value.message
