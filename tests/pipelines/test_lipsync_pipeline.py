"""The LatentSync engine at a tiny size: real networks and threads, pictures without meaning."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from latentsync import runner
from latentsync.config import read_config
from latentsync.errors import (
    Canceled,
    DiskFull,
    InvalidField,
    NoFace,
    NumericalFailure,
    OutOfDeviceMemory,
    WeightsMissing,
)
from latentsync.face.speaker import Choice
from latentsync.formats import SAMPLE_RATE, VIDEO_FPS, Frame, Waveform
from latentsync.models.config import LatentSyncConfig
from latentsync.monitor import Progress, RunMonitor
from latentsync.pipelines.base import ENGINE_OPTIONS, Utterance
from latentsync.pipelines.lipsync import face_generator
from latentsync.pipelines.lipsync.face_finder import FoundSpeakers, ReadFrames
from latentsync.pipelines.lipsync.face_generator import LatentCache, LipsyncNetworks
from latentsync.pipelines.lipsync.windows import Window
from latentsync.pipelines.lipsync_pipeline import LipsyncPipeline, _Steps
from latentsync.pipelines.registry import build_pipeline
from latentsync.schema.fields import Speaker, SpeakerPoint
from latentsync.schema.run import PathSource, RunOptions, RunRequest
from latentsync.settings import Settings
from tests.demo_media import DEMO_AUDIO, DEMO_VIDEO, FramesInMemory
from tests.pipelines.lipsync.tiny import tiny_config, tiny_networks
from tests.utterances import whole

QUICK = RunOptions(inference_steps=1, guidance_scale=1.5)
SHORT_WINDOWS = tiny_config(num_frames=4)
POINTS = np.array([[78, 50], [102, 50], [90, 62]], np.float64)


class KnownPlace:
    """Finds the face where the test put it; no face in the frames of ``missing``."""

    def __init__(self, *missing: int) -> None:
        self._missing = missing

    def find(self, read: ReadFrames, num_frames: int, choices: Sequence[Choice]) -> FoundSpeakers:
        points = np.stack([POINTS + frame % 3 for frame, _ in enumerate(read())])
        assert len(points) == num_frames
        points[[frame for frame in self._missing if frame < num_frames]] = np.nan
        if np.isnan(points).all():
            raise NoFace("No usable face.")
        return FoundSpeakers(len(choices) * [0], {0: points}, faces_found=1)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> LipsyncNetworks:
    torch.set_num_threads(1)
    return tiny_networks(tmp_path_factory.mktemp("networks"), SHORT_WINDOWS)


def frames(count: int) -> list[Frame]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (120, 160, 3), np.uint8) for _ in range(count)]


def speech(num_frames: int, seed: int = 1) -> Waveform:
    samples = np.random.default_rng(seed).normal(0, 0.1, num_frames * SAMPLE_RATE // VIDEO_FPS)
    return samples.astype(np.float32)


def run(
    pipeline: LipsyncPipeline,
    source: list[Frame],
    indices: NDArray[np.int64] | None = None,
    *,
    options: RunOptions = QUICK,
    monitor: RunMonitor | None = None,
    waveform: Waveform | None = None,
    speaker: Speaker = "auto",
) -> tuple[list[Frame], Any]:
    indices = np.arange(len(source)) if indices is None else indices
    generation = pipeline(
        FramesInMemory(source),
        whole(speech(len(indices)) if waveform is None else waveform, indices.size, speaker),
        frame_indices=indices,
        options=options,
        monitor=monitor or RunMonitor(),
    )
    made = list(generation.frames)
    return made, generation.report


def differs(one: list[Frame], other: list[Frame]) -> int:
    assert len(one) == len(other)
    pairs = zip(one, other, strict=True)
    return max(int(np.abs(a.astype(int) - b.astype(int)).max()) for a, b in pairs)


def test_every_frame_comes_out_changed_at_the_face_and_nowhere_else(
    networks: LipsyncNetworks,
) -> None:
    source = frames(5)
    made, report = run(LipsyncPipeline(networks, KnownPlace()), source)
    assert len(made) == 5
    assert (report.faces_found, report.frames_without_face) == (1, 0)
    for before, after in zip(source, made, strict=True):
        changed = np.any(before != after, axis=2)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        assert changed.any()
        assert 30 < rows.min() < rows.max() < 110
        assert 60 < columns.min() < columns.max() < 120
        assert after.dtype == np.uint8


@pytest.fixture(scope="module")
def nine(networks: LipsyncNetworks) -> list[Frame]:
    """What becomes of nine frames, two whole windows and a short one, window by window."""
    return run(LipsyncPipeline(networks, KnownPlace()), frames(9))[0]


@pytest.mark.parametrize("batch_windows", [2, 3, 16])
def test_the_result_does_not_depend_on_the_batch_size(
    networks: LipsyncNetworks, nine: list[Frame], batch_windows: int
) -> None:
    source = frames(9)
    together, _ = run(LipsyncPipeline(networks, KnownPlace(), batch_windows=batch_windows), source)
    assert differs(together, nine) <= 1


def test_the_same_seed_gives_the_same_video_and_another_one_does_not(
    networks: LipsyncNetworks,
) -> None:
    pipeline, source = LipsyncPipeline(networks, KnownPlace()), frames(3)
    first, _ = run(pipeline, source)
    assert differs(run(pipeline, source)[0], first) == 0
    assert (
        differs(run(pipeline, source, options=QUICK.model_copy(update={"seed": 7}))[0], first) > 10
    )


def test_other_speech_gives_other_lips(networks: LipsyncNetworks) -> None:
    pipeline, source = LipsyncPipeline(networks, KnownPlace()), frames(3)
    one, _ = run(pipeline, source)
    other, _ = run(pipeline, source, waveform=speech(3, seed=9))
    assert differs(one, other) > 0


def test_frames_without_a_face_pass_through_and_leave_the_others_alone(
    networks: LipsyncNetworks,
) -> None:
    source = frames(7)
    made, report = run(LipsyncPipeline(networks, KnownPlace(2, 3)), source)
    assert report.frames_without_face == 2
    assert all(np.array_equal(made[frame], source[frame]) for frame in (2, 3))
    head, _ = run(LipsyncPipeline(networks, KnownPlace()), source[:2], waveform=speech(7))
    assert differs(made[:2], head) == 0
    assert all(np.any(made[frame] != source[frame]) for frame in range(4, 7))


def test_repeated_frames_are_encoded_once(networks: LipsyncNetworks) -> None:
    seen: list[int] = []
    hook = networks.vae.encoder.register_forward_hook(
        lambda _, inputs, __: seen.append(len(inputs[0]))
    )
    bounce = np.array([0, 1, 2, 2, 1, 0] * 2)
    made, _ = run(LipsyncPipeline(networks, KnownPlace()), frames(3), bounce)
    hook.remove()
    assert len(made) == 12
    assert sum(seen) == 6  # three frames, with the mouth hidden and whole


def test_repeated_frames_give_what_encoding_them_again_gives(
    networks: LipsyncNetworks, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounce = np.array([0, 1, 2, 2, 1, 0] * 2)
    pipeline, source = LipsyncPipeline(networks, KnownPlace()), frames(3)
    cached, _ = run(pipeline, source, bounce)
    monkeypatch.setattr(face_generator, "LatentCache", partial(LatentCache, most_bytes=0))
    assert differs(run(pipeline, source, bounce)[0], cached) <= 1


def test_progress_rises_and_counts_every_frame(networks: LipsyncNetworks) -> None:
    heard: list[Progress] = []
    monitor = RunMonitor(heard.append)
    run(LipsyncPipeline(networks, KnownPlace()), frames(5), monitor=monitor)
    fractions = [progress.fraction for progress in heard]
    assert fractions == sorted(fractions)
    assert heard[0].stage == "find_face"
    stages = {"find_face", "align", "listen", "encode", "denoise", "decode", "restore"}
    assert set(monitor.seconds) == {f"generate.{stage}" for stage in stages}


@pytest.mark.parametrize("stage", ["before", "within"])
def test_a_canceled_run_stops_at_once_and_leaves_no_thread(
    networks: LipsyncNetworks, stage: str
) -> None:
    canceled = Event()
    monitor = RunMonitor(canceled=canceled)
    unet_calls: list[int] = []

    def count(*_: object) -> None:
        unet_calls.append(1)
        canceled.set()

    hook = networks.unet.register_forward_hook(count)
    if stage == "before":
        canceled.set()
    with pytest.raises(Canceled):
        run(
            LipsyncPipeline(networks, KnownPlace()),
            frames(12),
            options=QUICK.model_copy(update={"inference_steps": 50}),
            monitor=monitor,
        )
    hook.remove()
    assert len(unet_calls) == (0 if stage == "before" else 1)
    assert pipeline_threads() == []


def pipeline_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name in ("read", "make")]


def test_closing_the_frames_stops_the_work(networks: LipsyncNetworks) -> None:
    generation = LipsyncPipeline(networks, KnownPlace())(
        FramesInMemory(frames(20)),
        whole(speech(20), 20),
        frame_indices=np.arange(20),
        options=QUICK,
        monitor=RunMonitor(),
    )
    next(generation.frames)
    close = generation.frames.close  # type: ignore[attr-defined]
    close()
    assert pipeline_threads() == []


def test_progress_goes_on_within_every_window(networks: LipsyncNetworks) -> None:
    heard: list[float] = []
    monitor = RunMonitor(lambda progress: heard.append(progress.fraction))
    windows = [Window(0, 4, has_face=True), Window(4, 8, has_face=True)]
    steps = _Steps(windows, 4, monitor, frames_before=0, frames_total=8)
    for _ in windows:
        with steps.of_windows(1):
            for step in range(4):
                steps.done(step)
                steps.report()
    assert heard == [1 / 8, 2 / 8, 3 / 8, 4 / 8, 5 / 8, 6 / 8, 7 / 8, 1.0]


def test_a_face_that_is_in_no_frame_shown_is_no_face(networks: LipsyncNetworks) -> None:
    elsewhere = SpeakerPoint(frame=5, point=(1, 1))
    with pytest.raises(NoFace, match="has no usable face in any frame"):
        run(
            LipsyncPipeline(networks, KnownPlace(0, 1, 2)),
            frames(6),
            np.arange(3),
            speaker=elsewhere,
        )


def test_a_full_disk_while_writing_stops_the_networks(
    networks: LipsyncNetworks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path, frames: Iterator[Frame], *_: object, **__: object) -> None:
        next(frames)
        raise DiskFull("There is no room left.")

    monkeypatch.setattr(runner, "write_video", full)
    sources = PathSource(DEMO_VIDEO, "video"), PathSource(DEMO_AUDIO, "audio")
    settings = Settings(work_dir=tmp_path, allowed_roots=(DEMO_VIDEO.parent,))
    gc.disable()  # nothing but the run itself may end its threads
    try:
        with pytest.raises(DiskFull):
            runner.run(
                RunRequest(*sources, QUICK),
                tmp_path / "out.mp4",
                settings=settings,
                pipeline=LipsyncPipeline(networks, KnownPlace()),
            )
        assert pipeline_threads() == []
    finally:
        gc.enable()


def test_values_that_are_not_numbers_are_an_error_and_no_picture(tmp_path: Path) -> None:
    networks = tiny_networks(tmp_path, SHORT_WINDOWS)
    networks.vae.decoder.conv_out.bias[0] = float("nan")
    with pytest.raises(NumericalFailure, match="autoencoder returned values that are not finite"):
        run(LipsyncPipeline(networks, KnownPlace()), frames(2))
    networks.unet.conv_out.bias[0] = float("nan")
    with pytest.raises(NumericalFailure, match="float32"):
        run(LipsyncPipeline(networks, KnownPlace()), frames(2))


@pytest.mark.parametrize("part", ["decode_latents", "encode_moments", "denoise"])
def test_too_little_memory_makes_smaller_batches_and_the_same_video(
    networks: LipsyncNetworks, nine: list[Frame], monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    source = frames(9)
    pipeline = LipsyncPipeline(networks, KnownPlace(), batch_windows=2)
    real, refused = getattr(face_generator, part), []

    def short_of_memory(network: Any, inputs: Any, *more: Any) -> Any:
        count = len(inputs) if isinstance(inputs, torch.Tensor) else len(inputs.masked_latents)
        if count > (1 if part == "denoise" else 3):
            refused.append(count)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(network, inputs, *more)

    monkeypatch.setattr(face_generator, part, short_of_memory)
    made, _ = run(pipeline, source)
    assert refused
    assert differs(made, nine) <= 1


def test_no_memory_at_all_is_a_clear_error(
    networks: LipsyncNetworks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(face_generator, "denoise", no_memory)
    with pytest.raises(OutOfDeviceMemory, match="too small to denoise windows"):
        run(LipsyncPipeline(networks, KnownPlace()), frames(2))


def test_the_options_reach_the_sampler(networks: LipsyncNetworks) -> None:
    passes: list[int] = []
    hook = networks.unet.mid_block.register_forward_hook(
        lambda _, inputs, __: passes.append(len(inputs[0]))
    )
    options = RunOptions(inference_steps=6, feature_cache_interval=3, guidance_interval=(0.5, 1.0))
    run(LipsyncPipeline(networks, KnownPlace()), frames(2), options=options)
    assert passes == [2, 4]  # steps 0 and 3 run whole, the later one with guidance
    passes.clear()
    run(
        LipsyncPipeline(networks, KnownPlace()),
        frames(2),
        options=options.model_copy(
            update={"scheduler": "dpm-solver++", "feature_cache_interval": 1}
        ),
    )
    hook.remove()
    assert passes == [2, 2, 2, 4, 4, 4]


def test_no_face_is_said_before_anything_is_made(networks: LipsyncNetworks) -> None:
    with pytest.raises(NoFace):
        run(LipsyncPipeline(networks, KnownPlace(0, 1)), frames(2))


def test_a_speaker_beyond_the_video_is_refused(networks: LipsyncNetworks) -> None:
    beyond = SpeakerPoint(frame=9, point=(1, 1))
    with pytest.raises(InvalidField, match="frame is 9, but the video has 2 frames"):
        run(LipsyncPipeline(networks, KnownPlace()), frames(2), speaker=beyond)


def test_two_runs_at_once_give_what_each_gives_alone(networks: LipsyncNetworks) -> None:
    pipeline, source = LipsyncPipeline(networks, KnownPlace()), frames(5)
    wanted, _ = run(pipeline, source)
    results: list[list[Frame]] = []
    threads = [
        threading.Thread(target=lambda: results.append(run(pipeline, source)[0])) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [differs(result, wanted) for result in results] == [0, 0]


class TwoPlaces:
    """Finds a face at each of two places: the first one for "auto", the other for a point."""

    def find(self, read: ReadFrames, num_frames: int, choices: Sequence[Choice]) -> FoundSpeakers:
        faces = [int(choice.speaker != "auto") for choice in choices]
        shifts = np.array([[-40, 0], [40, 0]])
        points = {face: np.stack(num_frames * [POINTS + shifts[face]]) for face in faces}
        return FoundSpeakers(faces, points, faces_found=2)


OTHER = SpeakerPoint(frame=0, point=(1, 1))


def said(start: int, stop: int, speaker: Speaker = "auto", seed: int = 1) -> Utterance:
    return Utterance(speech(stop - start, seed), start, stop, speaker)


def sing(
    networks: LipsyncNetworks,
    source: list[Frame],
    *utterances: Utterance,
    monitor: RunMonitor | None = None,
) -> list[Frame]:
    generation = LipsyncPipeline(networks, TwoPlaces())(
        FramesInMemory(source),
        utterances,
        frame_indices=np.arange(len(source)),
        options=QUICK,
        monitor=monitor or RunMonitor(),
    )
    return list(generation.frames)


def test_two_people_who_speak_at_once_get_what_each_gets_alone(networks: LipsyncNetworks) -> None:
    source = [np.tile(frame, (1, 2, 1))[:, :240] for frame in frames(9)]
    one, other = said(0, 9), said(0, 9, OTHER, seed=2)
    together = sing(networks, source, one, other)
    alone, again = sing(networks, source, one), sing(networks, source, other)
    for before, both, first, second in zip(source, together, alone, again, strict=True):
        assert np.any(first != before)
        assert np.any(second != before)
        assert not np.any((first != before) & (second != before))  # faces lie apart
        assert np.array_equal(both, np.where(first != before, first, second))


def test_each_utterance_is_made_as_if_it_were_alone(networks: LipsyncNetworks) -> None:
    source = frames(14)
    made = sing(networks, source, said(2, 7), said(9, 14, seed=4))
    assert differs([*made[:2], *made[7:9]], [*source[:2], *source[7:9]]) == 0
    alone = sing(networks, source[9:], said(0, 5, seed=4))
    assert differs(made[12:], alone[3:]) == 0  # behind the fade from the source's own lips


def test_progress_of_many_utterances_rises_and_never_starts_again(
    networks: LipsyncNetworks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "latentsync.pipelines.prefetch._WAIT_S", 0.001
    )  # every window is waited for
    heard: list[Progress] = []
    monitor = RunMonitor(heard.append)
    sing(networks, frames(12), said(0, 4), said(4, 8, OTHER), said(8, 12), monitor=monitor)
    reported = [progress.frames_done for progress in heard if progress.stage == "generate"]
    assert reported == sorted(reported)
    assert {progress.frames_total for progress in heard} == {12}


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert pipeline_threads() == []


def test_without_weights_and_network_the_error_says_what_is_missing_from_where(
    tmp_path: Path,
) -> None:
    settings = Settings(weights_dir=tmp_path, offline=True, fetch_vgg16=False)
    with pytest.raises(WeightsMissing) as caught:
        build_pipeline("latentsync-1.6", settings)
    for part in ("latentsync-1.6/unet", "latentsync_unet.pt", "ByteDance/LatentSync-1.6"):
        assert part in caught.value.message
    assert str(tmp_path) not in caught.value.message


def test_a_configuration_belongs_to_each_engine() -> None:
    for name, resolution in (("latentsync-1.5", 256), ("latentsync-1.6", 512)):
        config = read_config(name, LatentSyncConfig)
        assert (config.model_version, config.resolution) == (name, resolution)


def test_it_uses_every_option_that_is_an_engines_own() -> None:
    assert LipsyncPipeline.options_used == set(ENGINE_OPTIONS)
