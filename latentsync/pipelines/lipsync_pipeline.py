"""The LatentSync engine: lips made by diffusion from the sound of speech.

:meth:`LipsyncPipeline.__call__` is the whole way. Its steps are public and may be taken one by one:
``finder.find`` and ``align_speaker`` give the matrices, ``AudioFeatures`` what frames hear, and
:meth:`LipsyncPipeline.speak` turns them into :class:`SpokenWindow` after window, each with its
source frames, aligned faces, latents and finished faces; ``restore_face`` puts those back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from threading import Event, Lock

import numpy as np
from numpy.typing import NDArray

from latentsync.config import read_config
from latentsync.errors import Canceled
from latentsync.face.boxes import Floats
from latentsync.face.landmarks106 import Landmarks106
from latentsync.face.onnx import best_device
from latentsync.face.scrfd import ScrfdDetector
from latentsync.formats import Frame
from latentsync.models.config import LatentSyncConfig
from latentsync.models.sampling import SamplingOptions
from latentsync.monitor import RunMonitor
from latentsync.pipelines import compositing
from latentsync.pipelines.base import (
    ENGINE_OPTIONS,
    FrameSource,
    Generation,
    GenerationReport,
    Utterance,
)
from latentsync.pipelines.batching import give_large_blocks_back, translate_oom
from latentsync.pipelines.lipsync import face_finder
from latentsync.pipelines.lipsync.audio_features import AudioFeatures
from latentsync.pipelines.lipsync.bilinear import cut_face
from latentsync.pipelines.lipsync.face_generator import (
    FaceGenerator,
    GeneratedFaces,
    NetworkBatches,
    WindowFaces,
    timed_on_device,
)
from latentsync.pipelines.lipsync.networks import LipsyncNetworks, load_networks
from latentsync.pipelines.lipsync.paste_back import restore_face
from latentsync.pipelines.lipsync.windows import (
    Noise,
    SeededNoise,
    Window,
    cut_windows,
    group_windows,
)
from latentsync.pipelines.prefetch import Prefetcher
from latentsync.pipelines.requirements import choose_device, choose_dtype
from latentsync.schema.run import RunOptions
from latentsync.settings import Settings
from latentsync.weights.ensure import prepare


@dataclass(frozen=True, eq=False)
class SpokenWindow:
    """One window on its way back into the video; F frames.

    Attributes:
        window: which output frames.
        source_indices: int64 (F,), which source frames.
        frames: the source frames, each H,W,3 uint8 RGB.
        matrices: float32 (F,2,3), from the frames to the aligned faces.
        faces: (F,R,R,3) uint8, the aligned faces before; None without a face.
        made: the faces after, and their latents; None without a face.
    """

    window: Window
    source_indices: NDArray[np.int64]
    frames: list[Frame]
    matrices: face_finder.Matrices
    faces: NDArray[np.uint8] | None = None
    made: GeneratedFaces | None = None


class LipsyncPipeline:
    """One LatentSync version. Built once; one run at a time makes best use of a device.

    Args:
        networks: the version's, loaded.
        finder: finds the speaker's face.
        batch_windows: windows of 16 frames that go through the network at once; the result does
            not depend on it.
    """

    options_used: Collection[str] = frozenset(ENGINE_OPTIONS)

    def __init__(
        self,
        networks: LipsyncNetworks,
        finder: face_finder.SpeakerFinder,
        *,
        batch_windows: int = 1,
    ) -> None:
        give_large_blocks_back()
        self._networks = networks
        self._finder = finder
        self._batch_windows = batch_windows
        self._batches = NetworkBatches(batch_windows)
        self._turn = Lock()
        self.name = self.model_version = networks.config.model_version

    def __call__(
        self,
        source: FrameSource,
        utterances: Sequence[Utterance],
        *,
        frame_indices: NDArray[np.int64],
        options: RunOptions,
        monitor: RunMonitor,
    ) -> Generation:
        """Make the lips say ``utterances``; see :class:`latentsync.pipelines.base.Pipeline`."""
        report = GenerationReport()
        # 1. Find the speakers in every source frame that is needed, and align their faces
        with monitor.timed("generate.find_face"):
            faces, aligned = self._align(source, frame_indices, utterances, monitor, report)
        matrices = [aligned[face] for face in faces]
        present = [np.isfinite(of_face[:, 0, 0]) for of_face in matrices]
        compositing.check_seen(utterances, frame_indices, present)
        compositing.check_mouths(utterances, faces)

        def begin(number: int) -> compositing.Touches:
            """Begin an utterance; see :func:`latentsync.pipelines.compositing.composite`."""
            one = utterances[number]
            num_frames = one.stop - one.start
            # 2. Listen: features come window by window, as they are needed
            hearing = AudioFeatures(one.waveform, self._networks.audio_encoder, num_frames)
            # 3. Make the speaking faces, window by window
            spoken = self.speak(
                source,
                hearing,
                matrices[number],
                frame_indices=frame_indices[one.start : one.stop],
                noise=self._draw_noise(options.seed),
                options=_sampling_options(options),
                monitor=monitor,
                frames_before=one.start,
                frames_total=len(frame_indices),
            )
            return _edits(spoken, monitor)

        # 4. Put them back, frame by frame as they are taken
        frames = compositing.composite(source, frame_indices, utterances, faces, begin, report)
        return Generation(frames, report)

    def speak(
        self,
        source: FrameSource,
        hearing: AudioFeatures,
        matrices: face_finder.Matrices,
        *,
        frame_indices: NDArray[np.int64],
        noise: Noise,
        options: SamplingOptions,
        monitor: RunMonitor,
        frames_before: int = 0,
        frames_total: int | None = None,
    ) -> Generator[SpokenWindow, None, None]:
        """Yield the windows of a video in order, with speaking faces.

        Reading, the networks and the caller work side by side, one group of windows ahead of each
        other. Close the generator to stop them.

        Args:
            source: the source video.
            hearing: what every output frame hears.
            matrices: float32 (source frames,2,3) from :func:`align_speaker`; NaN without a face.
            frame_indices: int64 (frames,), the source frame of every output frame.
            noise: random numbers.
            options: of the sampler.
            monitor: progress, stage seconds, cancellation.
            frames_before: frames of the output before these, for progress.
            frames_total: frames of the whole output; None: these are all.
        """
        has_face = np.isfinite(matrices[frame_indices, 0, 0])
        windows = list(cut_windows(has_face, self._networks.config.num_frames))
        maker = FaceGenerator(
            self._networks,
            options,
            noise.initial,
            frame_indices[has_face],
            batches=self._batches,
            monitor=monitor,
        )
        steps = _Steps(
            windows,
            options.num_inference_steps,
            monitor,
            frames_before,
            frames_total or len(frame_indices),
        )
        read = self._read(source, windows, matrices, frame_indices, monitor)
        left, wait = steps.left, steps.report
        with (
            Prefetcher(read, name="read", left=left) as groups,
            Prefetcher(
                self._make(groups, hearing, noise, maker, steps),
                name="make",
                left=left,
                while_waiting=wait,
            ) as spoken_groups,
        ):
            for group in spoken_groups:
                yield from group
                steps.frames_taken = group[-1].window.stop

    def _align(
        self,
        source: FrameSource,
        frame_indices: NDArray[np.int64],
        utterances: Sequence[Utterance],
        monitor: RunMonitor,
        report: GenerationReport,
    ) -> tuple[list[int], dict[int, face_finder.Matrices]]:
        """Return the face of each utterance's speaker by number, and the maps of each face."""
        choices = compositing.choices_of(utterances, source.num_frames)
        num_frames = compositing.num_frames_searched(frame_indices, utterances, source.num_frames)
        read = _reporting(source, num_frames, monitor)
        found = self._finder.find(read, num_frames, choices)
        report.faces_found = found.faces_found
        resolution = self._networks.config.resolution
        aligned = {
            face: face_finder.align_speaker(found.points[face], resolution) for face in found.points
        }
        return found.faces, aligned

    def _draw_noise(self, seed: int) -> SeededNoise:
        unet = self._networks.unet
        side = self._networks.config.resolution // 8
        return SeededNoise(seed, side, unet.device, unet.dtype)

    def _read(
        self,
        source: FrameSource,
        windows: list[Window],
        matrices: face_finder.Matrices,
        frame_indices: NDArray[np.int64],
        monitor: RunMonitor,
    ) -> Iterator[list[SpokenWindow]]:
        """Yield groups of windows with their frames and aligned faces."""
        resolution = self._networks.config.resolution
        frames = source.read(frame_indices)
        for group in group_windows(windows, self._batch_windows):
            read = []
            for window in group:
                indices = frame_indices[window.start : window.stop]
                taken, maps = list(islice(frames, len(window))), matrices[indices]
                faces = None
                if window.has_face:
                    with monitor.timed("generate.align"):
                        pairs = zip(taken, maps, strict=True)
                        faces = np.stack([cut_face(*pair, resolution) for pair in pairs])
                read.append(SpokenWindow(window, indices, taken, maps, faces))
            yield read

    def _make(
        self,
        groups: Iterable[list[SpokenWindow]],
        hearing: AudioFeatures,
        noise: Noise,
        maker: FaceGenerator,
        steps: _Steps,
    ) -> Iterator[list[SpokenWindow]]:
        """Yield the groups with their faces speaking."""
        device = self._networks.unet.device
        for group in groups:
            inputs = []
            with timed_on_device(steps.monitor, "generate.listen", device):
                for spoken in group:
                    if spoken.faces is not None:
                        with translate_oom("listen"):
                            inputs.append(_inputs(spoken, spoken.faces, hearing, noise))
            if not inputs:  # frames without a face are grouped by themselves
                yield group
                continue
            # People who speak at once take turns: two windows at once would need twice the memory.
            with self._turn, steps.of_windows(len(group)), translate_oom("make a window"):
                made = maker.make(inputs, steps.done)
            yield [replace(spoken, made=faces) for spoken, faces in zip(group, made, strict=True)]


class _Steps:
    """Counts denoising steps of a run, stops it, and tells the listener in the caller's thread."""

    def __init__(
        self,
        windows: list[Window],
        steps: int,
        monitor: RunMonitor,
        frames_before: int,
        frames_total: int,
    ) -> None:
        self.monitor = monitor
        self.left = Event()  # nobody takes frames any more
        self.frames_taken = 0
        self._made = 0  # windows
        self._making = 0  # windows; the share of their steps that is done:
        self._share = 0.0
        self._steps = steps
        self._windows = sum(window.has_face for window in windows)
        self._before, self._here, self._total = frames_before, windows[-1].stop, frames_total

    def done(self, step: int) -> None:
        """Note that a step is done; raises Canceled or DeadlineExceeded if the run must stop."""
        self._share = (step + 1) / self._steps
        self.monitor.check()
        if self.left.is_set():
            raise Canceled("Nobody takes the frames any more.")

    @contextmanager
    def of_windows(self, count: int) -> Iterator[None]:
        """Count the steps inside the block as those of so many windows together."""
        self._making = count
        yield
        self._making, self._share = 0, 0.0
        self._made += count

    def report(self) -> None:
        """Tell the listener how far the windows are."""
        share = (self._made + self._making * self._share) / max(1, self._windows)
        fraction = (self._before + min(share, 1.0) * self._here) / self._total
        taken = self._before + self.frames_taken
        self.monitor.report("generate", fraction, taken, self._total)


def build_lipsync(name: str, settings: Settings, check: Callable[[], None]) -> LipsyncPipeline:
    """Build the LatentSync version called ``name``: fetch what is missing, load the networks.

    Args:
        name: ``latentsync-1.5`` or ``latentsync-1.6``.
        settings: device, type of numbers, weights, landmarks.
        check: called while weights are fetched; may raise to stop.

    Raises:
        EngineUnavailable: packages, device or weights are missing, or a file is not what it must
            be.
        OutOfDeviceMemory: the networks do not fit beside what the device holds already.
    """
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    config = read_config(name, LatentSyncConfig)
    files = prepare(name, settings, check=check)
    with translate_oom(f"hold the networks of {name}"):
        networks = load_networks(
            config,
            unet_path=files[f"{name}/unet"],
            vae_path=files["sd-vae-ft-mse"],
            whisper_path=files["whisper-tiny"],
            device=device,
            dtype=dtype,
        )
    finder: face_finder.SpeakerFinder = face_finder.MeshFinder()
    if settings.face_landmarks == "insightface":
        place, true_colors = best_device(str(device)), settings.true_face_colors
        finder = face_finder.InsightFaceFinder(
            ScrfdDetector.from_file(files["face-detector"], device=place, true_colors=true_colors),
            Landmarks106.from_file(files["face-landmarks"], device=place, true_colors=true_colors),
        )
    return LipsyncPipeline(networks, finder, batch_windows=settings.batch_windows)


def _inputs(
    spoken: SpokenWindow, faces: NDArray[np.uint8], hearing: AudioFeatures, noise: Noise
) -> WindowFaces:
    window = spoken.window
    return WindowFaces(
        faces,
        spoken.source_indices,
        hearing.slices(window.start, window.stop),
        *noise.posterior(window.start, window.stop),
    )


def _sampling_options(options: RunOptions) -> SamplingOptions:
    return SamplingOptions(
        num_inference_steps=options.inference_steps,
        guidance_scale=options.guidance_scale,
        scheduler=options.scheduler,
        cache_interval=options.feature_cache_interval,
        guidance_interval=options.guidance_interval,
    )


def _reporting(source: FrameSource, num_frames: int, monitor: RunMonitor) -> face_finder.ReadFrames:
    """Return what reads the first frames, telling the listener how many have been searched."""

    def read() -> Iterator[Frame]:
        for index, frame in enumerate(source.read(range(num_frames))):
            monitor.report("find_face", (index + 1) / num_frames, index + 1, num_frames)
            yield frame

    return read


def _edits(
    spoken_windows: Generator[SpokenWindow, None, None], monitor: RunMonitor
) -> compositing.Touches:
    """Yield what the windows do to each of their frames."""
    with closing(spoken_windows):
        for spoken in spoken_windows:
            if spoken.made is None:
                yield from (compositing.FrameEdit(frame, None) for frame in spoken.frames)
                continue
            for frame, face, matrix in zip(
                spoken.frames, spoken.made.faces, spoken.matrices, strict=True
            ):
                yield compositing.FrameEdit(
                    frame, partial(_restore, face=face, matrix=matrix, monitor=monitor)
                )


def _restore(frame: Frame, *, face: Floats, matrix: Floats, monitor: RunMonitor) -> Frame:
    with monitor.timed("generate.restore"):
        return restore_face(frame, face, matrix)
